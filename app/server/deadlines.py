"""How long a client may keep a connection waiting, and for what. Pure: the server brings clock and counts."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Waiting(Enum):
    """What only the client can do next."""

    HEAD = "the rest of a request's head"
    BODY = "the next bytes of a request's body"
    REST = "the rest of a body that was refused"
    READER = "reading on"
    NEXT = "the next request"


class State(NamedTuple):
    """How far a connection is."""

    begun: bool
    """A request has begun whose end has not come."""
    head: bool
    """Its head has come."""
    answering: bool
    """A request waits for its answer, or for the rest of it."""
    reading: bool
    """The server takes what comes; not so while the program is busy with what came before."""
    unsent: bool
    """The client has not taken yet what it was sent."""
    new: bool
    """Nothing was ever asked."""


def waiting_for(state: State) -> Waiting | None:
    """What the client is waited for; None when it is the program's turn, or nobody's."""
    if state.unsent:
        return Waiting.READER
    if state.answering:
        return Waiting.BODY if state.begun and state.head and state.reading else None
    if state.begun:
        return Waiting.REST if state.head else Waiting.HEAD
    return Waiting.HEAD if state.new else Waiting.NEXT


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may cost. Times are in seconds."""

    head_size: int
    """Bytes of a request before its body."""
    head: float
    """From the first byte of a request to the end of its head; on a new connection from its beginning."""
    body: float
    """Without a byte of a body; and for all the rest of one that was refused."""
    body_rate: float
    """Bytes a second that a body has to come with, on average over `body` seconds."""
    reader: float
    """Without taking a byte of what it is sent."""
    idle: float
    """Between the end of an answer and the next request."""

    def of(self, waiting: Waiting) -> float:
        match waiting:  # asked for every connection, many times a second
            case Waiting.HEAD:
                return self.head
            case Waiting.BODY | Waiting.REST:
                return self.body
            case Waiting.READER:
                return self.reader
            case Waiting.NEXT:
                return self.idle


class Clock:
    """The time that the server looked: when it stood still for long, its clients were not slow."""

    def __init__(self) -> None:
        self._looked: float | None = None
        self._time = 0.0

    def time(self, now: float) -> float:
        """Seconds, which count up to one between two looks."""
        if self._looked is not None:
            self._time += min(now - self._looked, 1.0)
        self._looked = now
        return self._time


class Watch:
    """Since when one client has been waited for without progress."""

    def __init__(self) -> None:
        self._seen: tuple[Waiting, object] | None = None
        self._since = 0.0

    def is_over(self, waiting: Waiting | None, progress: object, limits: Limits, now: float) -> bool:
        """Whether the limit has passed. `progress` is anything that differs when the client did something
        that counts."""
        if waiting is None:
            self._seen = None
            return False
        if self._seen != (waiting, progress):
            self._seen = (waiting, progress)
            self._since = now
        return now - self._since >= limits.of(waiting)


class Pace:
    """How fast the body of one request comes while its client is waited for."""

    def __init__(self) -> None:
        self._request: object = None
        self._waited = 0.0
        self._begun_at = 0
        self._looked: float | None = None

    def is_too_slow(self, request: object, *, waits: bool, received: int, limits: Limits, now: float) -> bool:
        """Return whether less has come than the limits demand, in as many seconds of waiting as they name.

        `received` counts the bytes of the whole connection, `now` the seconds of a Clock. The time in which
        the server does not read is left out.
        """
        if request is not self._request:
            self._request, self._waited, self._begun_at, self._looked = request, 0.0, received, None
        if waits and self._looked is not None:
            self._waited += now - self._looked
        self._looked = now if waits else None
        if self._waited < limits.body:
            return False
        slow = received - self._begun_at < limits.body_rate * self._waited
        self._waited, self._begun_at = 0.0, received
        return slow
