"""What is served without asking the database: only what is proved to be the version that it would name."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.event import listen

from app.database.filesystem import open_cache, posix
from app.storage.async_storage import ThreadedStorage
from app.storage.types import SHARED, Expect, FileId, Key
from tests.support import lacks
from tests.unit.database.by_hand import drop, names, rest
from tests.unit.database.library import FILM, Library

OTHER = Key(SHARED, "films", "other.mp4")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds are long when they come in every test; this is longer than a tick of any kernel."""
    monkeypatch.setattr(open_cache, "QUIET_NS", 20_000_000)


def is_remembered(library: Library, address: Key | FileId = FILM) -> bool:
    reader = library.backend.try_open(address)
    if reader is not None:
        reader.close()
    return reader is not None


@pytest.fixture
def known(library: Library) -> Library:
    """With a film that is opened without asking the database."""
    library.put(b"film")
    time.sleep(0.03)
    library.get()
    if not is_remembered(library):
        lacks("this system opens nothing without waiting")
    return library


@pytest.mark.anyio
async def test_neither_the_database_nor_a_thread_is_asked(known: Library) -> None:
    statements: list[str] = []
    listen(known.backend._database.engine, "before_cursor_execute", lambda *said: statements.append(said[2]))
    storage = ThreadedStorage(known.backend)
    storage.close()  # no thread can be had any more
    info = known.backend.open(FILM, wait=True)
    assert statements
    statements.clear()
    async with storage.open(FILM) as file:
        assert info is not None
        assert file.info == info.info
        assert file.fileno() is not None
        assert os.pread(file.fileno() or 0, 100, 0) == b"film"
    assert not statements
    info.close()


def test_a_file_is_remembered_by_its_id_too(known: Library) -> None:
    address = FileId(SHARED, known.get()[1].id)
    assert not is_remembered(known, address)
    reader = known.backend.open(address, wait=True)
    assert reader is not None
    reader.close()
    assert is_remembered(known, address)
    known.backend.move(FILM, OTHER, Expect.ANY)
    assert not is_remembered(known, address)
    assert not is_remembered(known)


def edit(path: Path) -> None:
    """Other bytes, and as little to be seen of it as can be done."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"FILM")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    """Another file of the same size and time."""
    shutil.copy2(path, path.with_name("copy"))
    with path.with_name("copy").open("r+b") as file:
        file.write(b"FILM")
    shutil.copystat(path, path.with_name("copy"))
    path.with_name("copy").rename(path)


def lead_elsewhere(path: Path) -> None:
    path.rename(path.with_name("there"))
    path.symlink_to("there")


def lead_the_folder_elsewhere(path: Path) -> None:
    path.parent.rename(path.parent.with_name("there"))
    path.parent.symlink_to("there")


def swap(path: Path) -> None:
    """Into a folder of the same name, with another file of the same name."""
    path.parent.rename(path.parent.with_name("there"))
    path.parent.mkdir()
    path.write_bytes(b"FILM")


def turn_into_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "change",
    [
        edit,
        replace,
        lead_elsewhere,
        lead_the_folder_elsewhere,
        swap,
        turn_into_a_pipe,
        Path.unlink,
        lambda path: path.rename(path.with_name("away")),
        lambda path: path.chmod(0o600),
        lambda path: os.truncate(path, 3),
    ],
    ids=lambda change: change.__name__,
)
def test_a_file_that_somebody_touched_is_looked_at_again(
    known: Library, change: Callable[[Path], None]
) -> None:
    change(known.path())
    assert not is_remembered(known)


def test_what_another_process_did_is_seen_at_once(known: Library) -> None:
    other = Library(known.root)
    try:
        new = other.put(b"FILM").info
        assert not is_remembered(known)
        assert known.get() == (b"FILM", new)
        time.sleep(0.03)
        known.get()
        assert is_remembered(known)
        other.backend.move(FILM, OTHER, Expect.ANY)
        assert not is_remembered(known)
    finally:
        other.close()


def test_a_file_that_changed_just_now_is_not_remembered(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change once more within the same tick, and nobody could tell."""
    monkeypatch.setattr(open_cache, "QUIET_NS", 3_600_000_000_000)
    library.put(b"film")
    library.get()
    assert not is_remembered(library)


@pytest.mark.usefixtures("known", "hurry")
def test_an_etag_that_a_hash_may_change_is_not_remembered(library: Library) -> None:
    drop(library.path(OTHER), b"dropped")
    rest()
    assert OTHER.filename in names(library, "films")
    assert library.get(OTHER)[1].sha256 is None
    assert not is_remembered(library, OTHER)
    list(library.backend.hash_unverified())
    assert library.get(OTHER)[1].sha256 is not None
    assert is_remembered(library, OTHER)


def test_a_backup_that_was_restored_is_not_remembered_before_it_is_hashed(known: Library) -> None:
    """It has the size and the time of the original, and may hold the same bytes: then it gets that ETag."""
    original = known.get()[1]
    replace(known.path())
    before = known.get()[1]
    assert before.etag != original.etag
    time.sleep(0.03)
    assert known.get()[1] == before
    assert not is_remembered(known)
    list(known.backend.hash_unverified())
    data, info = known.get()
    assert (data, info.etag) == (b"FILM", before.etag)
    assert is_remembered(known)


def test_the_database_is_asked_again_after_a_while(known: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_cache, "AGE_S", 0)
    known.get()
    assert not is_remembered(known)
    monkeypatch.setattr(open_cache, "AGE_S", 60)
    known.get()
    assert is_remembered(known)


@pytest.mark.anyio
async def test_a_row_that_was_edited_by_hand_is_seen_by_who_changes_the_file_and_soon_by_all(
    known: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    known.sql("UPDATE media SET content_type = 'audio/edited'")
    storage = ThreadedStorage(known.backend)
    assert (await storage.stat(FILM)).content_type == "audio/edited"
    monkeypatch.setattr(open_cache, "AGE_S", 0)
    known.get()
    async with storage.open(FILM) as file:
        assert file.info.content_type == "audio/edited"
    storage.close()


def test_only_the_files_that_were_used_last_are_remembered(
    known: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_cache, "MOST", 2)
    keys = [Key(SHARED, "", f"{number}.mp4") for number in range(3)]
    for key in keys:
        known.put(b"x", key)
    time.sleep(0.03)
    for key in keys[:2]:
        known.get(key)
    assert is_remembered(known, keys[0])  # it was used after the other
    known.get(keys[2])
    assert [is_remembered(known, key) for key in (FILM, *keys)] == [False, True, False, True]


def test_a_file_that_was_deleted_is_not_closed_where_others_wait(known: Library) -> None:
    """The last to close a big file that nobody else has waits until its blocks are freed."""
    reader = known.backend.try_open(FILM)
    assert reader is not None
    known.backend.delete(FILM, Expect.ANY)
    assert not reader.close_nowait()
    assert reader.read(0, 100) == [b"film"]
    reader.close()


def test_no_descriptor_is_left(known: Library) -> None:
    replace(known.path())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        assert not is_remembered(known)
    assert len(os.listdir("/proc/self/fd")) == before


def test_where_the_system_cannot_say_all_is_as_it_was(
    known: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posix, "_OPENAT2", 100_000)
    assert not is_remembered(known)
    assert known.get()[0] == b"film"
