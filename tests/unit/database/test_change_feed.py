"""The change feed between processes on one database: every change arrives once, in order and complete; own
changes do not; and lost changes are reported."""

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from bson.datetime_ms import DatetimeMS

from app.database import Stores, open_stores
from app.database.gridfs.change_feed import ALONE, NO_IMAGES
from app.database.sql import change_feed
from app.database.sql.change_feed import CHANNEL
from app.events.feed import Message
from app.settings import Settings
from app.storage.errors import PathConflict, StorageError
from app.storage.types import SHARED, Change, ChangeKind, FileInfo, Key
from tests.conftest import BACKENDS
from tests.support import mongo
from tests.support.beneath import beneath
from tests.support.recording_feed import RecordingFeed

pytestmark = pytest.mark.anyio

MANY = 1000


@dataclass
class Process:
    """The stores of one process."""

    stores: Stores
    received: RecordingFeed

    async def put(self, path: str, data: bytes = b"", library: str = SHARED) -> FileInfo:
        async with self.stores.storage.stage() as staged:
            await staged.write(data)
            await staged.flush()
            key = Key.at(library, path)
            return (await self.stores.storage.commit(key, staged, content_type="video/mp4")).info

    async def created(self, path: str) -> Change:
        """Add a file and return the change."""
        return Change(ChangeKind.CREATED, await self.put(path))


@dataclass
class ProcessPair:
    """Two processes on one database."""

    settings: Settings
    a: Process
    b: Process


def settings_of(name: str, folder: Path) -> Settings:
    return Settings(_env_file=None, files_dir=folder / "files", stable_after=0, **BACKENDS[name]())


def with_app_name(settings: Settings) -> tuple[Settings, str]:
    """Return settings with an appName, by which a shared MongoDB can select this process's commands."""
    name = uuid4().hex
    return settings.model_copy(update={"mongodb_url": f"{settings.mongodb_url}&appName={name}"}), name


async def open_process(stack: AsyncExitStack, settings: Settings, *, listens: bool = True) -> Process:
    received = RecordingFeed()
    opening = open_stores(settings, feed=received if listens else None)
    return Process(await stack.enter_async_context(opening), received)


@pytest.fixture(params=["postgresql", "gridfs"])
async def two(
    request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: str
) -> AsyncIterator[ProcessPair]:
    settings = settings_of(request.param, tmp_path)
    async with AsyncExitStack() as stack:
        yield ProcessPair(settings, await open_process(stack, settings), await open_process(stack, settings))


def connected(settings: Settings) -> "psycopg.Connection[tuple[object, ...]]":
    assert settings.database_url is not None
    return psycopg.connect(settings.database_url.replace("+psycopg", ""), autocommit=True)


async def test_each_change_arrives_once_at_others_only(two: ProcessPair) -> None:
    storage, film, other = two.b.stores.storage, Key.at(SHARED, "films/film.mp4"), Key.at(SHARED, "x.bin")
    expected = [
        Change(ChangeKind.CREATED, await two.b.put(film.path, b"one")),
        Change(ChangeKind.REPLACED, await two.b.put(film.path, b"two")),
        Change(ChangeKind.REPLACED, await two.b.put(film.path, b"two")),  # equal bytes are a change, too
    ]
    for source, target in ((film, other), (other, film), (film, other)):
        expected.append(Change(ChangeKind.MOVED, await storage.move(source, target), source))
    await storage.move(other, other)
    await storage.delete(other)
    expected.append(Change(ChangeKind.DELETED, expected[-1].info))
    expected.append(Change(ChangeKind.CREATED, await two.b.put(film.path, b"three", library="somebody")))
    assert two.a.received.until(expected[-1]) == expected
    # In the other direction, `b` receives none of its own changes.
    last = await two.a.created("last")
    assert two.b.received.until(last) == [last]


async def test_failed_change_is_not_published(two: ProcessPair) -> None:
    first = await two.b.created("film.mp4")
    film, inside = first.info.key, Key.at(SHARED, "film.mp4/inside")
    with pytest.raises(PathConflict):
        await two.b.put(inside.path)
    with pytest.raises(PathConflict):
        await two.b.stores.storage.move(film, inside)
    with pytest.raises(StorageError):
        await two.b.stores.storage.delete(film, expect="other")
    last = await two.b.created("last")
    assert two.a.received.until(last) == [first, last]


