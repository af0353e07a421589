"""Reading files for clients: ahead of a quick client, within a memory budget that all of them share."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Protocol

from app.storage.backend import Reader, count_units, end_of_batch
from app.storage.contract import ReopenableFile
from app.storage.errors import Truncated
from app.storage.types import Piece
from app.storage.workers import Pool, wait_for_result, wait_until_done

IN_MEMORY = 20 << 20
"""Bytes of files that may be in memory on their way to clients, for all of them together."""

IDLE_S = 0.5
"""Seconds after which a reader whose client takes nothing may lose its buffers to others."""

SLOW_S = 1.0
"""Seconds after which a client that takes nothing counts as slow."""

QUICK = 4 << 20
"""Bytes that a slow client has to take without a pause to count as quick again. Whenever there is room in the
buffer of a socket, the system takes a megabyte or more in one go, however slow the client is."""

PIECE = 16 << 10
"""Bytes that a slow client is sent in one go: two pieces may stay with the server for long."""

DEPTH = 1
"""Batches that are fetched while another one is sent: more were slower on one machine."""


class Holder(Protocol):
    """A reader that holds bytes that it can fetch again."""

    def drop_buffers(self) -> None:
        """Release all bytes that were not sent. Called while the holder waits for its client."""


class MemoryBudget:
    """Bytes in memory: being fetched, buffered, and lent to the server, which keeps them until a client takes
    them. Used from the event loop only.

    No call blocks, so that no client can block another: a refused reader continues with the minimum. To make
    room, the holder that has waited longest for its client drops its buffers. Lent bytes cannot be dropped,
    so they are at most half of all.
    """

    def __init__(
        self,
        size: int = IN_MEMORY,
        clock: Callable[[], float] = time.monotonic,
        *,
        idle_s: float = IDLE_S,
        slow_s: float = SLOW_S,
    ) -> None:
        self._size = size
        self._clock = clock
        self._idle_s = idle_s
        self.slow_s = slow_s
        self._waiting: dict[Holder, float] = {}  # since when, the longest first
        self.held = 0
        self.lent = 0
        """Of those held."""

    def reserve(self, size: int) -> bool:
        """Reserve bytes if there is room, or if an idle holder can make room. Return whether that worked."""
        self._make_room(size, self._clock() - self._idle_s)
        if self.held + size > self._size:
            return False
        self.held += size
        return True

    def reserve_minimum(self, size: int) -> None:
        """Reserve bytes that a reader cannot do without, even above the limit."""
        self._make_room(size, self._clock())
        self.held += size

    def release(self, size: int) -> None:
        self.held -= size

    def lend(self, size: int) -> bool:
        """Return whether so many of the held bytes may be lent, and count them as lent."""
        if self.lent + size > self._size // 2:
            return False
        self.lent += size
        return True

    def release_lent(self, size: int) -> None:
        self.lent -= size
        self.held -= size

    def begin_wait(self, holder: Holder) -> None:
        """Note that the holder waits for its client to take a piece."""
        self._waiting[holder] = self._clock()

    def end_wait(self, holder: Holder) -> None:
        self._waiting.pop(holder, None)

    def _make_room(self, size: int, since: float) -> None:
        while self.held + size > self._size and self._waiting:
            holder = next(iter(self._waiting))
            if self._waiting[holder] > since:
                return
            del self._waiting[holder]
            holder.drop_buffers()


class ReadPools:
    """The threads that read bytes of files.

    The first batch of a range does not queue behind batches that are read ahead for others. There are few
    threads: each keeps as much memory as the longest batch that it ever read, and more of them were slower
    beside a database on the same machine.
    """

    def __init__(self, threads: int) -> None:
        self.now = Pool(max(1, threads // 2), "bytes")
        self.ahead = Pool(max(1, threads // 4), "ahead")

    def close(self) -> None:
        self.now.close()
        self.ahead.close()


Read = Callable[[int, int], list[bytes]]
"""`Reader.read`, possibly timed."""

ReadAsync = Callable[[int, int], Awaitable[Sequence[memoryview] | None]]
"""`Reader.read_async`, possibly timed."""


class ThreadedOpenFile:
    """`contract.OpenFile` over a reader, and the reads that are in progress."""

    def __init__(
        self,
        reader: Reader,
        read: Read,
        read_async: ReadAsync,
        pools: ReadPools,
        budget: MemoryBudget,
        reopenable: Callable[[], ReopenableFile | None],
    ) -> None:
        self.reopenable = reopenable
        self._reader = reader
        self._read = read
        self._read_async = read_async
        self._pools = pools
        self._budget = budget
        self._in_progress: set[asyncio.Task[Sequence[Piece]]] = set()
        self.info = reader.info

    def fileno(self) -> int | None:
        return self._reader.fileno()

    async def preload(self, start: int, stop: int) -> None:
        if not self._reader.is_cached(start, stop):
            await self._pools.now.run(self._reader.preload, start, stop)

    async def read(self, start: int, stop: int) -> AsyncGenerator[Piece, None]:
        ahead = ReadAhead(self._reader, self._budget, self._begin, start, stop)
        try:
            while piece := await ahead.next():
                size = len(piece)
                ahead.begin_send()
                yield piece
                del piece  # or it would stay in memory until the next one arrives
                ahead.end_send(size)
        finally:
            ahead.close()

    async def wait_for_reads(self) -> None:
        """Wait for the reads in progress: the reader must not be closed before they end."""
        if self._in_progress:
            await wait_until_done(asyncio.gather(*self._in_progress, return_exceptions=True))

    def _begin(self, batch: "ReadBatch", *, ahead: bool) -> "asyncio.Task[Sequence[Piece]]":
        task = asyncio.create_task(self._read_batch(batch, ahead=ahead))
        self._in_progress.add(task)
        task.add_done_callback(self._end)
        return task

    async def _read_batch(self, batch: "ReadBatch", *, ahead: bool) -> Sequence[Piece]:
        """Read from the event loop, or else in a thread. A cancellation waits for the thread."""
        if self._reader.reads_async:
            pieces = await self._read_async(batch.start, batch.size)
            if pieces is not None:
                return pieces
        pool = self._pools.ahead if ahead else self._pools.now
        return await wait_for_result(pool.start(self._read_in_thread, batch))

    def _read_in_thread(self, batch: "ReadBatch") -> Sequence[Piece]:
        return [] if batch.is_dropped else self._read(batch.start, batch.size)

    def _end(self, task: "asyncio.Task[Sequence[Piece]]") -> None:
        self._in_progress.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved: no one else does if the client has left


class Begin(Protocol):
    """Begins to read a batch: for a client that waits, or `ahead` of it."""

    def __call__(self, batch: "ReadBatch", *, ahead: bool) -> "asyncio.Task[Sequence[Piece]]": ...


class ReadBatch:
    """The bytes [start, stop), which are being read at once."""

    def __init__(self, start: int, stop: int, begin: Begin, *, is_reserved: bool, ahead: bool) -> None:
        self.start = start
        self.size = stop - start
        self.is_reserved = is_reserved
        self.is_dropped = False
        self.pieces = begin(self, ahead=ahead)

    def drop(self) -> None:
        self.is_dropped = True
        self.pieces.cancel()


class ReadAhead:
    """The bytes [start, stop) in pieces. Buffers that others need more are dropped, and fetched again."""

    def __init__(self, reader: Reader, budget: MemoryBudget, begin: Begin, start: int, stop: int) -> None:
        self._reader = reader
        self._budget = budget
        self._begin = begin
        self._position = start
        self._stop = stop
        self._buffers: deque[Piece] = deque()
        self._offset = 0  # of the position in the first buffer
        self._fetches: deque[ReadBatch] = deque()
        self._fetched = start  # the end of what is buffered or being fetched
        self._reserved = 0  # of that, what the budget counts
        self._lent = self._lent_before = 0  # by the last piece, and by the one before it
        self._piece: Piece | None = None  # the last one, if it was lent
        self._piece_before: Piece | None = None
        self._is_slow = False
        self._taken = 0  # bytes that the client took without a pause
        self._sent_at = 0.0

    async def next(self) -> Piece:
        """Return the next piece, or nothing at the end. Raises Truncated, StorageUnavailable."""
        if self._position >= self._stop:
            return b""
        if not self._buffers:
            await self._fill()
        piece = self._whole_buffer() or self._small_piece()
        self._position += len(piece)
        return piece

    def begin_send(self) -> None:
        """Note that the piece is being sent to the client."""
        self._sent_at = time.monotonic()
        self._budget.begin_wait(self)

    def end_send(self, size: int) -> None:
        """Note that the server takes another piece, so that it no longer keeps the one before the last."""
        self._budget.end_wait(self)
        if time.monotonic() - self._sent_at > self._budget.slow_s:
            self._is_slow, self._taken = True, 0
        self._taken += size
        self._is_slow = self._is_slow and self._taken < QUICK
        self._budget.release_lent(self._lent_before)
        self._lent, self._lent_before = 0, self._lent
        self._recycle(self._piece_before)
        self._piece, self._piece_before = None, self._piece

    def drop_buffers(self) -> None:
        self._piece = self._piece_before = None
        for fetch in self._fetches:
            fetch.drop()
        self._fetches.clear()
        self._buffers.clear()
        self._offset = 0
        self._fetched = self._position
        self._budget.release(self._reserved)
        self._reserved = 0

    def close(self) -> None:
        self._budget.end_wait(self)
        self._recycle(self._piece_before)
        self._recycle(self._piece)
        self.drop_buffers()
        self._budget.release_lent(self._lent + self._lent_before)
        self._lent = self._lent_before = 0

    def _recycle(self, piece: Piece | None) -> None:
        if isinstance(piece, memoryview):
            self._reader.recycle(piece)

    def _whole_buffer(self) -> Piece | None:
        """Return the next buffer without a copy, or None if it may not be lent."""
        size = len(self._buffers[0])
        if self._offset or self._is_slow or not self._budget.lend(size):
            return None
        self._reserved -= size
        self._lent = size
        self._piece = self._buffers.popleft()
        return self._piece

    def _small_piece(self) -> bytes:
        """Return a small copy, which does not keep the rest of its buffer in memory."""
        first = self._buffers[0]
        piece = bytes(first[self._offset : self._offset + PIECE])
        self._offset += len(piece)
        if self._offset == len(first):
            self._recycle(self._buffers.popleft())
            self._offset = 0
            self._reserved -= len(first)
            self._budget.release(len(first))
        return piece

    async def _fill(self) -> None:
        """Wait until there is a buffer."""
        if not self._fetches:
            stop, is_reserved = self._first_batch()
            data = self._reader.read_nowait(self._fetched, stop - self._fetched)
            if data is not None:  # in memory already: a thread would cost more than the copy
                self._add_buffers([data], stop - self._fetched, is_reserved=is_reserved)
                self._fetched = stop
                return
            self._fetch(stop, is_reserved=is_reserved, ahead=False)
        fetch = self._fetches[0]
        pieces = await fetch.pieces
        self._fetches.popleft()
        self._add_buffers(pieces, fetch.size, is_reserved=fetch.is_reserved)
        self._fetch_ahead()

    def _add_buffers(self, pieces: Sequence[Piece], size: int, *, is_reserved: bool) -> None:
        found = sum(map(len, pieces))
        if found != size:
            raise Truncated(f"Only {self._position + found} bytes of {self._stop} could be read.")
        if not is_reserved:
            self._budget.reserve_minimum(size)
            self._reserved += size
        self._buffers.extend(pieces)

    def _first_batch(self) -> tuple[int, bool]:
        """Return the end of a batch that the client waits for, and whether its bytes are reserved.

        It is the rest of the range if one batch holds that, else a single unit.
        """
        unit, size = self._reader.unit, self._stop - self._fetched
        # A range as long as a batch may begin and end anywhere in a unit.
        is_short = count_units(self._fetched, self._stop, unit) <= self._reader.max_units + 2
        if is_short and not self._is_slow and self._budget.reserve(size):
            self._reserved += size
            return self._stop, True
        return end_of_batch(self._fetched, self._stop, unit, 1), False

    def _fetch_ahead(self) -> None:
        """Fetch as much as the budget allows, in batches no longer than what the client took so far."""
        while self._fetched < self._stop and not self._is_slow and len(self._fetches) < DEPTH:
            units = min(self._taken // self._reader.unit, self._reader.max_units) or 1
            stop = end_of_batch(self._fetched, self._stop, self._reader.unit, units)
            while not self._budget.reserve(stop - self._fetched):
                units //= 2
                if not units:
                    return
                stop = end_of_batch(self._fetched, self._stop, self._reader.unit, units)
            self._reserved += stop - self._fetched
            self._fetch(stop, is_reserved=True, ahead=True)

    def _fetch(self, stop: int, *, is_reserved: bool, ahead: bool) -> None:
        self._fetches.append(
            ReadBatch(self._fetched, stop, self._begin, is_reserved=is_reserved, ahead=ahead)
        )
        self._fetched = stop
