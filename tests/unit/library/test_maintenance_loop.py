"""The server looks after its files by itself: over a real storage, with short intervals."""

import asyncio
import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

from app.database import open_database
from app.database.filesystem import reconcile
from app.library import maintenance_loop
from app.library.maintenance_loop import Upkeep
from app.settings import Settings
from app.storage.contract import Storage
from app.storage.types import SHARED, Change, Key, Listing

pytestmark = pytest.mark.anyio

FAR_AWAY = 100_000
FILM = Key(SHARED, "films", "film.mp4")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the files."""
    monkeypatch.setattr(reconcile, "STABLE_AFTER_S", 0.1)
    return tmp_path


@pytest.fixture
async def storage(root: Path, anyio_backend: str) -> AsyncIterator[Storage]:
    async with open_database(Settings(_env_file=None, files_dir=root), media_type=str) as stores:
        yield stores.storage


@asynccontextmanager
async def running(storage: Storage, interval_s: float) -> AsyncIterator[Upkeep]:
    """It runs, and is cancelled at the end."""
    looking_after = Upkeep(storage, interval_s)
    task = asyncio.create_task(looking_after.run())
    try:
        yield looking_after
        assert not task.done(), "it goes on whatever happens"
    finally:
        await cancelled(task)


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def until(condition: Callable[[], object], within: float = 20) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)


def drop(root: Path, data: bytes = b"film", key: Key = FILM) -> Path:
    path = root / key.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def sql(root: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(root / ".seekable" / "seekable.db", isolation_level=None)) as database:
        return database.execute(statement).fetchall()


def hashes(root: Path) -> list[object]:
    return [row[0] for row in sql(root, "SELECT sha256 FROM media ORDER BY folder, filename")]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_what_is_there_at_the_start_is_found_and_hashed(
    storage: Storage, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "seekable")
    drop(root)
    await asyncio.sleep(0.15)
    async with running(storage, FAR_AWAY):
        await until(lambda: hashes(root) == [sha256(b"film")])
    assert [record.getMessage() for record in caplog.records] == ["Scanned the files: 1 created"]


async def test_it_scans_again_and_again(
    storage: Storage, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "seekable")
    async with running(storage, 0.05):
        await asyncio.sleep(0.2)
        assert caplog.records == [], "of a scan that finds nothing nobody need hear"
        for data in (b"first", b"second"):
            drop(root, data, Key(SHARED, "", data.decode()))
            await until(lambda data=data: sha256(data) in hashes(root))


async def test_the_next_scan_waits_for_its_time(storage: Storage, root: Path) -> None:
    async with running(storage, FAR_AWAY):
        await asyncio.sleep(0.3)
        drop(root)
        await asyncio.sleep(0.5)
        assert hashes(root) == []


async def test_it_rests_when_there_is_nothing_to_do(storage: Storage) -> None:
    async with running(storage, FAR_AWAY):
        await asyncio.sleep(0.2)
        began = time.process_time()
        await asyncio.sleep(0.5)
        assert time.process_time() - began < 0.1


async def test_what_came_in_between_is_hashed_soon(root: Path) -> None:
    """A list took it in, and the storage told of that, by any thread."""
    loop = asyncio.get_running_loop()

    def notice(changes: Sequence[Change]) -> None:
        loop.call_soon_threadsafe(looking_after.hash_soon)

    settings = Settings(_env_file=None, files_dir=root)
    async with (
        open_database(settings, media_type=str, notice=notice) as stores,
        running(stores.storage, FAR_AWAY) as looking_after,
    ):
        await asyncio.sleep(0.3)
        for number in (1, 2):
            drop(root, b"x" * number, Key(SHARED, "", f"{number}"))
            await asyncio.sleep(0.15)
            await stores.storage.page(Listing(SHARED), cursor=None, limit=9)
            await until(lambda: None not in hashes(root))
            assert len(hashes(root)) == number


# What goes wrong


async def test_a_scan_that_fails_is_logged_and_tried_again_soon(
    storage: Storage, root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance_loop, "RETRY_AFTER_S", 0.05)
    drop(root)
    await asyncio.sleep(0.15)
    await storage.stat(FILM)
    elsewhere = root / ".seekable" / "elsewhere"
    (root / ".seekable" / "id").rename(elsewhere)  # another disk, it seems
    (root / FILM.path).unlink()
    async with running(storage, FAR_AWAY):
        await until(lambda: len(caplog.records) >= 2)
        assert len(hashes(root)) == 1
        elsewhere.rename(root / ".seekable" / "id")
        await until(lambda: hashes(root) == [])
    said = {record.getMessage() for record in caplog.records if record.levelno == logging.ERROR}
    assert said == {
        "The files could not be scanned: The folder of files is not the one that the database speaks of."
    }
    assert all(record.exc_info is None for record in caplog.records)


async def test_hashing_that_fails_is_logged_and_tried_again(
    storage: Storage, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drop(root)
    await asyncio.sleep(0.15)
    await storage.stat(FILM)
    sql(root, "CREATE TRIGGER trap BEFORE UPDATE ON media BEGIN SELECT RAISE (ABORT, 'no'); END")
    async with running(storage, FAR_AWAY) as looking_after:
        await until(lambda: caplog.records)
        (record,) = caplog.records
        assert record.getMessage().startswith("The files could not be hashed: The database refuses")
        assert record.exc_info is None
        sql(root, "DROP TRIGGER trap")
        looking_after.hash_soon()
        await until(lambda: hashes(root) == [sha256(b"film")])


async def test_what_nobody_thought_of_does_not_end_it(
    storage: Storage, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a row in which somebody wrote."""
    drop(root, b"old")
    await asyncio.sleep(0.15)
    await storage.stat(FILM)
    drop(root)
    sql(root, "UPDATE media SET updated_at = 'nonsense'")
    async with running(storage, 0.05):
        for what in ("scanned", "hashed"):
            await until(lambda what=what: caplog.text.count(f"could not be {what}") >= 2)
        sql(root, "UPDATE media SET updated_at = '2020-01-01 00:00:00.000000'")
        await until(lambda: hashes(root) == [sha256(b"film")])
    assert any(record.exc_info for record in caplog.records), "a traceback helps to find out"


