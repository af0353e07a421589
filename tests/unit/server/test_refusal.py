"""The rate limit on log records of malformed requests."""

import pytest

from app.server.refusal import MALFORMED_EVERY_S, MAX_PEERS, Recently, log_malformed


def test_recently_allows_one_record_a_second_for_each_peer() -> None:
    recently = Recently()
    assert [recently.has("a", now) for now in (10.0, 10.1, 10.9)] == [False, True, True]
    assert not recently.has("b", 10.9)
    assert not recently.has("a", 10.0 + MALFORMED_EVERY_S)
    assert recently.has("a", 10.5 + MALFORMED_EVERY_S)


def test_recently_evicts_old_peers_beyond_the_maximum() -> None:
    recently = Recently()
    for number in range(MAX_PEERS + 1):
        assert not recently.has(str(number), 10.0)
    assert recently.has(str(MAX_PEERS), 10.0)
    assert not recently.has("0", 10.0)
    assert len(recently._records) == MAX_PEERS


def test_record_names_no_socket_for_a_peer_without_an_address(caplog: pytest.LogCaptureFixture) -> None:
    log_malformed(None, "Invalid method")
    assert caplog.messages == ["A request from an unknown address could not be parsed: Invalid method"]
