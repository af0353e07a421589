"""Deadlines for slow clients: heads, bodies, reads, idle connections. Pure: callers pass time and counts."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class WaitingFor(Enum):
    """The next step of a connection, where only the client can make it."""

    HEAD = "the rest of a request's head"
    BODY = "the next bytes of a request's body"
    REST = "the rest of a body that was refused"
    READER = "reading on"
    NEXT = "the next request"


class ConnectionState(NamedTuple):
    """The state of a connection, as far as deadlines depend on it."""

    receiving: bool
    """The server has received the beginning of a request, but not its end."""
    head_complete: bool
    """Its head is complete."""
    responding: bool
    """A response has not been sent completely."""
    reading: bool
    """The server reads from the socket; it pauses while the application is behind."""
    unsent: bool
    """Data waits until the client reads."""
    new: bool
    """The client has sent no request yet."""


def awaited_step(state: ConnectionState) -> WaitingFor | None:
    """Return the step that only the client can make; None if the server has to act first."""
    if state.unsent:
        return WaitingFor.READER
    if state.responding:
        return WaitingFor.BODY if state.receiving and state.head_complete and state.reading else None
    if state.receiving:
        return WaitingFor.REST if state.head_complete else WaitingFor.HEAD
    return WaitingFor.HEAD if state.new else WaitingFor.NEXT


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Limits for one client, in bytes and seconds."""

    head_size: int
    """Maximum bytes of a request's head."""
    head: float
    """Seconds from the first byte of a request (or from the new connection) to the end of its head."""
    body: float
    """Seconds without a byte of a body; also for the rest of a refused body."""
    body_rate: float
    """Minimum bytes a second of a body, averaged over `body` seconds."""
    reader: float
    """Seconds in which a client may read no byte of a response."""
    idle: float
    """Seconds between the end of a response and the next request."""

    def seconds(self, step: WaitingFor) -> float:
        match step:  # called for every connection, several times a second
            case WaitingFor.HEAD:
                return self.head
            case WaitingFor.BODY | WaitingFor.REST:
                return self.body
            case WaitingFor.READER:
                return self.reader
            case WaitingFor.NEXT:
                return self.idle


class StallClock:
    """A clock that stops while the event loop is blocked, so that our stalls do not count against clients."""

    def __init__(self) -> None:
        self._last_tick: float | None = None
        self._time = 0.0

    def time(self, now: float) -> float:
        """Return the seconds so far; at most one second counts between two calls."""
        if self._last_tick is not None:
            self._time += min(now - self._last_tick, 1.0)
        self._last_tick = now
        return self._time


class StepTimer:
    """The time since one client last made progress."""

    __slots__ = ("_since", "_step")

    def __init__(self) -> None:
        self._step: tuple[WaitingFor, object] | None = None
        self._since = 0.0

    def has_expired(
        self, step: WaitingFor | None, progress: object, limits: ClientLimits, now: float
    ) -> bool:
        """Return whether the deadline has passed; `progress` changes when the client makes progress."""
        if step is None:
            self._step = None
            return False
        if self._step != (step, progress):
            self._step = (step, progress)
            self._since = now
        return now - self._since >= limits.seconds(step)


class BodyRate:
    """The rate at which the body of a request arrives, measured while the server reads."""

    __slots__ = ("_last_tick", "_request", "_start", "_waited")

    def __init__(self) -> None:
        self._request: object = None
        self._waited = 0.0
        self._start = 0
        self._last_tick: float | None = None

    def is_too_slow(
        self, request: object, *, waits: bool, received: int, limits: ClientLimits, now: float
    ) -> bool:
        """Return whether the body arrived more slowly than the limits demand.

        `received` counts the bytes of the whole connection, `now` is the time of a StallClock. Time in which
        the server does not read does not count.
        """
        if request != self._request:
            self._request, self._waited, self._start, self._last_tick = request, 0.0, received, None
        if waits and self._last_tick is not None:
            self._waited += now - self._last_tick
        self._last_tick = now if waits else None
        if self._waited < limits.body:
            return False
        slow = received - self._start < limits.body_rate * self._waited
        self._waited, self._start = 0.0, received
        return slow
