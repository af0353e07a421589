"""Small uploads that are committed from the event loop, without the driver."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack, aclosing
from typing import Any

import pytest
import uvloop

from app.storage.async_storage import ThreadedStorage
from app.storage.errors import AlreadyExists, PathConflict, StorageUnavailable, VersionMismatch
from app.storage.types import SHARED, Committed, Expect, Expectation, Key
from tests.support import mongo
from tests.unit.database.gridfs.conftest import Commands, Grid
from tests.unit.database.gridfs.test_upload_groups import check_sound


def key(path: str) -> Key:
    folder, _, filename = path.rpartition("/")
    return Key(SHARED, folder, filename)


async def put(
    storage: ThreadedStorage, path: str, data: bytes = b"film", expect: Expectation = Expect.ANY
) -> Committed:
    async with storage.stage() as staged:
        await staged.write(data)
        return await storage.commit(key(path), staged, content_type="video/mp4", expect=expect)


async def read(storage: ThreadedStorage, path: str) -> bytes:
    async with (
        storage.open(key(path)) as file,
        aclosing(file.read(0, file.info.size)) as data,
    ):
        return b"".join([piece async for piece in data])


async def try_all(*puts: Any) -> list[Any]:
    return await asyncio.gather(*puts, return_exceptions=True)


def run_with_library(
    scenario: Callable[[Grid, ThreadedStorage], Any], run: Callable[[Any], Any] = asyncio.run
) -> None:
    async def run_scenario() -> None:
        with ExitStack() as stack:
            grid = Grid(stack)
            storage = ThreadedStorage(grid.backend)
            stack.callback(storage.close)
            await scenario(grid, storage)
            check_sound(grid)

    run(run_scenario())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_small_uploads_are_stored_without_driver(commands: Commands, run: Callable[[Any], Any]) -> None:
    async def scenario(grid: Grid, storage: ThreadedStorage) -> None:
        commands.sent.clear()
        for data in (b"one", bytes(200_000), b""):
            results = await try_all(*(put(storage, f"{n}/a.mp4", data) for n in range(40)))
            assert [each.info.size for each in results] == [len(data)] * 40
            assert [each.created for each in results] == [data == b"one"] * 40
        assert [each for each in commands.sent if "insert" in each or "update" in each] == []
        await put(storage, "0/a.mp4", b"last")
        assert await read(storage, "0/a.mp4") == b"last"
        assert await read(storage, "39/a.mp4") == b""

    run_with_library(scenario, run)


def test_upload_that_fails_does_not_fail_its_neighbours() -> None:
    async def scenario(grid: Grid, storage: ThreadedStorage) -> None:
        await put(storage, "file")
        await put(storage, "folder/x")
        results = await try_all(
            put(storage, "file", expect=Expect.ABSENT),
            put(storage, "folder/x", expect="another"),
            put(storage, "file/below"),
            put(storage, "folder"),
            put(storage, "new"),
            put(storage, "new"),
        )
        failed = [AlreadyExists, VersionMismatch, PathConflict, PathConflict]
        assert [type(each) for each in results] == [*failed, Committed, Committed]
        assert [each.created for each in results[4:]] == [True, False]
        assert grid.paths() == ["file", "new", "folder/x"]

    run_with_library(scenario)


@pytest.mark.parametrize("place", range(1, 5))
def test_refused_write_fails_no_upload_or_all_of_a_group(place: int) -> None:
    """The server refuses writes to one collection for a moment."""
    name = ["", "media.uploads", "fs.chunks", "fs.files", "media"][place]
    command = "update" if place == 1 else "insert"

    async def scenario(grid: Grid, storage: ThreadedStorage) -> None:
        await put(storage, "first")
        with mongo.fail_point(grid.database, command, name, errorCode=1):
            results = await try_all(*(put(storage, f"{n}") for n in range(4)))
        assert {type(each) for each in results} <= {Committed, StorageUnavailable}
        stored = [f"{n}" for n in range(4) if isinstance(results[n], Committed)]
        assert [path for path in grid.paths() if path != "first"] == stored
        results = await try_all(*(put(storage, f"{n}", b"again") for n in range(4)))
        assert {type(each) for each in results} == {Committed}

    run_with_library(scenario)


def test_upload_is_committed_although_its_client_leaves() -> None:
    async def scenario(grid: Grid, storage: ThreadedStorage) -> None:
        uploading = asyncio.create_task(put(storage, "a"))
        while not grid.backend._groups._queue and not uploading.done():
            await asyncio.sleep(0)
        uploading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await uploading
        assert grid.paths() == ["a"]

    run_with_library(scenario)


def test_uploads_of_one_path_do_not_wait_one_after_another_for_silent_database() -> None:
    async def scenario(grid: Grid, storage: ThreadedStorage) -> None:
        await put(storage, "a")
        silence = {"blockConnection": True, "blockTimeMS": 3500}
        with mongo.fail_point(grid.database, "find", "media", {"times": 2}, **silence):
            results = await try_all(*(put(storage, "a", f"{n}".encode()) for n in range(6)))
        assert {type(each) for each in results} == {StorageUnavailable}
        await put(storage, "a", b"last")
        assert await read(storage, "a") == b"last"

    run_with_library(scenario)
