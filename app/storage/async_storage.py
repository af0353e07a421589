"""The asynchronous face of any blocking backend."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Generator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import ParamSpec, TypeVar

from app.storage.backend import Backend, Reader, Writer
from app.storage.content_hash import ContentHash
from app.storage.contract import Staged
from app.storage.errors import OutOfSpace, ReadOnly, StorageError, StorageUnavailable, Truncated, Unfinished
from app.storage.maintenance import Maintenance, ScanStep, Usage, VerifyStep
from app.storage.memory_budget import Budget
from app.storage.readahead import ReadAhead
from app.storage.types import Address, Committed, Expect, Expectation, FileInfo, Key, Listing, Page
from app.storage.workers import Pool, wait_for_result, wait_until_done

P = ParamSpec("P")
T = TypeVar("T")

FAILURES = (StorageUnavailable, OutOfSpace, Truncated)
"""Errors that are failures of the database or the disk; all others are answers to the caller."""


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

    def __init__(self, reader: Reader, threads: Threads, budget: Budget, observer: Observer) -> None:
        self._reader = reader
        # The kernel reads a descriptor by itself, so those reads cannot be timed.
        self._read = timed(observer, "read", reader.read) if reader.fileno() is None else reader.read
        self._threads = threads
        self._budget = budget
        self._under_way: set[asyncio.Future[list[bytes]]] = set()

    @property
    def info(self) -> FileInfo:
        return self._reader.info

    def fileno(self) -> int | None:
        return self._reader.fileno()

    async def preload(self, start: int, stop: int) -> None:
        if not self._reader.is_cached(start, stop):
            await self._threads.now.run(self._reader.preload, start, stop)

    async def read(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        ahead = ReadAhead(self._reader, self._read, self._budget, self._begin, start, stop)
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
            await wait_until_done(asyncio.gather(*self._under_way, return_exceptions=True))

    def _begin(self, read: Callable[[], list[bytes]], *, ahead: bool) -> asyncio.Future[list[bytes]]:
        future = (self._threads.ahead if ahead else self._threads.now).start(read)
        self._under_way.add(future)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: asyncio.Future[list[bytes]]) -> None:
        self._under_way.discard(future)
        if not future.cancelled():
            future.exception()  # seen: of a read that was left, nobody else looks at it


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
        self._series = pool.serial_queue()
        self._fingerprint = ContentHash(algorithms)
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
        await wait_until_done(asyncio.gather(*self._under_way, return_exceptions=True))

    async def _write_batch(self) -> None:
        await self._wait_for_all_but(AHEAD - 1)
        pieces, self._batch, self._collected = self._batch, [], 0
        if pieces:
            self._under_way.append(self._series.start(self._write, pieces))

    async def _wait_for_all_but(self, count: int) -> None:
        while len(self._under_way) > count:
            await wait_for_result(self._under_way[0])
            self._under_way.popleft()  # one that failed stays, and fails all that comes after it

    def _write(self, pieces: list[bytes]) -> None:
        if len(pieces) > FEW:
            pieces[:] = [b"".join(pieces)]
        for piece in pieces:
            self._fingerprint.update(piece)
            self.writer.write(piece)
            self._size += len(piece)


WRITER_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Pauses between attempts to open a file that another program is writing."""

IN_MEMORY = 32 << 20
"""Bytes of files that are on their way to all clients together; see Budget."""


