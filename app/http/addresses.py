"""IP addresses of peers and clients: loopback, networks, and the network that identifies a client. Pure."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

LOOPBACK = ("127.0.0.0/8", "::1")
"""The networks of this machine."""

MAX_ADDRESS = 64
"""Maximum length of an address, in characters."""

CLIENT_PREFIX = 64
"""Bits of an IPv6 address that identify a client: hosts choose the others themselves (RFC 4291 §2.5.4)."""

AddressMatcher = Callable[[str], bool]


def address_matcher(networks: Sequence[str]) -> AddressMatcher:
    """Return a function that returns whether an address is in one of these networks; False for other text."""
    # A partial of a module-level function: `--reload` pickles the configuration that contains it.
    return partial(_matches, tuple(networks))


def _matches(networks: tuple[str, ...], text: str) -> bool:
    return len(text) <= MAX_ADDRESS and _is_in_networks(networks, text)


@lru_cache(4096)
def _is_in_networks(networks: tuple[str, ...], text: str) -> bool:
    address = _parsed(text)
    return address is not None and any(address in network for network in _parsed_networks(networks))


@lru_cache
def _parsed_networks(networks: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(network) for network in networks)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address, without the IPv6 prefix of an IPv4 one; None if the text is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


is_loopback = address_matcher(LOOPBACK)


def is_loopback_host(host: str) -> bool:
    """Return whether a host is this machine: a loopback address, with or without brackets, or localhost."""
    return host == "localhost" or is_loopback(host.strip("[]"))


@lru_cache(1024)
def client_network(address: str) -> str:
    """Return the key by which to count a client: its IPv4 address, or its IPv6 network of 64 bits."""
    parsed = _parsed(address.partition("%")[0])
    if parsed is None:
        return address
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, CLIENT_PREFIX), strict=False))
    return str(parsed)
