"""The asynchronous face of a reader: read-ahead, and no thread where nothing blocks."""

import asyncio
from collections.abc import AsyncGenerator

from app.storage import descriptors
from app.storage.backend import Reader
from app.storage.errors import Truncated
from app.storage.threads import Pool, ended, settled
from app.storage.types import FileInfo


class ThreadedOpenFile:
    """A reader, and the one read that it may have under way."""

    def __init__(self, reader: Reader, pool: Pool) -> None:
        self._reader = reader
        self._pool = pool
        self._ahead: asyncio.Future[bytes] | None = None

    @property
    def info(self) -> FileInfo:
        return self._reader.info

    def fileno(self) -> int | None:
        return self._reader.fileno()

    async def preload(self, start: int, stop: int) -> None:
        descriptor = self._reader.fileno()
        assert descriptor is not None
        if not descriptors.is_cached(descriptor, start, stop):
            await self._pool.run(descriptors.preload, descriptor, start, stop)

    async def read(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        await self.settle()  # of a read that was left early
        self._ahead = None
        slow = False
        batches = self._reader.batches(start, stop)
        batch = next(batches, None)
        while batch is not None:
            position, end = batch
            # At hand, a thread would cost more than the copy.
            data = self._reader.read_nowait(position, end - position) if self._ahead is None else None
            if data is None:
                slow = True
                data = await ended(self._ahead or self._fetch(position, end))
            if len(data) != end - position:
                raise Truncated(f"Only {position + len(data)} bytes of {stop} could be read.")
            self._ahead = None
            batch = next(batches, None)
            if slow and batch is not None:
                self._ahead = self._fetch(*batch)
            yield data

    async def settle(self) -> None:
        """Wait for the read that is under way: the reader must not be closed under it."""
        if self._ahead is not None:
            await settled(self._ahead)

    def _fetch(self, start: int, stop: int) -> asyncio.Future[bytes]:
        self._ahead = self._pool.start(self._reader.read, start, stop - start)
        return self._ahead
