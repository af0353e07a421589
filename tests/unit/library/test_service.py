"""Each change of the library is published once after it happened; a failed change publishes none."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from app.database import open_stores
from app.library.service import Library
from app.settings import Settings
from app.storage.contract import Storage
from app.storage.errors import AlreadyExists, NotFound, StorageError, VersionMismatch
from app.storage.types import SHARED, Change, ChangeKind, Expect, FileInfo, Key
from tests.support import NewLibrary, each_backend
from tests.support.recording_feed import RecordingFeed

A, B, C = (Key(SHARED, "films", name) for name in ("a.mkv", "b.mkv", "c.mkv"))

Scenario = Callable[[Library, Storage, list[Change]], Awaitable[None]]


@pytest.fixture
def run_scenario(tmp_path: Path, new_library: NewLibrary) -> Callable[[Scenario], None]:
    """Return a function that runs a scenario with a library over real storage and the list of its changes."""

    def run_scenario(scenario: Scenario) -> None:
        async def run() -> None:
            settings = Settings(files_dir=tmp_path, **new_library())
            async with open_stores(settings) as stores:
                feed = RecordingFeed()
                await scenario(Library(stores.storage, feed), stores.storage, feed.all)

        asyncio.run(run())

    return run_scenario


async def add(library: Library, storage: Storage, key: Key, data: bytes = b"x") -> FileInfo:
    async with storage.stage() as staged:
        await staged.write(data)
        return await library.add(key, staged, content_type=None)


@each_backend
def test_each_change_publishes_one_change(run_scenario: Callable[[Scenario], None]) -> None:
    async def scenario(library: Library, storage: Storage, changes: list[Change]) -> None:
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
        assert changes == [
            Change(ChangeKind.CREATED, added),
            Change(ChangeKind.REPLACED, replaced.info),
            Change(ChangeKind.MOVED, moved, A),
            Change(ChangeKind.DELETED, moved),
        ]

    run_scenario(scenario)


def test_failed_change_publishes_no_change(run_scenario: Callable[[Scenario], None]) -> None:
    async def scenario(library: Library, storage: Storage, changes: list[Change]) -> None:
        a, _ = await add(library, storage, A), await add(library, storage, B)
        changes.clear()
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
        assert changes == []

    run_scenario(scenario)
