"""The asynchronous face of a reader."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from app.storage import descriptors
from app.storage.ahead import ReadAhead
from app.storage.backend import Reader
from app.storage.budget import Budget
from app.storage.threads import Pool, settled
from app.storage.types import FileInfo


class Threads:
    """Those that read bytes of files.

    The beginning of a range does not stand in line behind what is read ahead of others. They are few: each
    keeps as much memory as the longest batch took that it ever read, and more that read ahead were slower
    beside a database on the same machine.
    """

    def __init__(self, threads: int) -> None:
        self.now = Pool(max(1, threads // 2), "bytes")
        self.ahead = Pool(max(1, threads // 4), "ahead")

    def close(self) -> None:
        self.now.close()
        self.ahead.close()


class ThreadedOpenFile:
    """A reader, and the reads that it has under way."""

    def __init__(self, reader: Reader, threads: Threads, budget: Budget) -> None:
        self._reader = reader
        self._threads = threads
        self._budget = budget
        self._under_way: set[asyncio.Future[list[bytes]]] = set()

    @property
    def info(self) -> FileInfo:
        return self._reader.info

    def fileno(self) -> int | None:
        return self._reader.fileno()

    async def preload(self, start: int, stop: int) -> None:
        descriptor = self._reader.fileno()
        assert descriptor is not None
        if not descriptors.is_cached(descriptor, start, stop):
            await self._threads.now.run(descriptors.preload, descriptor, start, stop)

    async def read(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        ahead = ReadAhead(self._reader, self._budget, self._begin, start, stop)
        try:
            while piece := await ahead.next():
                size = len(piece)
                ahead.handed()
                yield piece
                del piece  # or it would stay in memory until the next one is there
                ahead.taken(size)
        finally:
            ahead.close()

    async def settle(self) -> None:
        """Wait for the reads that are under way: the reader must not be closed under them."""
        if self._under_way:
            await settled(asyncio.gather(*self._under_way, return_exceptions=True))

    def _begin(self, read: Callable[[], list[bytes]], *, ahead: bool) -> asyncio.Future[list[bytes]]:
        future = (self._threads.ahead if ahead else self._threads.now).start(read)
        self._under_way.add(future)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: asyncio.Future[list[bytes]]) -> None:
        self._under_way.discard(future)
        if not future.cancelled():
            future.exception()  # seen: of a read that was left, nobody else looks at it
