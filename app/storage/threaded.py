"""The asynchronous face of any blocking backend: threads, read-ahead, hashing and cancellation, once."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from app.storage.backend import Backend, Reader, Writer
from app.storage.contract import Staged
from app.storage.errors import StorageUnavailable, Truncated
from app.storage.types import Address, Committed, Expect, Expectation, FileInfo, Key, Listing, Page
from app.storage.upkeep import Scanned, Usage, Verified

T = TypeVar("T")

WRITE_BATCH = 1 << 20
"""Bytes that are hashed and written in one go."""


async def _ended(future: asyncio.Future[T]) -> T:
    """The future's result. When cancelled, the cancellation goes on only after the future has ended.

    Cancelling a task does not stop its thread: whoever closed a descriptor or removed a file while the
    thread still used it would break it.
    """
    await _settled(future)
    return future.result()


async def _settled(future: asyncio.Future[T]) -> None:
    """Return when the future has ended, however it ended; then let a cancellation go on."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if not future.cancelled():
        future.exception()  # seen, so that it is not reported as never retrieved
    if cancelled is not None:
        raise cancelled


class _Pool:
    """A bounded number of threads."""

    def __init__(self, threads: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def start(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        return await _ended(self.start(function, *arguments))

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


class ThreadedOpenFile:
    """A reader, and the one read that it may have under way."""

    def __init__(self, reader: Reader, pool: _Pool) -> None:
        self._reader = reader
        self._pool = pool
        self._ahead: asyncio.Future[bytes] | None = None

    @property
    def info(self) -> FileInfo:
        return self._reader.info

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
                data = await _ended(self._ahead or self._fetch(position, end))
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
            await _settled(self._ahead)

    def _fetch(self, start: int, stop: int) -> asyncio.Future[bytes]:
        self._ahead = self._pool.start(self._reader.read, start, stop - start)
        return self._ahead


class ThreadedStaged:
    """A writer, the batch that is being collected for it, and the one that is being written."""

    def __init__(self, writer: Writer, pool: _Pool) -> None:
        self.writer = writer
        self._pool = pool
        self._hash = hashlib.sha256()
        self._size = 0
        self._batch = bytearray()
        self._under_way: asyncio.Future[None] | None = None

    @property
    def size(self) -> int:
        return self._size

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    async def write(self, data: bytes) -> None:
        self._batch += data
        if len(self._batch) >= WRITE_BATCH:
            await self._write_batch()

    async def flush(self) -> None:
        await self._write_batch()
        if self._under_way is not None:
            await _ended(self._under_way)

    async def settle(self) -> None:
        """Wait for the write that is under way: the writer must not be discarded under it."""
        if self._under_way is not None:
            await _settled(self._under_way)

    async def _write_batch(self) -> None:
        if self._under_way is not None:
            await _ended(self._under_way)
        batch, self._batch = bytes(self._batch), bytearray()
        if batch:
            self._under_way = self._pool.start(self._write, batch)

    def _write(self, batch: bytes) -> None:
        self._hash.update(batch)
        self.writer.write(batch)
        self._size += len(batch)


class ThreadedStorage:
    """`contract.Storage` over a `backend.Backend`.

    Reads and changes have threads of their own, so that changes that wait for one another in the database
    keep no reader waiting; so have the bytes of files, so that downloads from a slow database keep no list
    waiting; so has what reads everything; and so has the ping, so that it is answered when all others are
    busy.
    """

    def __init__(self, backend: Backend, *, threads: int = 16) -> None:
        self._backend = backend
        self._reads = _Pool(threads, "read")
        self._bytes = _Pool(threads, "bytes")
        self._changes = _Pool(threads, "change")
        self._looks = _Pool(threads, "look")
        self._upkeep = _Pool(2, "upkeep")
        self._pings = _Pool(1, "ping")

    def close(self) -> None:
        """Wait for what is under way. Nothing may be asked of the storage afterwards."""
        for pool in (self._reads, self._bytes, self._changes, self._looks, self._upkeep, self._pings):
            pool.close()

    @asynccontextmanager
    async def open(self, address: Address) -> AsyncIterator[ThreadedOpenFile]:
        # What has to wait for changes waits among them, and keeps no other reader from a thread.
        reader = await self._open(self._reads, address, wait=False)
        if reader is None:
            reader = await self._open(self._changes, address, wait=True)
        if reader is None:
            raise StorageUnavailable("The file could not be opened.")
        file = ThreadedOpenFile(reader, self._bytes)
        try:
            yield file
        finally:
            try:
                await file.settle()
            finally:
                # The last to close a big file that was deleted meanwhile waits until its blocks are freed.
                await self._reads.run(reader.close)

    async def _open(self, pool: _Pool, address: Address, *, wait: bool) -> Reader | None:
        opening = pool.start(lambda: self._backend.open(address, wait=wait))
        try:
            return await _ended(opening)
        except asyncio.CancelledError:
            if opening.exception() is None and (reader := opening.result()) is not None:
                await self._reads.run(reader.close)
            raise

    async def stat(self, address: Address) -> FileInfo:
        async with self.open(address) as file:
            return file.info

    async def check(self, key: Key, expect: Expectation) -> None:
        await self._changes.run(self._backend.check, key, expect)

    @asynccontextmanager
    async def stage(self, *, size: int | None = None) -> AsyncIterator[ThreadedStaged]:
        staging = self._changes.start(self._backend.stage, size)
        try:
            writer = await _ended(staging)
        except asyncio.CancelledError:
            if staging.exception() is None:
                await self._changes.run(staging.result().discard)
            raise
        staged = ThreadedStaged(writer, self._changes)
        try:
            yield staged
        finally:
            try:
                await staged.settle()
            finally:
                await self._changes.run(writer.discard)

    async def commit(
        self,
        key: Key,
        staged: Staged,
        *,
        content_type: str,
        expect: Expectation = Expect.ANY,
        origin: FileInfo | None = None,
    ) -> Committed:
        if not isinstance(staged, ThreadedStaged):
            raise TypeError("These bytes were staged by another storage.")
        await staged.flush()
        return await self._changes.run(
            lambda: self._backend.commit(
                key,
                staged.writer,
                size=staged.size,
                sha256=staged.sha256,
                content_type=content_type,
                expect=expect,
                origin=origin,
            )
        )

    async def delete(self, key: Key, *, expect: Expectation = Expect.ANY) -> None:
        await self._changes.run(self._backend.delete, key, expect)

    async def move(self, source: Key, target: Key, *, expect: Expectation = Expect.ANY) -> FileInfo:
        return await self._changes.run(self._backend.move, source, target, expect)

    async def page(self, listing: Listing, *, cursor: str | None, limit: int) -> Page:
        def page(wait: bool) -> Page | None:
            return self._backend.page(listing, cursor=cursor, limit=limit, wait=wait)

        found = await self._reads.run(page, False) or await self._looks.run(page, True)
        assert found is not None
        return found

    async def folders(self, library: str, folder: str) -> tuple[str, ...]:
        return await self._reads.run(self._backend.folders, library, folder)

    async def libraries(self) -> tuple[str, ...]:
        return await self._reads.run(self._backend.libraries)

    async def usage(self) -> Usage:
        return await self._upkeep.run(self._backend.usage)

    async def to_scan(self) -> int:
        return await self._upkeep.run(self._backend.to_scan)

    def scan(self) -> AsyncGenerator[Scanned, None]:
        return self._steps(self._backend.scan)

    def hash_unverified(self) -> AsyncGenerator[int, None]:
        return self._steps(self._backend.hash_unverified)

    def verify(self) -> AsyncGenerator[Verified, None]:
        return self._steps(self._backend.verify)

    async def _steps(self, begin: Callable[[], Generator[T]]) -> AsyncGenerator[T, None]:
        """What a backend's generator yields, each step taken in a thread."""
        steps = begin()
        try:
            while (step := await self._upkeep.run(next, steps, None)) is not None:
                yield step
        finally:
            await self._upkeep.run(steps.close)

    async def ping(self) -> None:
        # Not `run`: one that nobody waits for any more is taken from the queue, not waited for.
        await self._pings.start(self._backend.ping)
