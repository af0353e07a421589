"""The asynchronous storage over any blocking backend."""

import asyncio
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Generator,
)
from contextlib import asynccontextmanager, suppress
from functools import partial
from threading import Lock
from typing import ParamSpec, TypedDict, TypeVar

from app.storage.backend import Backend, Reader, Writer
from app.storage.content_hash import ContentHash
from app.storage.contract import SMALL_UPLOAD, Staged
from app.storage.errors import (
    OutOfSpace,
    ReadOnly,
    StorageError,
    StorageUnavailable,
    Truncated,
    Unfinished,
)
from app.storage.file_text import FolderFormat
from app.storage.maintenance import Maintenance, ScanStep, Usage, VerifyStep
from app.storage.readahead import MemoryBudget, ReadAsync, ReadPools, ThreadedOpenFile
from app.storage.reopening import ReopenedFiles
from app.storage.types import (
    Address,
    Committed,
    Expect,
    Expectation,
    FileInfo,
    Key,
    Listing,
    Page,
    RenderedPage,
)
from app.storage.workers import Pool, wait_for_result, wait_until_done

P = ParamSpec("P")
T = TypeVar("T")

FAILURES = (StorageUnavailable, OutOfSpace, Truncated)
"""Errors that metrics count as failures. All others are normal outcomes."""


class Observer:
    """Receives the duration of each backend operation and the steps of maintenance, from any thread."""

    def operation_ended(self, operation: str, seconds: float, *, failed: bool) -> None:
        """Record a call of the backend. A file that `try_open` opened is not recorded."""

    def scanned(self, step: ScanStep) -> None:
        """Record a step of a scan."""

    def scan_ended(self, *, failed: bool) -> None:
        """Record the end of a scan that was not cancelled."""

    def hashed(self, size: int) -> None:
        """Record bytes that were hashed."""


