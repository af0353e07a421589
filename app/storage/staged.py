"""The asynchronous face of a writer: batches are hashed and written while the next arrives."""

import asyncio
from collections import deque
from collections.abc import Collection

from app.storage.backend import Writer
from app.storage.fingerprint import Fingerprint
from app.storage.threads import Pool, ended, settled

WRITE_BATCH = 1 << 20
"""Bytes that are hashed and written in one go."""

MAX_PIECES = 256
"""Pieces that are: a tiny one takes many times its length in memory."""

FEW = 8
"""Pieces up to which those of a batch are written as they are: put together, they are in memory twice."""

AHEAD = 2
"""Batches that are under way: one is being written, and one lies ready, so that no thread waits for it."""


class ThreadedStaged:
    """A writer, the batch that is being collected for it, and those that are under way."""

    def __init__(self, writer: Writer, pool: Pool, algorithms: Collection[str] = ()) -> None:
        self.writer = writer
        self._series = pool.series()
        self._fingerprint = Fingerprint(algorithms)
        self._size = 0
        self._batch: list[bytes] = []  # the pieces as they came
        self._collected = 0
        self._under_way: deque[asyncio.Future[None]] = deque()

    @property
    def size(self) -> int:
        return self._size

    @property
    def sha256(self) -> str:
        return self._fingerprint.sha256

    def digest(self, algorithm: str) -> bytes:
        return self._fingerprint.digest(algorithm)

    @property
    def is_utf8(self) -> bool:
        return self._fingerprint.is_utf8

    async def write(self, data: bytes) -> None:
        if data:
            self._batch.append(data)
            self._collected += len(data)
        if self._collected >= WRITE_BATCH or len(self._batch) >= MAX_PIECES:
            await self._write_batch()

    async def flush(self) -> None:
        await self._write_batch()
        await self._wait_for_all_but(0)

    async def settle(self) -> None:
        """Wait for the writes that are under way: the writer must not be discarded under them."""
        await settled(asyncio.gather(*self._under_way, return_exceptions=True))

    async def _write_batch(self) -> None:
        await self._wait_for_all_but(AHEAD - 1)
        pieces, self._batch, self._collected = self._batch, [], 0
        if pieces:
            self._under_way.append(self._series.start(self._write, pieces))

    async def _wait_for_all_but(self, count: int) -> None:
        while len(self._under_way) > count:
            await ended(self._under_way[0])
            self._under_way.popleft()  # one that failed stays, and fails all that comes after it

    def _write(self, pieces: list[bytes]) -> None:
        if len(pieces) > FEW:
            pieces[:] = [b"".join(pieces)]
        for piece in pieces:
            self._fingerprint.update(piece)
            self.writer.write(piece)
            self._size += len(piece)
