"""The asynchronous face of any blocking backend."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Generator
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from app.storage.backend import Backend, Reader
from app.storage.budget import Budget
from app.storage.contract import Staged
from app.storage.errors import ReadOnly, StorageUnavailable, Unfinished
from app.storage.opened import ThreadedOpenFile, Threads
from app.storage.staged import ThreadedStaged
from app.storage.threads import Pool, ended
from app.storage.types import Address, Committed, Expect, Expectation, FileInfo, Key, Listing, Page
from app.storage.upkeep import Scanned, Usage, Verified

T = TypeVar("T")

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

    def __init__(self, backend: Backend, *, threads: int = 16, read_only: bool = False) -> None:
        self._backend = backend
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
        file = ThreadedOpenFile(reader, self._bytes, self._budget)
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
            with contextlib.suppress(Unfinished):
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
        opening = pool.start(lambda: self._backend.open(address, wait=wait))
        try:
            return await ended(opening)
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
        await self._changes.run(self._backend.check, key, expect)

    @asynccontextmanager
    async def stage(
        self, *, size: int | None = None, algorithms: Collection[str] = ()
    ) -> AsyncIterator[ThreadedStaged]:
        self.check_changeable()
        staging = self._changes.start(self._backend.stage, size)
        try:
            writer = await ended(staging)
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
        return await self._changes.run(
            lambda: self._backend.commit(
                key,
                staged.writer,
                size=staged.size,
                sha256=staged.sha256,
                content_type=content_type,
                expect=expect,
                origin=origin,
                is_utf8=staged.is_utf8,
            )
        )

    async def delete(self, key: Key, *, expect: Expectation = Expect.ANY) -> None:
        self.check_changeable()
        await self._changes.run(self._backend.delete, key, expect)

    async def move(self, source: Key, target: Key, *, expect: Expectation = Expect.ANY) -> FileInfo:
        self.check_changeable()
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

    async def usage(self, library: str | None = None) -> Usage:
        # Somebody waits for the one; the other may take long.
        pool = self._upkeep if library is None else self._reads
        return await pool.run(self._backend.usage, library)

    async def to_scan(self) -> int:
        return await self._upkeep.run(self._backend.to_scan)

    def scan(self) -> AsyncGenerator[Scanned, None]:
        return self._steps(self._backend.scan)

    def adopt_all(self, library: str) -> AsyncGenerator[Scanned, None]:
        return self._steps(partial(self._backend.adopt_all, library))

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

    @property
    def parts(self) -> tuple[str, ...]:
        return self._backend.parts

    async def ping(self, part: str | None = None) -> None:
        # Not `run`: one that nobody waits for any more is taken from the queue, not waited for.
        await self._pings[part].start(self._backend.ping, part)
