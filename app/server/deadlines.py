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