@pytest.mark.parametrize("two", ["postgresql"], indirect=True)
async def test_rolled_back_change_is_not_published(two: ProcessPair) -> None:
    """COMMIT itself fails, after the notification was queued."""
    with connected(two.settings) as connection:
        connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE 'refused'; END $$ LANGUAGE plpgsql"
        )
        connection.execute(
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON media DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW WHEN (NEW.filename = 'refused') EXECUTE FUNCTION refuse()"
        )
    with pytest.raises(StorageError, match="refused"):
        await two.b.put("refused")
    last = await two.b.created("last")
    assert two.a.received.until(last) == [last]


async def test_concurrent_changes_arrive_at_the_other_process(two: ProcessPair) -> None:
    async def change(process: Process, name: str) -> list[str]:
        return [(await process.put("film.mp4", f"{name} {number}".encode())).etag for number in range(8)]

    by_a, by_b = await asyncio.gather(change(two.a, "a"), change(two.b, "b"))
    for listens, maker, expected in ((two.a, two.b, by_b), (two.b, two.a, by_a)):
        last = await maker.created(f"last {expected[0]}")
        assert [change.info.etag for change in listens.received.until(last)] == [*expected, last.info.etag]


async def test_progress_arrives_at_others(two: ProcessPair) -> None:
    assert two.b.stores.listener is not None
    texts = [Message("library é", "sid", '{"progress":"é"}'), Message(SHARED, "sid", "x" * 500)]
    for text in texts:
        two.b.stores.listener.send(text)
    assert two.a.received.until(texts[-1]) == texts
    last = await two.a.created("last")
    assert two.b.received.until(last) == [last]


async def test_findings_of_scan_arrive_at_others(two: ProcessPair) -> None:
    beneath(two.settings).add_file("by hand.mp4", 7, b"by hand")
    async for _ in two.b.stores.storage.scan():
        pass
    async for _ in two.b.stores.storage.hash_unverified():  # reports no change
        pass
    last = await two.b.created("last")
    created, _ = two.a.received.until(last)
    assert (created.kind, created.info.key.path) == (ChangeKind.CREATED, "by hand.mp4")
    # The process that scans publishes the finding itself, and does not receive it from the database as well.
    assert [change.info.key.path for change in two.b.received.all] == ["by hand.mp4"]


@pytest.mark.parametrize("two", ["postgresql"], indirect=True)
async def test_large_scan_publishes_only_the_library(two: ProcessPair) -> None:
    for number in range(change_feed.MAX_CHANGES + 1):
        (two.settings.files_dir / f"{number}.mp4").write_bytes(b"x")
    async for _ in two.b.stores.storage.scan():
        pass
    assert two.a.received.until(("missed", SHARED)) == [("missed", SHARED)]


async def test_thousand_changes_arrive_in_order(two: ProcessPair) -> None:
    first = await two.b.created("first")
    two.a.received.until(first)
    names = [str(number) for number in range(MANY)]
    if two.settings.mongodb_url is not None:
        media = mongo.database(two.settings.mongodb_url)["media"]
        found = media.find_one()
        assert found is not None
        media.insert_many([{**found, "_id": name, "filename": name, "file": name} for name in names])
    else:
        infos = [replace(first.info, key=Key.at(SHARED, name)) for name in names]
        with connected(two.settings) as connection, connection.transaction():
            for info in infos:
                (payload,) = change_feed.change_payloads("another", [Change(ChangeKind.CREATED, info)])
                connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))
    last = await two.b.created("last")
    received = two.a.received.until(last)
    assert [change.info.key.filename for change in received] == [*names, "last"]


BreakConnection = Callable[[Settings, str], None]


def terminate(settings: Settings, _name: str) -> None:
    with connected(settings) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        )


def fail(*commands: str, times: int = 1, **options: object) -> BreakConnection:
    """Return a function that makes the next `times` change stream commands of one process fail."""

    def break_connection(settings: Settings, name: str) -> None:
        data = {"failCommands": [*commands], "appName": name, **options}
        mongo.database(settings.mongodb_url or "").client.admin.command(
            {"configureFailPoint": "failCommand", "mode": {"times": times}, "data": data}
        )

    return break_connection


