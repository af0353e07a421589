"""What is asked of the database for a download, and what all downloads together keep in memory."""

import asyncio
import hashlib
import os
import random
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import pytest
from pymongo import monitoring

from app.database import open_database
from app.database.gridfs.staging import CHUNK_SIZE
from app.settings import Settings
from app.storage import async_storage, memory_budget, readahead
from app.storage.contract import Storage
from app.storage.types import SHARED, Key
from tests.support import mongo

pytestmark = pytest.mark.anyio

FILM = Key(SHARED, "", "film.mp4")
DATA = os.urandom(80 * CHUNK_SIZE - 1000)


class Asked(monitoring.CommandListener):
    """What is asked of the chunks of all files, and answered."""

    def __init__(self) -> None:
        self.questions: list[str] = []
        self.bytes = 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if "fs.chunks" in (event.command.get("find"), event.command.get("collection")):
            self.questions.append(event.command_name)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        cursor: dict[str, Any] = event.reply.get("cursor") or {}
        if cursor.get("ns", "").endswith(".fs.chunks"):
            assert cursor["id"] == 0, "it stays open"
            self.bytes += sum(len(chunk["data"]) for chunk in cursor["firstBatch"])

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    listener = Asked()
    listeners = monitoring._LISTENERS.command_listeners  # those of every client that is made from now on
    listeners.append(listener)
    yield listener
    listeners.remove(listener)


@asynccontextmanager
async def stored() -> AsyncIterator[Storage]:
    """A library with one film."""
    settings = Settings(_env_file=None, **mongo.gridfs())
    async with open_database(settings, media_type=lambda name: "video/mp4") as stores:
        async with stores.storage.stage() as staged:
            await staged.write(DATA)
            await stores.storage.commit(FILM, staged, content_type="video/mp4")
        yield stores.storage


def parts_of(start: int, stop: int) -> int:
    """Bytes of the chunks that a range touches."""
    return min(len(DATA), -(-stop // CHUNK_SIZE) * CHUNK_SIZE) - start // CHUNK_SIZE * CHUNK_SIZE


@pytest.mark.parametrize(
    ("start", "size", "questions"),
    [
        (0, 1, 1),
        (300_000, 64 << 10, 1),
        (CHUNK_SIZE - 1, 64 << 10, 1),
        (0, 1 << 20, 1),
        (CHUNK_SIZE - 1, 1 << 20, 1),
        (3_000_001, 1 << 20, 1),
        (len(DATA) - (1 << 20), 1 << 20, 1),
        (0, len(DATA), 16),  # of a chunk at first, later of more
        (12_345, len(DATA) - 12_345, 16),
    ],
)
async def test_a_download_asks_for_its_chunks_once(
    asked: Asked, start: int, size: int, questions: int
) -> None:
    async with stored() as storage:
        asked.questions.clear()
        async with storage.open(FILM) as file:
            data = b"".join([data async for data in file.read(start, start + size)])
    assert data == DATA[start : start + size]
    assert {*asked.questions} == {"find"}
    assert len(asked.questions) <= questions
    assert asked.bytes == parts_of(start, start + size)


async def test_who_leaves_at_once_has_not_asked_for_much(asked: Asked) -> None:
    async with stored() as storage:
        asked.bytes = 0
        async with storage.open(FILM) as file, aclosing(file.read(0, len(DATA))) as data:
            await anext(data)
    assert asked.bytes <= 2 * CHUNK_SIZE


class Reading:
    """A download whose client takes a piece whenever it likes."""

    def __init__(self, data: AsyncGenerator[bytes, None]) -> None:
        self._data = data
        self._digest = hashlib.sha256()
        self._piece = b""

    async def take(self) -> bool:
        """Whether there was more."""
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


async def test_readers_that_stop_leave_the_memory_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """All together they hold what there is for all, and each of them two small pieces at most. Whoever reads
    on, beside them or later, gets what is stored, and whoever leaves is in nobody's way."""
    monkeypatch.setattr(async_storage, "IN_MEMORY", 32 * CHUNK_SIZE)
    monkeypatch.setattr(readahead, "SLOW_S", 0.05)
    monkeypatch.setattr(memory_budget, "IDLE_S", 0.05)
    wanted, draw = hashlib.sha256(DATA).hexdigest(), random.Random(1)
    async with stored() as storage, AsyncExitStack() as stack:
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        stopped = [await stack.enter_async_context(reading(storage)) for _ in range(100)]
        for one in stopped:
            for _ in range(draw.choice([1, 2, 5, 15])):
                await one.take()
        await asyncio.sleep(0.1)
        async with reading(storage) as quick:
            assert await quick.rest() == wanted
        for one in stopped:
            await one.take()
        await asyncio.sleep(0.1)
        held, _ = tracemalloc.get_traced_memory()
        assert held - before < 32 * CHUNK_SIZE + len(stopped) * (2 * readahead.PIECE + 16_000)
        tracemalloc.stop()  # it makes all else slow
        leaving = [asyncio.create_task(left(storage)) for _ in range(5)]
        digests = await asyncio.gather(*(one.rest() for one in stopped[:6]))
        assert {*digests} == {wanted}
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        del stopped[6:]
        await stack.aclose()
        assert isinstance(storage, async_storage.ThreadedStorage)
        assert (storage._budget.held, storage._budget.lent) == (0, 0)


async def left(storage: Storage) -> None:
    """Downloads, again and again, until it is cancelled."""
    while True:
        async with reading(storage) as one:
            await one.rest()