class ThreadedStorage:
    """`contract.Storage` over a `backend.Backend`.

    Reads and changes have threads of their own, so that changes that wait for one another in the database
    keep no reader waiting; so have the bytes of files, so that downloads from a slow database keep no list
    waiting; so has what reads everything; and so has the ping of each part, so that it is answered when
    all others are busy, or that part alone does not answer.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        threads: int = 16,
        read_only: bool = False,
        observer: Observer | None = None,
    ) -> None:
        self._backend = backend
        self._observer = observer or Observer()
        self._maintenance = backend.maintenance
        self._read_only = read_only
        self._reads = Pool(threads, "read")
        self._bytes = Threads(threads)
        self._changes = Pool(threads, "change")
        self._looks = Pool(threads, "look")
        self._upkeep = Pool(2, "upkeep")
        self._pings = {part: Pool(1, "ping") for part in (None, *backend.parts)}
        self._budget = Budget(IN_MEMORY)

    def close(self) -> None:
        """Wait for what is under way. Nothing may be asked of the storage afterwards."""
        for pool in (self._reads, self._bytes, self._changes, self._looks, self._upkeep):
            pool.close()
        for pings in self._pings.values():
            pings.close()

    @asynccontextmanager
    async def open(self, address: Address) -> AsyncIterator[ThreadedOpenFile]:
        reader = self._backend.try_open(address) or await self._open_now(address)
        file = ThreadedOpenFile(reader, self._bytes, self._budget, self._observer)
        try:
            yield file
        finally:
            try:
                await file.settle()
            finally:
                await self._close(reader)

    async def _open_now(self, address: Address) -> Reader:
        """Open the file that the backend has at the address now.

        Waits a moment for a program that is writing the file: an encoder rewrites a live playlist within
        milliseconds, again and again.
        """
        for pause in WRITER_PAUSES_S:
            with suppress(Unfinished):
                return await self._open_settled(address)
            await asyncio.sleep(pause)
        return await self._open_settled(address)

    async def _open_settled(self, address: Address) -> Reader:
        # What has to wait for changes waits among them, and keeps no other reader from a thread.
        reader = await self._open(self._reads, address, wait=False)
        if reader is None:
            reader = await self._open(self._changes, address, wait=True)
        if reader is None:
            raise StorageUnavailable("The file could not be opened.")
        return reader

    async def _open(self, pool: Pool, address: Address, *, wait: bool) -> Reader | None:
        opening = pool.start(partial(self._timed("open", self._backend.open), address, wait=wait))
        try:
            return await wait_for_result(opening)
        except asyncio.CancelledError:
            if opening.exception() is None and (reader := opening.result()) is not None:
                await self._close(reader)
            raise

    async def _close(self, reader: Reader) -> None:
        if not reader.close_nowait():
            await self._reads.run(reader.close)

    async def stat(self, address: Address) -> FileInfo:
        # Not what was true a moment ago: changes are decided by it.
        reader = await self._open_now(address)
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
        staging = self._changes.start(self._timed("stage", self._backend.stage), size)
        try:
            writer = await wait_for_result(staging)
        except asyncio.CancelledError:
            if staging.exception() is None:
                await self._changes.run(staging.result().discard)
            raise
        staged = ThreadedStaged(writer, self._changes, algorithms)
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
        self.check_changeable()
        if not isinstance(staged, ThreadedStaged):
            raise TypeError("These bytes were staged by another storage.")
        await staged.flush()
        commit = partial(
            self._timed("commit", self._backend.commit),
            key,
            staged.writer,
            size=staged.size,
            sha256=staged.sha256,
            content_type=content_type,
            expect=expect,
            origin=origin,
            is_utf8=staged.is_utf8,
        )
        return await self._changes.run(commit)

    async def delete(self, key: Key, *, expect: Expectation = Expect.ANY) -> None:
        self.check_changeable()
        await self._changes.run(self._timed("delete", self._backend.delete), key, expect)

    async def move(self, source: Key, target: Key, *, expect: Expectation = Expect.ANY) -> FileInfo:
        self.check_changeable()
        return await self._changes.run(self._timed("move", self._backend.move), source, target, expect)

    async def page(self, listing: Listing, *, cursor: str | None, limit: int) -> Page:
        page = partial(self._timed("page", self._backend.page), listing, cursor=cursor, limit=limit)
        found = await self._reads.run(partial(page, wait=False))
        if found is None:
            found = await self._looks.run(partial(page, wait=True))
        assert found is not None
        return found

    async def folders(self, library: str, folder: str) -> tuple[str, ...]:
        return await self._reads.run(self._timed("folders", self._backend.folders), library, folder)

    async def libraries(self) -> tuple[str, ...]:
        return await self._reads.run(self._timed("libraries", self._backend.libraries))

    async def usage(self, library: str | None = None) -> Usage:
        # Somebody waits for the one; the other may take long.
        pool = self._upkeep if library is None else self._reads
        return await pool.run(self._timed("usage", self._maintenance.usage), library)

    async def estimate_file_count(self) -> int:
        return await self._upkeep.run(self._maintenance.estimate_file_count)

    def scan(self) -> AsyncGenerator[ScanStep, None]:
        return self._steps(partial(_observed_scan, self._observer, self._maintenance))

    def adopt_all(self, library: str) -> AsyncGenerator[ScanStep, None]:
        return self._steps(partial(self._maintenance.adopt_all, library))

    def hash_unverified(self) -> AsyncGenerator[int, None]:
        return self._steps(partial(_observed_hashing, self._observer, self._maintenance))

    def verify(self) -> AsyncGenerator[VerifyStep, None]:
        return self._steps(self._maintenance.verify)

    def _timed(self, operation: str, function: Callable[P, T]) -> Callable[P, T]:
        return timed(self._observer, operation, function)

    async def _steps(self, begin: Callable[[], Generator[T]]) -> AsyncGenerator[T, None]:
        """What a backend's generator yields, each step taken in a thread."""
        steps = begin()
        try:
            while (step := await self._upkeep.run(next, steps, None)) is not None:
                yield step
        finally:
            await self._upkeep.run(steps.close)

    @property
    def parts(self) -> tuple[str, ...]:
        return self._backend.parts

    async def ping(self, part: str | None = None) -> None:
        # Not `run`: one that nobody waits for any more is taken from the queue, not waited for.
        await self._pings[part].start(self._timed("ping", self._backend.ping), part)
