"""The asynchronous face of a writer: one batch is hashed and written while the next arrives."""

import asyncio
import hashlib

from app.storage.backend import Writer
from app.storage.threads import Pool, ended, settled

WRITE_BATCH = 1 << 20
"""Bytes that are hashed and written in one go."""

MAX_PIECES = 256
"""Pieces that are: a tiny one takes many times its length in memory."""


class ThreadedStaged:
    """A writer, the batch that is being collected for it, and the one that is being written."""

    def __init__(self, writer: Writer, pool: Pool) -> None:
        self.writer = writer
        self._pool = pool
        self._hash = hashlib.sha256()
        self._size = 0
        self._batch: list[bytes] = []  # the pieces as they came: a thread puts them together
        self._collected = 0
        self._under_way: asyncio.Future[None] | None = None

    @property
    def size(self) -> int:
        return self._size

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    async def write(self, data: bytes) -> None:
        if data:
            self._batch.append(data)
            self._collected += len(data)
        if self._collected >= WRITE_BATCH or len(self._batch) >= MAX_PIECES:
            await self._write_batch()

    async def flush(self) -> None:
        await self._write_batch()
        if self._under_way is not None:
            await ended(self._under_way)

    async def settle(self) -> None:
        """Wait for the write that is under way: the writer must not be discarded under it."""
        if self._under_way is not None:
            await settled(self._under_way)

    async def _write_batch(self) -> None:
        if self._under_way is not None:
            await ended(self._under_way)
        pieces, self._batch, self._collected = self._batch, [], 0
        if pieces:
            self._under_way = self._pool.start(self._write, pieces)

    def _write(self, pieces: list[bytes]) -> None:
        batch = b"".join(pieces)
        pieces.clear()  # or they would be in memory twice
        self._hash.update(batch)
        self.writer.write(batch)
        self._size += len(batch)
