"""How much of stored files may be in memory, for all who read them together."""

import time
from collections.abc import Callable
from typing import Protocol

IDLE_S = 0.5
"""For how long a client may keep a reader waiting before what it holds may be needed more by others."""


class Holder(Protocol):
    """One who holds bytes that can be had again."""

    def let_go(self) -> None:
        """Give back all that was not handed over. Called while it waits for its client."""


class Budget:
    """Bytes in memory: those that are being fetched, those at hand, and those lent to the server, which has
    to keep them until a client takes them.

    Nobody waits for it, so that nobody can wait for ever: who is refused makes do with the least. For that,
    whoever has waited longest for a client lets go of what it holds. What is lent cannot be had back, so it
    is half of all at most.
    """

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._waiting: dict[Holder, float] = {}  # since when, the longest first
        self.held = 0
        self.lent = 0
        """Of those held."""

    def take(self, size: int) -> bool:
        """Hold more, if there is room, or somebody's client has long taken nothing. Whether it is held."""
        self._make_room(size, self._clock() - IDLE_S)
        if self.held + size > self._size:
            return False
        self.held += size
        return True

    def take_least(self, size: int) -> None:
        """Hold what nobody can do without, whoever has to let go for it."""
        self._make_room(size, self._clock())
        self.held += size

    def give(self, size: int) -> None:
        self.held -= size

    def lend(self, size: int) -> bool:
        """Whether so much of what is held may be lent."""
        if self.lent + size > self._size // 2:
            return False
        self.lent += size
        return True

    def returned(self, size: int) -> None:
        self.lent -= size
        self.held -= size

    def waits(self, holder: Holder) -> None:
        """It has handed something over, and waits until its client has taken it."""
        self._waiting[holder] = self._clock()

    def goes_on(self, holder: Holder) -> None:
        self._waiting.pop(holder, None)

    def _make_room(self, size: int, since: float) -> None:
        while self.held + size > self._size and self._waiting:
            holder = next(iter(self._waiting))
            if self._waiting[holder] > since:
                return
            del self._waiting[holder]
            holder.let_go()
