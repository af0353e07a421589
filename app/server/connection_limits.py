"""Limits on open connections, per peer and in total. Pure."""

from collections import Counter
from collections.abc import Iterable

from app.http.addresses import LOOPBACK, address_matcher, client_network

RESERVED_DESCRIPTORS = 320
"""File descriptors reserved for databases, stored files (`storage.reopening` keeps 64) and the process."""

DESCRIPTORS_PER_CONNECTION = 3
"""A slow reader holds a socket, its duplicate in the event loop, and an open file."""


def connections_within(descriptors: int) -> int:
    """Return the number of connections that a process with this limit of descriptors can serve."""
    return max(1, (descriptors - RESERVED_DESCRIPTORS) // DESCRIPTORS_PER_CONNECTION)


class ConnectionLimits:
    """A counter of open connections; loopback and `exempt` networks (proxies) have no limit per peer."""

    def __init__(self, *, per_peer: int, total: int | None, exempt: Iterable[str]) -> None:
        self._per_peer = per_peer
        self._total = total
        self._is_exempt = address_matcher([*exempt, *LOOPBACK])
        self.open_by_peer: Counter[str] = Counter()
        self.open_total = 0

    def acquire(self, address: str) -> str | None:
        """Count a new connection and return None, or return the reason why it exceeds a limit."""
        if self._total is not None and self.open_total >= self._total:
            return "Too many connections are open. Try again in a few seconds."
        peer = client_network(address)
        if self.open_by_peer[peer] >= self._per_peer and not self._is_exempt(address):
            return f"At most {self._per_peer} connections of one address may be open. Close some."
        self.open_by_peer[peer] += 1
        self.open_total += 1
        return None

    def release(self, address: str) -> None:
        """Count the end of a connection that `acquire` counted."""
        peer = client_network(address)
        self.open_total -= 1
        self.open_by_peer[peer] -= 1
        if not self.open_by_peer[peer]:
            del self.open_by_peer[peer]
