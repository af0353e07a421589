"""Background maintenance over real storage, with short intervals."""

import asyncio
import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

from app.database import open_stores
from app.database.filesystem import Limits
from app.database.filesystem.file_identity import TICK_S
from app.events.feed import Batch, ChangeFeed
from app.library.maintenance_loop import MaintenanceLoop, with_rests
from app.settings import Settings
from app.storage.contract import Storage
from app.storage.types import SHARED, Key, Listing
from tests.unit.database.foreign_changes import wait_for_tick

pytestmark = pytest.mark.anyio

NEVER_S = 100_000
NO_WAITS = Limits(stable_after_s=0, folder_tick_s=TICK_S)
"""New files count as complete at once."""
FILM = Key(SHARED, "films", "film.mp4")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder of files."""
    return tmp_path


@pytest.fixture
async def storage(root: Path, anyio_backend: str) -> AsyncIterator[Storage]:
    settings = Settings(_env_file=None, files_dir=root)
    async with open_stores(settings, backend_options={"limits": NO_WAITS}) as stores:
        yield stores.storage


@asynccontextmanager
async def running(
    storage: Storage, interval_s: float, *, retry_after_s: float = 60
) -> AsyncIterator[MaintenanceLoop]:
    """Run maintenance; cancel it at the end."""
    maintenance = MaintenanceLoop(storage, interval_s, retry_after_s=retry_after_s)
    task = asyncio.create_task(maintenance.run())
    try:
        yield maintenance
        assert not task.done(), "maintenance must not end on its own"
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


def write_file(root: Path, data: bytes = b"film", key: Key = FILM) -> Path:
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


async def test_maintenance_finds_and_hashes_existing_files_at_start(
    storage: Storage, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app")
    write_file(root)
    wait_for_tick()
    async with running(storage, NEVER_S):
        await until(lambda: hashes(root) == [sha256(b"film")])
    assert [record.getMessage() for record in caplog.records] == ["Scanned the files: 1 created"]


async def test_maintenance_scans_at_each_interval(
    storage: Storage, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app")
    async with running(storage, 0.02):
        await asyncio.sleep(0.1)
        assert caplog.records == [], "a scan without findings must not log"
        for data in (b"first", b"second"):
            write_file(root, data, Key(SHARED, "", data.decode()))
            await until(lambda data=data: sha256(data) in hashes(root))


async def test_maintenance_does_not_scan_before_interval_ends(storage: Storage, root: Path) -> None:
    write_file(root)
    wait_for_tick()
    async with running(storage, NEVER_S):
        await until(lambda: hashes(root) == [sha256(b"film")])
        write_file(root, b"new", Key(SHARED, "", "new.mp4"))
        await asyncio.sleep(0.3)
        assert hashes(root) == [sha256(b"film")]


async def test_maintenance_uses_no_cpu_when_idle(storage: Storage, root: Path) -> None:
    write_file(root)
    wait_for_tick()
    async with running(storage, NEVER_S):
        await until(lambda: hashes(root) == [sha256(b"film")])
        began = time.process_time()
        await asyncio.sleep(0.5)
        assert time.process_time() - began < 0.1


async def test_maintenance_hashes_new_rows_between_scans(root: Path) -> None:
    """A list creates the row; the storage then publishes to the feed, from its thread."""
    feed = ChangeFeed()
    settings = Settings(_env_file=None, files_dir=root, stable_after=0.1)
    async with (
        open_stores(settings, feed=feed) as stores,
        running(stores.storage, NEVER_S) as maintenance,
    ):
        feed.subscribe(maintenance.receive)
        await asyncio.sleep(0.3)
        for number in (1, 2):
            write_file(root, b"x" * number, Key(SHARED, "", f"{number}"))
            wait_for_tick()
            await stores.storage.page(Listing(SHARED), cursor=None, limit=9)
            await until(lambda: None not in hashes(root))
            assert len(hashes(root)) == number


# Failures


async def test_failed_scan_is_logged_and_retried(
    storage: Storage, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_file(root)
    wait_for_tick()
    await storage.stat(FILM)
    elsewhere = root / ".seekable" / "elsewhere"
    (root / ".seekable" / "id").rename(elsewhere)  # as if another disk were mounted
    (root / FILM.path).unlink()
    async with running(storage, NEVER_S, retry_after_s=0.05):
        await until(lambda: len(caplog.records) >= 2)
        assert len(hashes(root)) == 1
        elsewhere.rename(root / ".seekable" / "id")
        await until(lambda: hashes(root) == [])
    messages = {record.getMessage() for record in caplog.records if record.levelno == logging.ERROR}
    assert messages == {
        "The files could not be scanned: The folder of files does not belong to the database. "
        "Check that its disk is mounted."
    }
    assert all(record.exc_info is None for record in caplog.records)


async def test_failed_hashing_is_logged_and_retried(
    storage: Storage, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_file(root)
    wait_for_tick()
    await storage.stat(FILM)
    sql(root, "CREATE TRIGGER trap BEFORE UPDATE ON media BEGIN SELECT RAISE (ABORT, 'no'); END")
    async with running(storage, NEVER_S) as maintenance:
        await until(lambda: caplog.records)
        (record,) = caplog.records
        assert record.getMessage().startswith("The files could not be hashed: The database reports an error")
        assert record.exc_info is None
        sql(root, "DROP TRIGGER trap")
        maintenance.receive(Batch(unverified=True))
        await until(lambda: hashes(root) == [sha256(b"film")])


async def test_maintenance_continues_when_unexpected_error_occurs(
    storage: Storage, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """For example, an edited row with an invalid time."""
    write_file(root, b"old")
    wait_for_tick()
    await storage.stat(FILM)
    write_file(root)
    sql(root, "UPDATE media SET updated_at = 'nonsense'")
    async with running(storage, 0.05):
        for what in ("scanned", "hashed"):
            await until(lambda what=what: caplog.text.count(f"could not be {what}") >= 2)
        sql(root, "UPDATE media SET updated_at = '2020-01-01 00:00:00.000000'")
        await until(lambda: hashes(root) == [sha256(b"film")])
    assert any(record.exc_info for record in caplog.records), "unexpected errors are logged with a traceback"


# Cancellation


async def test_maintenance_ends_when_cancelled_during_hashing(storage: Storage, root: Path) -> None:
    with write_file(root).open("r+b") as file:
        file.truncate(8 << 30)  # sparse: no disk space, but hours of reading on a slow disk
    wait_for_tick()
    await storage.stat(FILM)
    task = asyncio.create_task(MaintenanceLoop(storage, NEVER_S).run())
    await until(lambda: FILM.filename in opened())
    began = time.monotonic()
    await cancelled(task)
    assert time.monotonic() - began < 5
    assert FILM.filename not in opened()
    assert hashes(root) == [None]


def opened() -> set[str]:
    """Return the names of the files that this process has open."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.add(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
    return found


async def test_maintenance_ends_after_current_step_when_cancelled(storage: Storage, root: Path) -> None:
    """Cancellation waits for the step, so that nothing is closed while it runs."""
    with closing(sqlite3.connect(root / ".seekable" / "seekable.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(MaintenanceLoop(storage, NEVER_S).run())
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.sleep(0.1)
        assert not task.done()
        other.execute("ROLLBACK")
        async with asyncio.timeout(10):
            await cancelled(task)
    assert await storage.usage()


# Pace


async def test_rest_is_as_long_as_the_step() -> None:
    async def steps() -> AsyncGenerator[int, None]:
        for number in range(5):
            await asyncio.sleep(0.04)
            yield number

    began = time.monotonic()
    assert [step async for step in with_rests(steps())] == [0, 1, 2, 3, 4]
    took = time.monotonic() - began
    assert took >= 10 * 0.04 - 0.01
    assert took < 1.8, "a rest must not include earlier steps"


async def test_rest_is_bounded() -> None:
    async def steps() -> AsyncGenerator[None, None]:
        await asyncio.sleep(0.3)
        yield

    async for _ in with_rests(steps(), longest_s=0.01):
        rest_began = time.monotonic()
    assert time.monotonic() - rest_began < 0.25
