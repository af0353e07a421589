"""The rate limit on log records of malformed requests."""

import pytest

from app.server.refusal import MALFORMED_EVERY_S, LogThrottle, log_malformed_request


def test_recently_allows_one_record_a_second_for_each_peer() -> None:
    recently = LogThrottle()
    assert [recently.is_recent("a", now) for now in (10.0, 10.1, 10.9)] == [False, True, True]
    assert not recently.is_recent("b", 10.9)
    assert not recently.is_recent("a", 10.0 + MALFORMED_EVERY_S)
    assert recently.is_recent("a", 10.5 + MALFORMED_EVERY_S)


def test_recently_evicts_old_peers_beyond_the_maximum() -> None:
    recently = LogThrottle(max_peers=3)
    for peer in "abcd":
        assert not recently.is_recent(peer, 10.0)
    assert [recently.is_recent(peer, 10.0) for peer in "dcb"] == [True, True, True]
    assert not recently.is_recent("a", 10.0)


def test_record_names_no_socket_for_a_peer_without_an_address(caplog: pytest.LogCaptureFixture) -> None:
    log_malformed_request(None, "Invalid method")
    assert caplog.messages == ["A request from an unknown address could not be parsed: Invalid method"]
