"""Files of the bucket: reading with any chunk sizes, and the threads that write chunks."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing
from typing import Any

import pytest
from bson import Binary, ObjectId

from app.database import open_stores
from app.database.gridfs.backend import GridBackend
from app.database.gridfs.bucket import ChunkSenders
from app.database.gridfs.grid_reader import MAX_QUERY_CHUNKS
from app.database.gridfs.opening import open_gridfs
from app.settings import Settings
from app.storage.backend import batches
from app.storage.contract import Storage
from app.storage.errors import StorageUnavailable
from app.storage.maintenance import Integrity
from app.storage.types import SHARED, Key, Listing
from tests.support import mongo
from tests.support.beneath import bucket_file
from tests.unit.database.gridfs.conftest import Queries


def library(stack: ExitStack, size: int, chunk_size: int, chunks: list[Any]) -> GridBackend:
    """Open a library with one file that consists of these chunks."""
    settings = Settings(_env_file=None, **mongo.gridfs())
    assert settings.mongodb_url is not None
    database, file = mongo.database(settings.mongodb_url), ObjectId()
    database["fs.chunks"].insert_many(
        {"files_id": file, "n": n, "data": data} for n, data in enumerate(chunks)
    )
    database["fs.files"].insert_one(bucket_file(file, "a.mp4", size) | {"chunkSize": chunk_size})
    backend = open_gridfs(settings, stack)
    for _ in backend.maintenance.scan():
        pass
    return backend


def test_short_chunks_are_read_in_bounded_batches() -> None:
    size = 5000
    with ExitStack() as stack:
        backend = library(stack, size, 1, [bytes([n % 251]) for n in range(size)])
        reader = backend.open(Key(SHARED, "", "a.mp4"), wait=True)
        assert (reader.unit, reader.max_units) == (MAX_QUERY_CHUNKS, 1)
        parts = [
            reader.read(start, stop - start)
            for start, stop in batches(0, size, unit=reader.unit, max_units=1)
        ]
    assert {len(pieces) for pieces in parts} == {1}
    data = b"".join(piece for pieces in parts for piece in pieces)
    assert data == bytes(n % 251 for n in range(size))


@pytest.mark.parametrize("data", ["text", None, 5, Binary(b"four", 2), Binary(b"four", 128)])
def test_chunk_without_bytes_counts_as_damaged(data: object) -> None:
    with ExitStack() as stack:
        verdicts = [step.verdict for step in library(stack, 4, 255, [data]).maintenance.verify()]
    expected = Integrity.UNKNOWN if isinstance(data, bytes) else Integrity.DAMAGED
    assert [verdict for verdict in verdicts if verdict is not None] == [expected]


def test_doubles_are_accepted_as_integers() -> None:
    """The MongoDB shell writes doubles such as 10.0 by default."""
    with ExitStack() as stack:
        backend = library(stack, 10, 4, [b"0123", b"4567", b"89"])
        backend.database.media.update_one({}, {"$set": {"size": 10.0, "chunk_size": 4.0}})
        reader = backend.open(Key(SHARED, "", "a.mp4"), wait=True)
        assert repr(reader.info.size) == "10"
        assert b"".join(reader.read(3, 6)) == b"345678"
        backend.database.media.update_one({}, {"$unset": {"chunk_size": 1}})
        with pytest.raises(StorageUnavailable, match="chunk_size"):
            backend.open(Key(SHARED, "", "a.mp4"), wait=True)


def test_open_takes_one_query_and_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, submit = [], ThreadPoolExecutor.submit
    settings, key = Settings(_env_file=None, **mongo.gridfs()), Key(SHARED, "", "a.mp4")

    def counted(*arguments: Any) -> Any:
        threads.append(arguments)
        return submit(*arguments)

    async def scenario() -> None:
        async with open_stores(settings) as stores:
            async with stores.storage.stage() as staged:
                await staged.write(b"film")
                await stores.storage.commit(key, staged, content_type="video/mp4")
            async with stores.storage.open(key):
                pass  # a first connection may look up an address in a thread
            queries = Queries(mongo.database(str(settings.mongodb_url)), "media")
            monkeypatch.setattr(ThreadPoolExecutor, "submit", counted)
            for _ in range(2):
                async with stores.storage.open(key) as file:
                    assert file.info.size == 4
            monkeypatch.undo()
            assert queries.names == ["find", "find"]
            assert threads == []

    asyncio.run(scenario())


def test_list_is_not_blocked_when_downloads_wait_for_database() -> None:
    settings = Settings(_env_file=None, **mongo.gridfs())
    assert settings.mongodb_url is not None
    database, key = mongo.database(settings.mongodb_url), Key(SHARED, "", "a.mp4")
    delay = {
        "failCommands": ["find"],
        "namespace": f"{database.name}.fs.chunks",
        "blockConnection": True,
        "blockTimeMS": 500,
    }

    async def download(storage: Storage) -> None:
        async with storage.open(key) as file, aclosing(file.read(0, 1)) as data:
            async for _ in data:
                pass

    async def scenario() -> float:
        async with open_stores(settings) as stores:
            async with stores.storage.stage() as staged:
                await staged.write(b"film")
                await stores.storage.commit(key, staged, content_type="video/mp4")
            database.client.admin.command(
                {"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": delay}
            )
            try:
                downloads = [asyncio.create_task(download(stores.storage)) for _ in range(32)]
                await asyncio.sleep(0.4)
                began = time.monotonic()
                await stores.storage.page(Listing(SHARED), cursor=None, limit=1)
                took = time.monotonic() - began
                await asyncio.gather(*downloads)
            finally:
                database.client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
        return took

    assert asyncio.run(scenario()) < 0.4


def test_submit_blocks_when_all_threads_are_busy() -> None:
    resume, submitted = threading.Event(), threading.Semaphore(0)

    def submit_three() -> None:
        for _ in range(3):
            senders.submit(resume.wait, 60)
            submitted.release()

    with ChunkSenders(2) as senders:
        writer = threading.Thread(target=submit_three)
        writer.start()
        try:
            assert submitted.acquire(timeout=60)
            assert submitted.acquire(timeout=60)
            assert not submitted.acquire(timeout=0.2)
        finally:
            resume.set()
        assert submitted.acquire(timeout=60)
        writer.join()
