"""Fetching the bytes of a file before they are asked for, while their client takes them quickly."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from app.storage.backend import Reader
from app.storage.batches import end_of, units_in
from app.storage.errors import Truncated
from app.storage.memory_budget import Budget
from app.storage.workers import wait_for_result

DEPTH = 1
"""Batches that are on their way beside the one that is being sent: more were slower on one machine."""

PIECE = 16 << 10
"""Bytes that are handed over in one go to a slow client: two of them may stay with the server for long."""

SLOW_S = 1.0
"""Who takes nothing for so long is slow."""

QUICK = 4 << 20
"""Bytes that a slow client has to take without a pause until it is slow no longer. Whenever there is room in
the buffer of a socket, the system takes a megabyte or more in one go, however slow the client is."""

Read = Callable[[int, int], list[bytes]]
"""`Reader.read`, possibly timed."""


class Begin(Protocol):
    """Has a thread call a function: one for what somebody waits for, or one for what is read ahead."""

    def __call__(self, read: Callable[[], list[bytes]], *, ahead: bool) -> "asyncio.Future[list[bytes]]": ...


class _Fetch:
    """Bytes on their way from a thread."""

    def __init__(self, read: Read, start: int, stop: int, begin: Begin, *, held: bool, ahead: bool) -> None:
        self._read = read
        self._start = start
        self.size = stop - start
        self.held = held  # the budget knows of them
        self.dropped = False
        self.future = begin(self._run, ahead=ahead)

    def _run(self) -> list[bytes]:
        return [] if self.dropped else self._read(self._start, self.size)


class ReadAhead:
    """The bytes [start, stop) of a reader, piece by piece.

    What has not been handed over can be fetched again: it is let go when others need the memory more.
    """

    def __init__(
        self, reader: Reader, read: Read, budget: Budget, begin: Begin, start: int, stop: int
    ) -> None:
        self._reader = reader
        self._read = read
        self._budget = budget
        self._begin = begin
        self._position = start
        self._stop = stop
        self._here: deque[bytes] = deque()
        self._offset = 0  # of the position in the first of them
        self._coming: deque[_Fetch] = deque()
        self._fetched = start  # how far the bytes are here or coming
        self._held = 0  # how many of these the budget knows of
        self._lent = self._lent_before = 0  # of the last piece, and of that before it
        self._slow = False
        self._taken = 0  # bytes without a pause
        self._handed_at = 0.0

    async def next(self) -> bytes:
        """The next piece; nothing at the end."""
        if self._position >= self._stop:
            return b""
        if not self._here:
            await self._arrival()
        piece = self._whole() or self._part()
        self._position += len(piece)
        return piece

    def handed(self) -> None:
        """The piece has been handed over."""
        self._handed_at = time.monotonic()
        self._budget.waits(self)

    def taken(self, size: int) -> None:
        """The server takes another piece, so it keeps nothing of that before the last any more."""
        self._budget.goes_on(self)
        if time.monotonic() - self._handed_at > SLOW_S:
            self._slow, self._taken = True, 0
        self._taken += size
        self._slow = self._slow and self._taken < QUICK
        self._budget.returned(self._lent_before)
        self._lent, self._lent_before = 0, self._lent

    def let_go(self) -> None:
        for fetch in self._coming:
            fetch.dropped = True
        self._coming.clear()
        self._here.clear()
        self._offset = 0
        self._fetched = self._position
        self._budget.give(self._held)
        self._held = 0

    def close(self) -> None:
        """Nobody wants the rest."""
        self._budget.goes_on(self)
        self.let_go()
        self._budget.returned(self._lent + self._lent_before)
        self._lent = self._lent_before = 0

    def _whole(self) -> bytes | None:
        """What comes next as it came, if so much may be lent."""
        size = len(self._here[0])
        if self._offset or self._slow or not self._budget.lend(size):
            return None
        self._held -= size
        self._lent = size
        return self._here.popleft()

    def _part(self) -> bytes:
        """A little of what comes next: a copy, which does not keep the rest in memory."""
        first = self._here[0]
        piece = first[self._offset : self._offset + PIECE]
        self._offset += len(piece)
        if self._offset == len(first):
            self._here.popleft()
            self._offset = 0
            self._held -= len(first)
            self._budget.give(len(first))
        return piece

    async def _arrival(self) -> None:
        """Return when there is something here."""
        if not self._coming:
            stop, held = self._first()
            data = self._reader.read_nowait(self._fetched, stop - self._fetched)
            if data is not None:  # at hand, a thread would cost more than the copy
                self._arrived([data], stop - self._fetched, held=held)
                self._fetched = stop
                return
            self._fetch(stop, held=held, ahead=False)
        fetch = self._coming[0]
        pieces = await wait_for_result(fetch.future)
        self._coming.popleft()
        self._arrived(pieces, fetch.size, held=fetch.held)
        self._fetch_ahead()

    def _arrived(self, pieces: list[bytes], size: int, *, held: bool) -> None:
        found = sum(map(len, pieces))
        if found != size:
            raise Truncated(f"Only {self._position + found} bytes of {self._stop} could be read.")
        if not held:
            self._budget.take_least(size)
            self._held += size
        self._here.extend(pieces)

    def _first(self) -> tuple[int, bool]:
        """Where a batch ends for which somebody waits, and whether it is held already: all that is left if
        that is one batch, else a single unit."""
        unit, size = self._reader.unit, self._stop - self._fetched
        # A range as long as a batch begins and ends anywhere in a unit.
        few = units_in(self._fetched, self._stop, unit) <= self._reader.most + 2
        if few and not self._slow and self._budget.take(size):
            self._held += size
            return self._stop, True
        return end_of(self._fetched, self._stop, unit, 1), False

    def _fetch_ahead(self) -> None:
        """Have as much on its way as the budget allows, no batch of it longer than what the client took."""
        while self._fetched < self._stop and not self._slow and len(self._coming) < DEPTH:
            units = min(self._taken // self._reader.unit, self._reader.most) or 1
            stop = end_of(self._fetched, self._stop, self._reader.unit, units)
            while not self._budget.take(stop - self._fetched):
                units //= 2
                if not units:
                    return
                stop = end_of(self._fetched, self._stop, self._reader.unit, units)
            self._held += stop - self._fetched
            self._fetch(stop, held=True, ahead=True)

    def _fetch(self, stop: int, *, held: bool, ahead: bool) -> None:
        self._coming.append(_Fetch(self._read, self._fetched, stop, self._begin, held=held, ahead=ahead))
        self._fetched = stop
