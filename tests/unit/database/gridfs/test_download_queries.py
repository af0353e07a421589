"""Database queries per download, and the memory that all downloads share."""

import asyncio
import hashlib
import os
import random
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, ExitStack, aclosing, asynccontextmanager
from typing import Any

import pytest
from pymongo.database import Database

from app.database.gridfs.bucket import CHUNK_SIZE
from app.database.gridfs.opening import open_gridfs
from app.settings import Settings
from app.storage.async_storage import Observer, ThreadedStorage
from app.storage.contract import Storage
from app.storage.readahead import PIECE, MemoryBudget
from app.storage.types import SHARED, Key, Piece
from tests.support import mongo
from tests.unit.database.gridfs.conftest import Queries

pytestmark = pytest.mark.anyio

FILM = Key(SHARED, "", "film.mp4")
DATA = os.urandom(80 * CHUNK_SIZE - 1000)


@asynccontextmanager
async def stored(
    budget: MemoryBudget | None = None, observer: Observer | None = None
) -> AsyncIterator[tuple[ThreadedStorage, Database[dict[str, Any]]]]:
    """Open a library with one film. Yields it with its database."""
    settings = Settings(_env_file=None, **mongo.gridfs())
    assert settings.mongodb_url is not None
    with ExitStack() as stack:
        storage = ThreadedStorage(open_gridfs(settings, stack), budget=budget, observer=observer)
        stack.callback(storage.close)
        async with storage.stage() as staged:
            await staged.write(DATA)
            await storage.commit(FILM, staged, content_type="video/mp4")
        yield storage, mongo.database(settings.mongodb_url)


def chunks_of(start: int, stop: int) -> int:
    """Return the number of chunks that a range touches."""
    return -(-min(stop, len(DATA)) // CHUNK_SIZE) - start // CHUNK_SIZE


@pytest.mark.parametrize(
    ("start", "size", "max_queries"),
    [
        (0, 1, 1),
        (300_000, 64 << 10, 1),
        (CHUNK_SIZE - 1, 64 << 10, 1),
        (0, 1 << 20, 1),
        (CHUNK_SIZE - 1, 1 << 20, 1),
        (3_000_001, 1 << 20, 1),
        (len(DATA) - (1 << 20), 1 << 20, 1),
        (0, len(DATA), 16),  # one chunk at first, more per query later
        (12_345, len(DATA) - 12_345, 16),
    ],
)
async def test_download_queries_each_chunk_once(start: int, size: int, max_queries: int) -> None:
    async with stored() as (storage, database):
        queries = Queries(database, "fs.chunks")
        async with storage.open(FILM) as file:
            data = b"".join([data async for data in file.read(start, start + size)])
    assert data == DATA[start : start + size]
    assert {*queries.names} == {"find"}
    assert len(queries.names) <= max_queries
    assert queries.documents == chunks_of(start, start + size)


async def test_download_queries_few_chunks_when_client_leaves_early() -> None:
    async with stored() as (storage, database):
        queries = Queries(database, "fs.chunks")
        async with storage.open(FILM) as file, aclosing(file.read(0, len(DATA))) as data:
            await anext(data)
    assert queries.documents <= 2


class Recorder(Observer):
    def __init__(self) -> None:
        self.operations: list[str] = []

    def operation_ended(self, operation: str, seconds: float, *, failed: bool) -> None:
        assert not failed
        self.operations.append(operation)


async def test_reads_of_database_are_timed() -> None:
    recorder = Recorder()
    async with stored(observer=recorder) as (storage, _):
        async with storage.open(FILM) as file:
            assert [piece async for piece in file.read(0, 10)] == [DATA[:10]]
        assert recorder.operations == ["stage", "commit", "open", "read"]


class Reading:
    """A download that reads one piece at a time."""

    def __init__(self, data: AsyncGenerator[Piece, None]) -> None:
        self._data = data
        self._digest = hashlib.sha256()
        self._piece: Piece = b""

    async def take(self) -> bool:
        """Read one piece and return whether there was one."""
        self._digest.update(self._piece)
        self._piece = b""
        self._piece = await anext(self._data, b"")
        return bool(self._piece)

    async def rest(self) -> str:
        while await self.take():
            await asyncio.sleep(0)
        return self._digest.hexdigest()


@asynccontextmanager
async def reading(storage: Storage) -> AsyncIterator[Reading]:
    async with storage.open(FILM) as file, aclosing(file.read(0, len(DATA))) as data:
        yield Reading(data)


async def test_stalled_readers_release_memory_to_others() -> None:
    """All readers together stay within the shared limit, plus two small pieces each. Readers that continue
    get the stored bytes, and cancelled readers block no others."""
    budget = MemoryBudget(32 * CHUNK_SIZE, idle_s=0.05, slow_s=0.05)
    wanted, generator = hashlib.sha256(DATA).hexdigest(), random.Random(1)
    async with stored(budget) as (storage, _), AsyncExitStack() as stack:
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        stopped = [await stack.enter_async_context(reading(storage)) for _ in range(100)]
        for one in stopped:
            for _ in range(generator.choice([1, 2, 5, 15])):
                await one.take()
        await asyncio.sleep(0.1)
        async with reading(storage) as quick:
            assert await quick.rest() == wanted
        for one in stopped:
            await one.take()
        await asyncio.sleep(0.1)
        held, _ = tracemalloc.get_traced_memory()
        assert held - before < 32 * CHUNK_SIZE + len(stopped) * (2 * PIECE + 16_000)
        tracemalloc.stop()  # it slows down everything else
        leaving = [asyncio.create_task(download_until_cancelled(storage)) for _ in range(5)]
        digests = await asyncio.gather(*(one.rest() for one in stopped[:6]))
        assert {*digests} == {wanted}
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        del stopped[6:]
        await stack.aclose()
        assert (budget.held, budget.lent) == (0, 0)


async def download_until_cancelled(storage: Storage) -> None:
    """Download repeatedly until cancelled."""
    while True:
        async with reading(storage) as one:
            await one.rest()