def timed(observer: Observer, operation: str, function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that calls this one and reports how long that took."""

    def call(*arguments: P.args, **options: P.kwargs) -> T:
        began = time.perf_counter()
        failed = True
        try:
            result = function(*arguments, **options)
            failed = False
        except StorageError as error:
            failed = isinstance(error, FAILURES)
            raise
        finally:
            observer.operation_ended(operation, time.perf_counter() - began, failed=failed)
        return result

    return call


def timed_async(
    observer: Observer, operation: str, function: Callable[P, Awaitable[T | None]]
) -> Callable[P, Awaitable[T | None]]:
    """As `timed`, for a coroutine function. A call that returns None, or is cancelled, is not reported."""

    async def call(*arguments: P.args, **options: P.kwargs) -> T | None:
        began = time.perf_counter()
        try:
            result = await function(*arguments, **options)
        except StorageError as error:
            failed = isinstance(error, FAILURES)
            observer.operation_ended(operation, time.perf_counter() - began, failed=failed)
            raise
        if result is not None:
            observer.operation_ended(operation, time.perf_counter() - began, failed=False)
        return result

    return call


def _observed_scan(observer: Observer, maintenance: Maintenance) -> Generator[ScanStep]:
    try:
        for step in maintenance.scan():
            observer.scanned(step)
            yield step
    except StorageError:
        observer.scan_ended(failed=True)
        raise
    observer.scan_ended(failed=False)


def _observed_hashing(observer: Observer, maintenance: Maintenance) -> Generator[int]:
    for size in maintenance.hash_unverified():
        observer.hashed(size)
        yield size


WRITE_BATCH = 1 << 20
"""Bytes that are hashed and written in one go."""

MAX_PIECES = 256
"""Pieces of a batch: a tiny piece takes many times its length in memory."""

MAX_UNJOINED_PIECES = 8
"""Pieces of a batch that are written one by one: joined, they would be in memory twice."""

MAX_BATCHES = 2
"""Batches in progress: one is written while the next one is ready, so that no thread waits for it."""


MAX_INLINE = 32 << 10
"""Bytes that the event loop may hash itself: a thread would take longer to start."""


class ThreadedStaged:
    """`contract.Staged` over a writer: the batch that is being collected, and those that are in progress.

    `open_writer` is called in a thread, and only for more than SMALL_UPLOAD bytes: fewer stay in memory.
    """

    def __init__(
        self, open_writer: Callable[[], Writer], pool: Pool, algorithms: Collection[str] = ()
    ) -> None:
        self.writer: Writer | None = None
        """None while no thread has opened it."""
        self.size = 0
        self._open_writer = open_writer
        self._queue = pool.serial_queue()
        self._hash = ContentHash(algorithms)
        self._batch: list[bytes] = []
        self._batch_size = 0
        self._held: list[bytes] = []  # flushed, while there is no writer
        self._in_progress: deque[asyncio.Future[None]] = deque()

    @property
    def held(self) -> bytes:
        """The bytes flushed, if there is no writer."""
        return self._held[0] if len(self._held) == 1 else b"".join(self._held)

    @property
    def sha256(self) -> str:
        return self._hash.sha256

    def digest(self, algorithm: str) -> bytes:
        return self._hash.digest(algorithm)

    @property
    def is_utf8(self) -> bool:
        return self._hash.is_utf8

    async def open(self) -> None:
        """Open the writer now. Raises OutOfSpace, StorageUnavailable."""
        self._in_progress.append(self._queue.start(self._open))
        await self._wait_until_at_most(0)

    async def write(self, data: bytes) -> None:
        if data:
            self._batch.append(data)
            self._batch_size += len(data)
        if self._batch_size >= WRITE_BATCH or len(self._batch) >= MAX_PIECES:
            await self._start(self._write)

    async def flush(self) -> None:
        await self._wait_until_at_most(0)
        if self.writer is not None or self.size + self._batch_size > SMALL_UPLOAD:
            await self._start(self._write)
        elif self._batch_size > MAX_INLINE:
            await self._start(self._hold)
        else:
            self._hold(self._take_batch())
        await self._wait_until_at_most(0)

    async def wait_for_writes(self) -> None:
        """Wait for the writes in progress: the writer must not be discarded before they end."""
        if self._in_progress:
            await wait_until_done(asyncio.gather(*self._in_progress, return_exceptions=True))

    async def _start(self, step: Callable[[list[bytes]], None]) -> None:
        """Start the step with the collected batch in a thread, behind the batches in progress."""
        await self._wait_until_at_most(MAX_BATCHES - 1)
        if self._batch:
            self._in_progress.append(self._queue.start(step, self._take_batch()))

    def _take_batch(self) -> list[bytes]:
        pieces, self._batch, self._batch_size = self._batch, [], 0
        return pieces

    async def _wait_until_at_most(self, count: int) -> None:
        while len(self._in_progress) > count:
            await wait_for_result(self._in_progress[0])
            self._in_progress.popleft()  # a failed one stays, so that all later calls fail too

    def _open(self) -> None:
        self.writer = self._open_writer()

    def _hold(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._hash.update(piece)
            self.size += len(piece)
        self._held += pieces

    def _write(self, pieces: list[bytes]) -> None:
        if self.writer is None:
            self._open()
        writer = self.writer
        assert writer is not None
        held, self._held = self._held, []
        for piece in held:
            writer.write(piece)
        if len(pieces) > MAX_UNJOINED_PIECES:
            pieces[:] = [b"".join(pieces)]
        for piece in pieces:
            self._hash.update(piece)
            writer.write(piece)
            self.size += len(piece)


WRITER_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Pauses between attempts to open a file that another program is writing."""


class _Details(TypedDict):
    """Arguments of `Backend.store` and `Backend.commit` beside the bytes."""

    sha256: str
    content_type: str
    expect: Expectation
    origin: FileInfo | None
    is_utf8: bool | None


class ThreadedStorage:
    """`contract.Storage` over a `backend.Backend`.

    Each kind of work has its own threads. Changes that wait for one another in the database block no reader;
    downloads from a slow database block no list; neither is blocked by maintenance. Pings have a thread for
    each part, so that they are answered when all others are busy or another part does not respond.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        threads: int = 16,
        read_only: bool = False,
        observer: Observer | None = None,
        budget: MemoryBudget | None = None,
    ) -> None:
        self._backend = backend
        self._maintenance = backend.maintenance
        self._observer = observer or Observer()
        self._read_only = read_only
        self._reads = Pool(threads, "read")
        self._bytes = ReadPools(threads)
        self._changes = Pool(threads, "change")
        self._refreshes = Pool(threads, "refresh")
        self._maintenance_pool = Pool(2, "maintenance")
        self._pings = {part: Pool(1, "ping") for part in (None, *backend.parts)}
        self._budget = budget or MemoryBudget()
        self._rendering = Lock()
        self._reopened = ReopenedFiles(backend.try_open, self._as_open_file, self._close_soon)

    def close(self) -> None:
        """Wait for the calls in progress. No method may be called afterwards."""
        self._reopened.stop()
        for pool in (self._reads, self._bytes, self._changes, self._refreshes, self._maintenance_pool):
            pool.close()
        for pool in self._pings.values():
            pool.close()

    @asynccontextmanager
    async def open(self, address: Address) -> AsyncIterator[ThreadedOpenFile]:
        reader = self._backend.try_open(address) or await self._open_current(address)
        file = self._as_open_file(reader, address)
        try:
            yield file
        finally:
            try:
                await file.wait_for_reads()
            finally:
                await self._close(reader)

    def _as_open_file(self, reader: Reader, address: Address) -> ThreadedOpenFile:
        read = reader.read
        read_async: ReadAsync = reader.read_async
        if reader.fileno() is None:  # the kernel reads a descriptor by itself, so that is not timed
            read = self._timed("read", read)
            read_async = timed_async(self._observer, "read", read_async)
        reopenable = partial(self._reopened.version, address, reader)
        return ThreadedOpenFile(reader, read, read_async, self._bytes, self._budget, reopenable)

    async def _open_current(self, address: Address) -> Reader:
        """Open the file that is stored at the address now.

        Waits a moment for a program that is writing the file: an encoder rewrites a live playlist within
        milliseconds, again and again.
        """
        for pause in WRITER_PAUSES_S:
            with suppress(Unfinished):
                return await self._open_finished(address)
            await asyncio.sleep(pause)
        return await self._open_finished(address)

    async def _open_finished(self, address: Address) -> Reader:
        reader = await timed_async(self._observer, "open", self._backend.open_async)(address)
        if reader is not None:
            return reader
        # An open that has to wait for changes does so in their pool, and blocks no other reader.
        reader = await self._open_in(self._reads, address, wait=False)
        if reader is None:
            reader = await self._open_in(self._changes, address, wait=True)
        if reader is None:
            raise StorageUnavailable("The file could not be opened now. Try again in a few seconds.")
        return reader

    async def _open_in(self, pool: Pool, address: Address, *, wait: bool) -> Reader | None:
        opening = pool.start(partial(self._timed("open", self._backend.open), address, wait=wait))
        try:
            return await wait_for_result(opening)
        except asyncio.CancelledError:
            if opening.exception() is None and (reader := opening.result()) is not None:
                await self._close(reader)
            raise
        finally:
            del opening  # as `wait_for_result` does

    async def _close(self, reader: Reader) -> None:
        if not reader.close_nowait():
            await self._reads.run(reader.close)

    def _close_soon(self, reader: Reader) -> None:
        """Close a reader that the event loop has kept open; in a thread if that may block."""
        if not reader.close_nowait():
            self._reads.start(reader.close)

    async def stat(self, address: Address) -> FileInfo:
        # Without `try_open`, whose row may be some seconds old: changes are decided by this answer.
        reader = await self._open_current(address)
        await self._close(reader)
        return reader.info

    @property
    def read_only(self) -> bool:
        return self._read_only

    def check_changeable(self) -> None:
        if self._read_only:
            raise ReadOnly

    async def check(self, key: Key, expect: Expectation) -> None:
        self.check_changeable()
        await self._changes.run(self._timed("check", self._backend.check), key, expect)

    @asynccontextmanager
    async def stage(
        self, *, size: int | None = None, algorithms: Collection[str] = ()
    ) -> AsyncIterator[ThreadedStaged]:
        self.check_changeable()
        open_writer = partial(self._timed("stage", self._backend.stage), size)
        staged = ThreadedStaged(open_writer, self._changes, algorithms)
        try:
            if size is not None and size > SMALL_UPLOAD:
                await staged.open()
            yield staged
        finally:
            try:
                await staged.wait_for_writes()
            finally:
                if staged.writer is not None:
                    await self._changes.run(staged.writer.discard)

    async def commit(
        self,
        key: Key,
        staged: Staged,
        *,
        content_type: str,
        expect: Expectation = Expect.ANY,
        origin: FileInfo | None = None,
    ) -> Committed:
        self.check_changeable()
        if not isinstance(staged, ThreadedStaged):
            raise TypeError("Another Storage object staged these bytes. Commit them with that one.")
        await staged.flush()
        details: _Details = {
            "sha256": staged.sha256,
            "content_type": content_type,
            "expect": expect,
            "origin": origin,
            "is_utf8": staged.is_utf8,
        }
        committed = None
        if staged.writer is None:
            store_async = timed_async(self._observer, "store", self._backend.store_async)
            committed = await store_async(key, staged.held, **details)
            commit = partial(self._timed("store", self._backend.store), key, staged.held)
        else:
            commit = partial(
                self._timed("commit", self._backend.commit), key, staged.writer, size=staged.size
            )
        if committed is None:
            committed = await self._changes.run(partial(commit, **details))
        self._reopened.close_all()  # the space of a replaced file is free now, not a second later
        return committed

    async def delete(self, key: Key, *, expect: Expectation = Expect.ANY) -> None:
        self.check_changeable()
        await self._changes.run(self._timed("delete", self._backend.delete), key, expect)
        self._reopened.close_all()

    async def move(self, source: Key, target: Key, *, expect: Expectation = Expect.ANY) -> FileInfo:
        self.check_changeable()
        return await self._changes.run(self._timed("move", self._backend.move), source, target, expect)

    async def page(self, listing: Listing, *, cursor: str | None, limit: int) -> Page:
        page = partial(self._timed("page", self._backend.page), listing, cursor=cursor, limit=limit)
        return await self._listed(page)

    async def render_page(
        self,
        listing: Listing,
        format_of: FolderFormat,
        *,
        cursor: str | None,
        limit: int,
    ) -> RenderedPage:
        # Writing the text only computes: several threads would compete with the event loop for processors.
        render = partial(self._timed("page", self._backend.render_page), turn=self._rendering)
        return await self._listed(partial(render, listing, format_of, cursor=cursor, limit=limit))

    async def _listed(self, page: Callable[..., T | None]) -> T:
        found = await self._reads.run(partial(page, wait=False))
        if found is None:
            found = await self._refreshes.run(partial(page, wait=True))
        assert found is not None
        return found

    async def folders(self, library: str, folder: str, *, limit: int) -> tuple[str, ...]:
        folders = partial(self._timed("folders", self._backend.folders), limit=limit)
        return await self._reads.run(folders, library, folder)

    async def libraries(self) -> tuple[str, ...]:
        return await self._reads.run(self._timed("libraries", self._backend.libraries))

    async def usage(self, library: str | None = None) -> Usage:
        # A client waits for the usage of one library; that of all may take long.
        pool = self._maintenance_pool if library is None else self._reads
        return await pool.run(self._timed("usage", self._maintenance.usage), library)

    async def estimate_file_count(self) -> int:
        return await self._maintenance_pool.run(self._maintenance.estimate_file_count)

    def scan(self) -> AsyncGenerator[ScanStep, None]:
        return self._steps(partial(_observed_scan, self._observer, self._maintenance))

    def adopt_all(self, library: str) -> AsyncGenerator[ScanStep, None]:
        return self._steps(partial(self._maintenance.adopt_all, library))

    def hash_unverified(self) -> AsyncGenerator[int, None]:
        return self._steps(partial(_observed_hashing, self._observer, self._maintenance))

    def verify(self) -> AsyncGenerator[VerifyStep, None]:
        return self._steps(self._maintenance.verify)

    async def _steps(self, begin: Callable[[], Generator[T]]) -> AsyncGenerator[T, None]:
        """Yield the steps of a backend's generator, each of which runs in a thread."""
        steps = begin()
        try:
            while (step := await self._maintenance_pool.run(next, steps, None)) is not None:
                yield step
        finally:
            await self._maintenance_pool.run(steps.close)

    @property
    def parts(self) -> tuple[str, ...]:
        return self._backend.parts

    async def ping(self, part: str | None = None) -> None:
        # `start`, not `run`: when cancelled, a ping in the queue is removed instead of awaited.
        await self._pings[part].start(self._timed("ping", self._backend.ping), part)

    def _timed(self, operation: str, function: Callable[P, T]) -> Callable[P, T]:
        return timed(self._observer, operation, function)
