"""What is asked of the server and answered, counted where bytes come in and go out.

Written by the event loop alone, in the time of a few dictionary accesses a request: players ask for thousands
of short ranges, and to count them must not cost what answering them costs.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends of the times that are told apart, in seconds."""

STREAMS = frozenset({"/files/{path}", "/file/stream", "/stream/{id}"})
UPLOADS = frozenset({("POST", "/file/upload"), ("PUT", "/files/{path}")})
"""By their templates, what is the sending and the receiving of files."""


class Request(Protocol):
    """One request, from its head to the end of its answer."""

    @property
    def scope(self) -> Mapping[str, Any]:
        """Of ASGI; it names the route as soon as that is known."""

    @property
    def received(self) -> int:
        """Bytes of its body that the program has taken so far."""

    @property
    def sent(self) -> int:
        """Bytes of the answer's body so far."""


class Answers:
    """What became of all requests of one method and route with one status."""

    __slots__ = ("buckets", "count", "received", "sent", "waited")

    def __init__(self) -> None:
        self.count = self.received = self.sent = 0
        self.buckets = [0] * (len(BUCKETS) + 1)
        """How many began to be answered within each of BUCKETS, and not the one before; last, later."""
        self.waited = 0.0
        """Seconds until the first bytes of all of them together."""


class Requests:
    """All requests: those that are being answered, and what became of the others."""

    def __init__(self) -> None:
        self.running: set[Request] = set()
        self.answers: dict[tuple[str, str, int], Answers] = {}
        """By method, route and status; the route is empty where none was found, the status 0 where the client
        left before there was one."""

    def ended(self, request: Request, status: int, waited: float | None, sent: int) -> None:
        """Count one that ran. `waited` is the seconds until its answer's first bytes, if there were any."""
        self.running.discard(request)
        scope = request.scope
        route = scope.get("route")
        key = scope["method"], "" if route is None else route.path_format, status
        answers = self.answers.get(key) or self._of(*key)
        answers.count += 1
        answers.sent += sent
        if request.received:
            answers.received += request.received
        if waited is not None:
            answers.buckets[bisect_left(BUCKETS, waited)] += 1
            answers.waited += waited

    def refused(self, status: int) -> None:
        """Count one that the program never saw."""
        self._of("", "", status).count += 1

    def moved(self) -> dict[str, tuple[int, int]]:
        """Bytes of bodies that were received and sent, by route, until now."""
        found: dict[str, tuple[int, int]] = {}
        for route, received, sent in self._moved():
            before = found.get(route, (0, 0))
            found[route] = before[0] + received, before[1] + sent
        return found

    def _moved(self) -> Iterator[tuple[str, int, int]]:
        for (_, route, _), answers in self.answers.items():
            yield route, answers.received, answers.sent
        for request in self.running:
            yield route_of(request.scope), request.received, request.sent

    def transfers(self) -> tuple[int, int]:
        """How many files are being sent, and how many received."""
        running = [(request.scope["method"], route_of(request.scope)) for request in self.running]
        return (
            sum(method == "GET" and route in STREAMS for method, route in running),
            sum(each in UPLOADS for each in running),
        )

    def _of(self, method: str, route: str, status: int) -> Answers:
        answers = self.answers.get((method, route, status))
        if answers is None:
            answers = self.answers[method, route, status] = Answers()
        return answers


def route_of(scope: Mapping[str, Any]) -> str:
    """The template of the route that a request was for, never its path; empty where there is none (yet)."""
    route = scope.get("route")
    return "" if route is None else str(route.path_format)
