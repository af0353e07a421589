"""The open cache: it serves a file without a query only if the version is proved to be current."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.event import listen

from app.storage.async_storage import ThreadedStorage
from app.storage.types import SHARED, Expect, FileId, Key
from tests.support import mounted, skip_or_fail
from tests.unit.database.foreign_changes import drop, names, wait_for_tick
from tests.unit.database.library import FILM, Library

OTHER = Key(SHARED, "films", "other.mp4")


@pytest.fixture(autouse=True)
def short_quiet_period(library: Library) -> None:
    """Shorten the quiet period of two seconds; it is still longer than a tick of any kernel."""
    library.limits.cache_after_s = 0.02


def is_cached(library: Library, address: Key | FileId = FILM) -> bool:
    reader = library.backend.try_open(address)
    if reader is not None:
        reader.close()
    return reader is not None


@pytest.fixture
def cached_library(library: Library) -> Library:
    """Open a library with a film in the open cache."""
    library.put(b"film")
    time.sleep(0.03)
    library.get()
    if not is_cached(library):
        skip_or_fail("this system cannot open files from the cache alone")
    return library


@pytest.mark.anyio
async def test_cached_file_opens_without_query_or_thread(cached_library: Library) -> None:
    statements: list[str] = []
    listen(
        cached_library.backend.database.engine,
        "before_cursor_execute",
        lambda *arguments: statements.append(arguments[2]),
    )
    storage = ThreadedStorage(cached_library.backend)
    storage.close()  # no thread is available any more
    info = cached_library.backend.open(FILM, wait=True)
    assert statements
    statements.clear()
    async with storage.open(FILM) as file:
        assert info is not None
        assert file.info == info.info
        assert file.fileno() is not None
        assert os.pread(file.fileno() or 0, 100, 0) == b"film"
    assert not statements
    info.close()


def test_file_is_cached_by_id_too(cached_library: Library) -> None:
    address = FileId(SHARED, cached_library.get()[1].id)
    assert not is_cached(cached_library, address)
    reader = cached_library.backend.open(address, wait=True)
    assert reader is not None
    reader.close()
    assert is_cached(cached_library, address)
    cached_library.backend.move(FILM, OTHER, Expect.ANY)
    assert not is_cached(cached_library, address)
    assert not is_cached(cached_library)


def edit(path: Path) -> None:
    """Change the bytes, but neither size nor mtime."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"FILM")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    """Replace the file by another of the same size and time."""
    shutil.copy2(path, path.with_name("copy"))
    with path.with_name("copy").open("r+b") as file:
        file.write(b"FILM")
    shutil.copystat(path, path.with_name("copy"))
    path.with_name("copy").rename(path)


def replace_by_symlink(path: Path) -> None:
    path.rename(path.with_name("there"))
    path.symlink_to("there")


def replace_folder_by_symlink(path: Path) -> None:
    path.parent.rename(path.parent.with_name("there"))
    path.parent.symlink_to("there")


def replace_folder(path: Path) -> None:
    """Replace the folder and the file by others of the same names."""
    path.parent.rename(path.parent.with_name("there"))
    path.parent.mkdir()
    path.write_bytes(b"FILM")


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "change",
    [
        edit,
        replace,
        replace_by_symlink,
        replace_folder_by_symlink,
        replace_folder,
        replace_by_pipe,
        Path.unlink,
        lambda path: path.rename(path.with_name("away")),
        lambda path: path.chmod(0o600),
        lambda path: os.truncate(path, 3),
    ],
    ids=lambda change: change.__name__,
)
def test_cache_entry_is_invalid_when_file_changed(
    cached_library: Library, change: Callable[[Path], None]
) -> None:
    change(cached_library.path())
    assert not is_cached(cached_library)


def test_cache_entry_is_invalid_when_other_process_changed_file(cached_library: Library) -> None:
    other = Library(cached_library.root)
    try:
        new = other.put(b"FILM").info
        assert not is_cached(cached_library)
        assert cached_library.get() == (b"FILM", new)
        time.sleep(0.03)
        cached_library.get()
        assert is_cached(cached_library)
        other.backend.move(FILM, OTHER, Expect.ANY)
        assert not is_cached(cached_library)
    finally:
        other.close()


def test_file_is_not_cached_when_it_changed_recently(library: Library) -> None:
    """It may change once more within the same tick, without a visible difference."""
    library.limits.cache_after_s = 3600
    library.put(b"film")
    library.get()
    assert not is_cached(library)


@pytest.mark.usefixtures("cached_library", "shorten_waits")
def test_file_is_not_cached_before_it_is_hashed(library: Library) -> None:
    drop(library.path(OTHER), b"dropped")
    wait_for_tick()
    assert OTHER.filename in names(library, "films")
    assert library.get(OTHER)[1].sha256 is None
    assert not is_cached(library, OTHER)
    list(library.backend.maintenance.hash_unverified())
    assert library.get(OTHER)[1].sha256 is not None
    assert is_cached(library, OTHER)


def test_restored_backup_is_not_cached_before_it_is_hashed(cached_library: Library) -> None:
    """It has the size and the time of the original; with the same bytes it would get that ETag."""
    original = cached_library.get()[1]
    replace(cached_library.path())
    before = cached_library.get()[1]
    assert before.etag != original.etag
    time.sleep(0.03)
    assert cached_library.get()[1] == before
    assert not is_cached(cached_library)
    list(cached_library.backend.maintenance.hash_unverified())
    data, info = cached_library.get()
    assert (data, info.etag) == (b"FILM", before.etag)
    assert is_cached(cached_library)


def test_cache_entry_expires(cached_library: Library) -> None:
    cached_library.limits.cache_for_s = 0
    cached_library.get()
    assert not is_cached(cached_library)
    cached_library.limits.cache_for_s = 60
    cached_library.get()
    assert is_cached(cached_library)


@pytest.mark.anyio
async def test_edited_row_is_visible_to_stat_at_once_and_to_open_after_expiry(
    cached_library: Library,
) -> None:
    cached_library.sql("UPDATE media SET content_type = 'audio/edited'")
    storage = ThreadedStorage(cached_library.backend)
    assert (await storage.stat(FILM)).content_type == "audio/edited"
    cached_library.limits.cache_for_s = 0
    cached_library.get()
    async with storage.open(FILM) as file:
        assert file.info.content_type == "audio/edited"
    storage.close()


def test_cache_keeps_most_recently_used_files(cached_library: Library) -> None:
    cached_library.limits.max_cached_rows = 2
    cached_library.close()
    cached_library.open()
    keys = [Key(SHARED, "", f"{number}.mp4") for number in range(3)]
    for key in keys:
        cached_library.put(b"x", key)
    time.sleep(0.03)
    for key in keys[:2]:
        cached_library.get(key)
    assert is_cached(cached_library, keys[0])  # now more recently used than the other
    cached_library.get(keys[2])
    assert [is_cached(cached_library, key) for key in (FILM, *keys)] == [False, True, False, True]


def test_deleted_file_is_not_closed_on_event_loop(cached_library: Library) -> None:
    """The last close of a deleted big file blocks until its blocks are freed."""
    reader = cached_library.backend.try_open(FILM)
    assert reader is not None
    cached_library.backend.delete(FILM, Expect.ANY)
    assert not reader.close_nowait()
    assert reader.read(0, 100) == [b"film"]
    reader.close()


def test_failed_cache_lookups_leak_no_descriptor(cached_library: Library) -> None:
    replace(cached_library.path())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        assert not is_cached(cached_library)
    assert len(os.listdir("/proc/self/fd")) == before


def test_cache_is_unused_where_opening_may_block(tmp_path: Path) -> None:
    with mounted(tmp_path / "other", "-t", "ramfs", "none") as folder:
        library = Library(folder)
        library.limits.cache_after_s = 0.02
        library.put(b"film")
        time.sleep(0.03)
        assert library.get()[0] == b"film"
        assert not is_cached(library)
        library.close()
