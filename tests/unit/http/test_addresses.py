"""Addresses of peers and clients: which are this machine's, and which are one client's."""

import pytest

from app.http.addresses import address_matcher, client_network, is_loopback, is_loopback_host


def test_address_matches_when_a_network_contains_it() -> None:
    is_trusted = address_matcher(["127.0.0.1", "::1", "10.0.0.0/8", "2001:db8:1::/48"])
    for trusted in ("127.0.0.1", "10.255.0.1", "::1", "2001:db8:1::2", "::ffff:10.1.2.3"):
        assert is_trusted(trusted)
    for other in ("", "11.0.0.1", "127.0.0.2", "localhost", "10.0.0.1:80", "2001:db8:2::1", "1" * 10_000):
        assert not is_trusted(other)


def test_is_loopback_accepts_addresses_of_this_machine_alone() -> None:
    for near in ("127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1", "0:0:0:0:0:0:0:1"):
        assert is_loopback(near)
    for far in ("", "localhost", "[::1]", "0.0.0.0", "::", "128.0.0.1", "::2", "::ffff:10.0.0.1", "unknown"):
        assert not is_loopback(far)


def test_loopback_host_may_be_a_name_or_have_brackets() -> None:
    for near in ("localhost", "127.0.0.1", "::1", "[::1]"):
        assert is_loopback_host(near)
    for far in ("", "localhost.example.org", "0.0.0.0", "[::]", "nas.local"):
        assert not is_loopback_host(far)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
        ("", ""),
    ],
)
def test_client_network_groups_ipv6_addresses_by_64_bits(address: str, network: str) -> None:
    assert client_network(address) == network
