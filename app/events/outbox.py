"""What waits for one connection: the rule for those who do not read, without I/O."""

from collections import deque
from enum import Enum, auto


class Offered(Enum):
    """What became of a message."""

    FIRST = auto()
    """It is kept, and nobody is sending: begin."""
    BEHIND = auto()
    """It is kept; whoever is sending will come to it."""
    OVERFLOW = auto()
    """One more than may wait. Nothing is kept any longer: close the connection."""
    IGNORED = auto()
    """It was closed before."""


class Outbox:
    """At most `limit` messages that wait behind the one that is being sent.

    A list with holes would tell a client less than a closed connection: after an overflow nothing is left.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[str] = deque()
        self._sending = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, text: str) -> Offered:
        """Keep a message for later, unless too many wait."""
        if self._closed:
            return Offered.IGNORED
        if len(self._waiting) >= self._limit:
            self.close()
            return Offered.OVERFLOW
        self._waiting.append(text)
        if self._sending:
            return Offered.BEHIND
        self._sending = True
        return Offered.FIRST

    def take(self) -> str | None:
        """The next one to send. None when there is none: the next offer is a FIRST again."""
        if self._waiting:
            return self._waiting.popleft()
        self._sending = False
        return None

    def close(self) -> None:
        """Forget what waits, and keep nothing more."""
        self._closed = True
        self._waiting.clear()
