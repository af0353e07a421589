"""Counters of requests and responses, updated where bytes are received and sent.

Used from the event loop only, at the cost of a few dictionary accesses a request: players send thousands of
short range requests, and counting one must not cost as much as answering it.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds of the histogram of first bytes."""

STREAMS = frozenset({"/files/{path}", "/file/stream", "/stream/{id}"})
"""Routes that send files."""

UPLOADS = frozenset({("POST", "/file/upload"), ("PUT", "/files/{path}")})
"""Methods and routes that receive files."""


class ActiveRequest(Protocol):
    """A request from the end of its head to the end of its response."""

    @property
    def scope(self) -> Mapping[str, Any]:
        """The scope of ASGI, with the route once that is known."""

    @property
    def received(self) -> int:
        """Bytes of the request's body that the application has read so far."""

    @property
    def sent(self) -> int:
        """Bytes of the response's body so far."""


class Totals:
    """The completed requests of one method, route and status."""

    __slots__ = ("buckets", "count", "first_bytes_s", "received", "sent")

    def __init__(self) -> None:
        self.count = self.received = self.sent = 0
        self.buckets = [0] * (len(BUCKETS) + 1)
        """First bytes sent within each of BUCKETS and not the one before; last, all later ones."""
        self.first_bytes_s = 0.0
        """The sum of the seconds to the first byte."""

    def add(self, first_byte_s: float | None, sent: int) -> None:
        """Count a response. `first_byte_s` is None if no byte of a body was sent."""
        self.count += 1
        self.sent += sent
        if first_byte_s is not None:
            self.buckets[bisect_left(BUCKETS, first_byte_s)] += 1
            self.first_bytes_s += first_byte_s


class RequestCounters:
    """All requests: the active ones, and totals of the completed ones."""

    def __init__(self) -> None:
        self.active: set[ActiveRequest] = set()
        self.repeated = 0
        """Responses that the server began without the application. The totals include them."""
        self.totals: dict[tuple[str, str, int], Totals] = {}
        """By method, route and status. The route is empty if none matched; the status is 0 if the client left
        before there was one."""

    def request_ended(
        self, request: ActiveRequest, status: int, first_byte_s: float | None, sent: int
    ) -> None:
        """Count an active request. `first_byte_s` is None if no byte of a body was sent."""
        self.active.discard(request)
        totals = self.totals_of(request.scope, status)
        totals.add(first_byte_s, sent)
        if request.received:
            totals.received += request.received

    def totals_of(self, scope: Mapping[str, Any], status: int) -> Totals:
        """Return the totals that requests with this method, route and status are added to, for ever."""
        route = scope.get("route")
        key = scope["method"], "" if route is None else route.path_format, status
        return self.totals.get(key) or self._add_totals(*key)

    def request_refused(self, status: int) -> None:
        """Count a request that the server answered without the application."""
        key = "", "", status
        totals = self.totals.get(key) or self._add_totals(*key)
        totals.count += 1

    def bytes_by_route(self) -> dict[str, tuple[int, int]]:
        """Return the bytes of bodies received and sent so far, by route."""
        sums: dict[str, tuple[int, int]] = {}
        for route, received, sent in self._all_bytes():
            before = sums.get(route, (0, 0))
            sums[route] = before[0] + received, before[1] + sent
        return sums

    def _all_bytes(self) -> Iterator[tuple[str, int, int]]:
        for (_, route, _), totals in self.totals.items():
            yield route, totals.received, totals.sent
        for request in self.active:
            yield route_of(request.scope), request.received, request.sent

    def count_transfers(self) -> tuple[int, int]:
        """Return how many files are being sent and how many received."""
        active = [(request.scope["method"], route_of(request.scope)) for request in self.active]
        return (
            sum(method == "GET" and route in STREAMS for method, route in active),
            sum(each in UPLOADS for each in active),
        )

    def _add_totals(self, method: str, route: str, status: int) -> Totals:
        totals = self.totals[method, route, status] = Totals()
        return totals


def route_of(scope: Mapping[str, Any]) -> str:
    """Return the template of the request's route, never its path; empty before one matched."""
    route = scope.get("route")
    return "" if route is None else str(route.path_format)
