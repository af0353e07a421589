"""Each change of the library publishes one event after it happened; a failed change publishes none."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.database import open_database
from app.events.event import Event
from app.http.media_types import media_type
from app.library.service import Library, event_of
from app.settings import Settings
from app.storage.contract import Storage
from app.storage.errors import AlreadyExists, NotFound, StorageError, VersionMismatch
from app.storage.ignored_names import Ignored
from app.storage.types import SHARED, Change, Expect, FileInfo, Key, Kind
from tests.support import NewLibrary, each_backend

A, B, C = (Key(SHARED, "films", name) for name in ("a.mkv", "b.mkv", "c.mkv"))

Scenario = Callable[[Library, Storage, list[Event]], Awaitable[None]]


@pytest.fixture
def run_scenario(tmp_path: Path, new_library: NewLibrary) -> Callable[[Scenario], None]:
    """Return a function that runs a scenario with a library over real storage and the list of its events."""

    def run_scenario(scenario: Scenario) -> None:
        async def run() -> None:
            settings = Settings(files_dir=tmp_path, **new_library())
            async with open_database(settings, media_type=lambda name: media_type(None, name)) as stores:
                events: list[Event] = []
                await scenario(Library(stores.storage, events.append), stores.storage, events)

        asyncio.run(run())

    return run_scenario


async def add(library: Library, storage: Storage, key: Key, data: bytes = b"x") -> FileInfo:
    async with storage.stage() as staged:
        await staged.write(data)
        return await library.add(key, staged, content_type=None)


def event_for(what: str, file: FileInfo, **more: str) -> Event:
    return Event(what, SHARED, {"id": file.id, "path": file.key.path, "etag": file.etag, **more})


@each_backend
def test_each_change_publishes_one_event(run_scenario: Callable[[Scenario], None]) -> None:
    async def scenario(library: Library, storage: Storage, events: list[Event]) -> None:
        added = await add(library, storage, A)
        assert added.content_type == "video/x-matroska"
        async with storage.stage() as staged:
            await staged.write(b"new")
            replaced = await library.replace(A, staged, content_type="video/mp4")
        assert replaced.info.content_type == "video/mp4"
        moved = await library.rename(A, B, expect=replaced.info.etag)
        assert moved.key == B
        await library.remove(moved, expect=moved.etag)
        with pytest.raises(NotFound):
            await storage.stat(B)
        assert events == [
            event_for("file.created", added),
            event_for("file.replaced", replaced.info),
            event_for("file.moved", moved, previous_path="films/a.mkv"),
            event_for("file.deleted", moved),
        ]

    run_scenario(scenario)


IGNORED = Ignored(["*.part"])
PART = Key(SHARED, "films", "a.mkv.part")


@pytest.mark.parametrize(
    ("kind", "key", "previous", "events"),
    [
        (Kind.CREATED, A, None, "file.created"),
        (Kind.CREATED, PART, None, None),
        (Kind.REPLACED, PART, None, None),
        (Kind.DELETED, PART, None, None),
        (Kind.MOVED, A, B, "file.moved"),
        (Kind.MOVED, A, PART, "file.created"),
        (Kind.MOVED, PART, A, "file.deleted"),
        (Kind.MOVED, PART, Key(SHARED, "", "b.part"), None),
    ],
)
def test_event_of_hides_ignored_files(kind: Kind, key: Key, previous: Key | None, events: str | None) -> None:
    now = datetime.now(UTC)
    info = FileInfo("id", key, 1, "video/mp4", "etag", None, now, now)
    event = event_of(Change(kind, info, previous), IGNORED)
    assert (event.type if event else None) == events
    if event:
        assert ".part" not in repr(event), "events must not name ignored files"


def test_failed_change_publishes_no_event(run_scenario: Callable[[Scenario], None]) -> None:
    async def scenario(library: Library, storage: Storage, events: list[Event]) -> None:
        a, _ = await add(library, storage, A), await add(library, storage, B)
        events.clear()
        failures: list[tuple[type[StorageError], Awaitable[object]]] = [
            (AlreadyExists, add(library, storage, A)),
            (AlreadyExists, library.rename(A, B, expect=Expect.ANY)),
            (VersionMismatch, library.rename(A, C, expect="other")),
            (NotFound, library.rename(C, A, expect=Expect.ANY)),
            (VersionMismatch, library.remove(a, expect="other")),
        ]
        for kind, failure in failures:
            with pytest.raises(kind):
                await failure
        assert events == []

    run_scenario(scenario)
