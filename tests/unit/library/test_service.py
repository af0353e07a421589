"""Every change is told once it has happened, and none that has not."""

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

Scene = Callable[[Library, Storage, list[Event]], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path, new_library: NewLibrary) -> Callable[[Scene], None]:
    """Play a scene with a library over a real storage, and all that it published."""

    def play(scene: Scene) -> None:
        async def stage() -> None:
            settings = Settings(files_dir=tmp_path, **new_library())
            async with open_database(settings, media_type=lambda name: media_type(None, name)) as stores:
                told: list[Event] = []
                await scene(Library(stores.storage, told.append), stores.storage, told)

        asyncio.run(stage())

    return play


async def add(library: Library, storage: Storage, key: Key, data: bytes = b"x") -> FileInfo:
    async with storage.stage() as staged:
        await staged.write(data)
        return await library.add(key, staged, content_type=None)


def about(what: str, file: FileInfo, **more: str) -> Event:
    return Event(what, SHARED, {"id": file.id, "path": file.key.path, "etag": file.etag, **more})


@each_backend
def test_each_change_is_told(play: Callable[[Scene], None]) -> None:
    async def scene(library: Library, storage: Storage, told: list[Event]) -> None:
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
        assert told == [
            about("file.created", added),
            about("file.replaced", replaced.info),
            about("file.moved", moved, previous_path="films/a.mkv"),
            about("file.deleted", moved),
        ]

    play(scene)


IGNORED = Ignored(["*.part"])
PART = Key(SHARED, "films", "a.mkv.part")


@pytest.mark.parametrize(
    ("kind", "key", "previous", "told"),
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
def test_events_are_those_of_the_lists(kind: Kind, key: Key, previous: Key | None, told: str | None) -> None:
    now = datetime.now(UTC)
    info = FileInfo("id", key, 1, "video/mp4", "etag", None, now, now)
    event = event_of(Change(kind, info, previous), IGNORED)
    assert (event.type if event else None) == told
    if event:
        assert ".part" not in repr(event), "what no list shows is in no event"


def test_what_failed_is_not_told(play: Callable[[Scene], None]) -> None:
    async def scene(library: Library, storage: Storage, told: list[Event]) -> None:
        a, _ = await add(library, storage, A), await add(library, storage, B)
        told.clear()
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
        assert told == []

    play(scene)