@pytest.mark.parametrize(
    ("name", "break_connection", "missed"),
    [
        ("postgresql", terminate, True),  # notifications without a listener are lost
        ("gridfs", fail("getMore", errorCode=189), False),  # PrimarySteppedDown
        ("gridfs", fail("getMore", "aggregate", times=5, closeConnection=True), False),
        ("gridfs", fail("getMore", errorCode=286), True),  # ChangeStreamHistoryLost
    ],
)
async def test_lost_connection_is_reopened(
    tmp_path: Path, name: str, break_connection: BreakConnection, *, missed: bool
) -> None:
    """Listeners are notified if they may have missed changes."""
    settings = settings_of(name, tmp_path)
    named_settings, process = with_app_name(settings) if settings.mongodb_url else (settings, "")
    async with AsyncExitStack() as stack:
        a, b = await open_process(stack, named_settings), await open_process(stack, settings, listens=False)
        break_connection(settings, process)
        if missed:
            a.received.until("missed")
        else:  # the last event before the connection is lost
            first = await b.created("first")
            a.received.until(first)
        last = await b.created("last")
        assert a.received.until(last) == [last]


async def test_unreadable_foreign_document_is_skipped(tmp_path: Path) -> None:
    settings = settings_of("gridfs", tmp_path)
    async with AsyncExitStack() as stack:
        a, b = await open_process(stack, settings), await open_process(stack, settings, listens=False)
        media = mongo.database(settings.mongodb_url or "")["media"]
        media.insert_one({"_id": "another's", "filename": "x", "created_at": DatetimeMS(1 << 60)})
        a.received.until("missed")
        last = await b.created("last")
        assert a.received.until(last) == [last]


async def test_new_database_enables_pre_images(tmp_path: Path) -> None:
    settings = settings_of("gridfs", tmp_path)
    async with AsyncExitStack() as stack:
        await open_process(stack, settings, listens=False)
        (media,) = mongo.database(settings.mongodb_url or "").list_collections(filter={"name": "media"})
        assert media["options"]["changeStreamPreAndPostImages"] == {"enabled": True}


async def test_changes_arrive_without_details_when_pre_images_are_disabled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Replacements, moves and deletions are then reported without details."""
    settings = settings_of("gridfs", tmp_path)
    async with AsyncExitStack() as stack:
        b = await open_process(stack, settings, listens=False)
        database = mongo.database(settings.mongodb_url or "")
        database.command("collMod", "media", changeStreamPreAndPostImages={"enabled": False})
        refused, process = with_app_name(settings)
        refuse = {"failCommands": ["collMod"], "appName": process, "errorCode": 13}
        database.client.admin.command(
            {"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": refuse}
        )
        a = await open_process(stack, refused)
        assert NO_IMAGES in caplog.text
        film, other = Key.at(SHARED, "film.mp4"), Key.at(SHARED, "other.mp4")
        first = await b.created(film.path)
        for change in (
            b.put(film.path, b"two"),
            b.stores.storage.move(film, other),
            b.stores.storage.delete(other),
        ):
            await change
        last = await b.created("last")
        assert a.received.until(last) == [first, "missed", "missed", "missed", last]
        await a.put("own", b"1")
        await a.put("own", b"2")
        await a.stores.storage.delete(Key.at(SHARED, "own"))
        last = await b.created("very last")
        assert a.received.until(last) == [last]


async def test_standalone_mongod_logs_that_events_stay_local(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with mongo.mongod(replica_set="") as node:
        settings = Settings(_env_file=None, storage="gridfs", mongodb_url=node.url("library"))
        async with AsyncExitStack() as stack:
            process = await open_process(stack, settings)
            await process.put("film.mp4")
            assert process.stores.listener is None
    assert [record.levelname for record in caplog.records if record.message == ALONE] == ["INFO"]


async def test_sqlite_has_no_change_feed(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        assert (await open_process(stack, settings_of("filesystem", tmp_path))).stores.listener is None


@pytest.mark.parametrize("name", ["postgresql", "gridfs"])
async def test_closing_leaves_no_thread_or_pipe(tmp_path: Path, name: str) -> None:
    settings = settings_of(name, tmp_path)

    async def open_and_close() -> int:
        """Return the number of open pipes afterwards."""
        async with AsyncExitStack() as stack:
            await open_process(stack, settings)
        async with asyncio.timeout(20):  # the pending reply of MongoDB takes a second to arrive
            while any(thread.name == "change-listener" for thread in threading.enumerate()):
                await asyncio.sleep(0.02)
        return sum(
            os.path.exists(path) and os.readlink(path).startswith("pipe:")
            for path in (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
        )

    assert await open_and_close() == await open_and_close()
