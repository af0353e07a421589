"""How many connections may be open, of one peer and in all. Pure."""

import ipaddress
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from app.server.forwarded import LOOPBACK, trusting

RESERVED_DESCRIPTORS = 256
"""Descriptors that are kept for the databases, the folder and what the process opens by itself."""

DESCRIPTORS_PER_CONNECTION = 3
"""A reader that is slow has a socket, the duplicate that is watched for it, and an open file."""


def connections_within(descriptors: int) -> int:
    """Return how many connections a process may have that may open so many descriptors."""
    return max(1, (descriptors - RESERVED_DESCRIPTORS) // DESCRIPTORS_PER_CONNECTION)


class ConnectionLimits:
    """The open connections, counted by peer.

    `exempt` are networks whose peers have no limit of their own, such as those of proxies; loopback is
    always one.
    """

    def __init__(self, *, per_peer: int, in_all: int | None, exempt: Iterable[str]) -> None:
        self._per_peer = per_peer
        self._in_all = in_all
        self._is_exempt = trusting([*exempt, *LOOPBACK])
        self._open: Counter[str] = Counter()
        self._all = 0

    def enter(self, address: str) -> str | None:
        """Count a connection; return why there may be no more of them, and do not count it then."""
        if self._in_all is not None and self._all >= self._in_all:
            return "Too many connections are open."
        peer = peer_of(address)
        if self._open[peer] >= self._per_peer and not self._is_exempt(address):
            return f"At most {self._per_peer} connections of one address may be open."
        self._open[peer] += 1
        self._all += 1
        return None

    def leave(self, address: str) -> None:
        """Count the end of a connection that was counted."""
        peer = peer_of(address)
        self._all -= 1
        self._open[peer] -= 1
        if not self._open[peer]:
            del self._open[peer]


@lru_cache(1024)
def peer_of(address: str) -> str:
    """Return the addresses of one peer: of IPv6, all with the same first 64 bits (RFC 4291 §2.5.4)."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
