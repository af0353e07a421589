"""Files that are opened again and again: proved at each use, kept for a second, and never more than a few."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.database.filesystem.open_cache import NAMED_FOR_S
from app.storage.async_storage import ThreadedStorage
from app.storage.contract import ReopenableFile
from app.storage.reopening import MAX_KEPT
from app.storage.types import SHARED, Key
from tests.support import skip_or_fail
from tests.unit.database.library import FILM, Library

pytestmark = pytest.mark.anyio

CONTENT = b"0123456789"


def open_files(folder: Path) -> list[str]:
    """Return the paths of the open descriptors of this process that are below the folder."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:  # the one of the list itself
            continue
        if target.startswith(f"{folder}/") and "/.seekable" not in target:
            found.append(target)
    return found


@asynccontextmanager
async def reopenable(
    library: Library, key: Key = FILM
) -> AsyncIterator[tuple[ThreadedStorage, ReopenableFile]]:
    """Yield a storage, and a file of it that can be opened again."""
    library.limits.cache_after_s = 0.02
    library.put(CONTENT, key)
    await asyncio.sleep(0.03)
    library.get(key)
    storage = ThreadedStorage(library.backend)
    try:
        async with storage.open(key) as file:
            version = file.reopenable()
        if version is None or version.descriptor(0, 1, time.monotonic()) < 0:
            skip_or_fail("this system cannot open files from the cache alone")
        yield storage, version
    finally:
        storage.close()


def read(
    version: ReopenableFile, start: int = 0, stop: int = len(CONTENT), *, later_s: float = 0
) -> bytes | None:
    """Return the bytes of the descriptor, in `later_s` seconds; None if it is refused."""
    descriptor = version.descriptor(start, stop, time.monotonic() + later_s)
    return None if descriptor < 0 else os.pread(descriptor, stop - start, start)


async def test_descriptor_is_opened_once_and_closed_soon(library: Library) -> None:
    async with reopenable(library) as (_, version):
        numbers = {version.descriptor(0, 1, time.monotonic()) for _ in range(5)}
        assert len(numbers) == 1
        assert read(version, 2, 5) == b"234"
        assert open_files(library.root) == [str(library.path())]
        deadline = time.monotonic() + 5
        while open_files(library.root):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert read(version) == CONTENT  # it is opened again


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"x")


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(CONTENT)
    other.replace(path)


def exchange_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.mkdir()
    path.write_bytes(CONTENT)


CHANGES: list[Callable[[Path], object]] = [
    lambda path: path.unlink(),
    lambda path: path.rename(path.with_name("moved")),
    lambda path: path.chmod(0o640),
    lambda path: os.truncate(path, 3),
    overwrite,
    replace,
]
"""Changes of the file itself."""

FOLDER_CHANGES: list[Callable[[Path], object]] = [
    lambda path: path.parent.rename(path.parent.with_name("moved")),
    exchange_folder,
]


@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
async def test_descriptor_is_refused_at_once_when_path_names_another_version(
    library: Library, change: Callable[[Path], object]
) -> None:
    async with reopenable(library) as (_, version):
        assert read(version) == CONTENT
        change(library.path())
        assert read(version) is None
        assert read(version) is None


@pytest.mark.parametrize("change", FOLDER_CHANGES, ids=["renamed", "exchanged"])
async def test_descriptor_is_refused_soon_after_folder_was_renamed(
    library: Library, change: Callable[[Path], object]
) -> None:
    async with reopenable(library) as (_, version):
        assert read(version) == CONTENT
        change(library.path())
        assert read(version, later_s=NAMED_FOR_S) is None


async def test_descriptor_is_refused_when_row_expires(library: Library) -> None:
    async with reopenable(library) as (_, version):
        assert version.descriptor(0, 1, version.expires_at) == -1


async def test_own_change_closes_descriptors_at_once(library: Library) -> None:
    async with reopenable(library) as (storage, version):
        assert read(version) == CONTENT
        await storage.delete(FILM)
        deadline = time.monotonic() + 0.5  # less than the second for which they are kept
        while open_files(library.root):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        assert read(version) is None


async def test_held_file_stays_readable(library: Library) -> None:
    async with reopenable(library) as (storage, version):
        assert read(version) == CONTENT
        held = version.hold()
        await storage.delete(FILM)
        async with held as file:
            descriptor = file.fileno()
            assert descriptor is not None
            assert os.pread(descriptor, 20, 0) == CONTENT
        deadline = time.monotonic() + 5
        while open_files(library.root):  # a deleted file is closed in a thread
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


async def test_number_of_kept_descriptors_is_bounded(library: Library) -> None:
    async with reopenable(library) as (storage, _):
        keys = [Key.of(SHARED, "many", f"{number}.mp4") for number in range(MAX_KEPT + 5)]
        for key in keys:
            library.put(CONTENT, key)
        await asyncio.sleep(0.03)
        versions = []
        for key in keys:
            library.get(key)
            async with storage.open(key) as file:
                versions.append(file.reopenable())
        kept = [version is not None and read(version) == CONTENT for version in versions]
        assert all(kept)
        assert len(open_files(library.root)) <= MAX_KEPT
