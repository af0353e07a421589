"""ClientLimits on open connections, as tables."""

import pytest

from app.server.connection_limits import ConnectionLimits, connections_within


@pytest.mark.parametrize(
    ("descriptors", "connections"),
    [(0, 1), (320, 1), (326, 2), (1024, 234), (20_000, 6560), (1_048_576, 349_418)],
)
def test_connections_within_scales_with_descriptors(descriptors: int, connections: int) -> None:
    assert connections_within(descriptors) == connections


@pytest.mark.parametrize(
    ("first", "second", "is_admitted"),
    [
        ("192.0.2.1", "192.0.2.1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", False),
        ("192.0.2.1", "192.0.2.2", True),
        ("2001:db8::1", "2001:db8::2", False),
        ("2001:db8::1", "2001:db8:0:1::1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("::1", "::1", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("::ffff:10.1.2.3", "10.1.2.3", True),
        ("10.2.2.3", "10.2.2.3", False),
        ("fd00::5", "fd00::5", True),
        ("fe80::1%eth0", "fe80::1%eth0", False),
        ("", "", False),
    ],
)
def test_peer_is_admitted_once_unless_exempt(first: str, second: str, is_admitted: bool) -> None:
    limits = ConnectionLimits(per_peer=1, total=None, exempt=["10.1.0.0/16", "fd00::/8"])
    assert limits.acquire(first) is None
    assert (limits.acquire(second) is None) == is_admitted
    limits.release(first)
    if not is_admitted:
        assert limits.acquire(second) is None
    limits.release(second)
    assert not limits.open_by_peer
    assert limits.open_total == 0


def test_total_limit_has_no_exemption() -> None:
    limits = ConnectionLimits(per_peer=9, total=2, exempt=())
    assert [limits.acquire(address) for address in ("127.0.0.1", "192.0.2.1")] == [None, None]
    assert limits.acquire("127.0.0.1") == "Too many connections are open. Try again in a few seconds."
    limits.release("192.0.2.1")
    assert limits.acquire("127.0.0.1") is None