# It ends


async def test_it_ends_when_it_is_cancelled_while_it_hashes(storage: Storage, root: Path) -> None:
    with drop(root).open("r+b") as file:
        file.truncate(8 << 30)  # hours would not be enough on a slow disk; it takes no room
    await asyncio.sleep(0.15)
    await storage.stat(FILM)
    task = asyncio.create_task(Upkeep(storage, FAR_AWAY).run())
    await until(lambda: FILM.filename in opened())
    began = time.monotonic()
    await cancelled(task)
    assert time.monotonic() - began < 5
    assert FILM.filename not in opened()
    assert hashes(root) == [None]


def opened() -> set[str]:
    """Names of the files that this process has open."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.add(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
    return found


async def test_it_ends_when_it_is_cancelled_in_the_middle_of_a_step(storage: Storage, root: Path) -> None:
    """Which is waited for, so that nothing is closed under it."""
    with closing(sqlite3.connect(root / ".seekable" / "seekable.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(Upkeep(storage, FAR_AWAY).run())
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.sleep(0.1)
        assert not task.done()
        other.execute("ROLLBACK")
        async with asyncio.timeout(10):
            await cancelled(task)
    assert await storage.usage()


# Its pace


async def test_each_step_is_followed_by_a_rest_of_its_own_length() -> None:
    async def steps() -> AsyncGenerator[int, None]:
        for number in range(5):
            await asyncio.sleep(0.04)
            yield number

    began = time.monotonic()
    assert [step async for step in maintenance_loop._unhurried(steps())] == [0, 1, 2, 3, 4]
    took = time.monotonic() - began
    assert took >= 10 * 0.04 - 0.01
    assert took < 1.8, "and not of all the steps before"


async def test_a_rest_is_never_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance_loop, "LONGEST_REST_S", 0.01)

    async def steps() -> AsyncGenerator[None, None]:
        await asyncio.sleep(1)
        yield

    began = time.monotonic()
    assert [step async for step in maintenance_loop._unhurried(steps())] == [None]
    assert time.monotonic() - began < 1.8
