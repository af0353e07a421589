"""The filesystem backend beyond its contract: files of other programs, and the remains of crashes."""

import asyncio
import contextlib
import fcntl
import os
import shutil
import socket
import sqlite3
from contextlib import ExitStack, aclosing, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.database.filesystem.opening import open_database, open_disk, open_filesystem
from app.settings import ConfigurationError, Settings
from app.storage.async_storage import ThreadedStorage
from app.storage.errors import (
    AlreadyExists,
    NotFound,
    PathConflict,
    StorageUnavailable,
    Truncated,
)
from app.storage.types import SHARED, Expect, FileInfo, Key, Listing
from tests.unit.database.foreign_changes import wait_for_tick
from tests.unit.database.library import FILM, Library


def test_move_removes_empty_folders(library: Library) -> None:
    deep = Key(SHARED, "a/b/c", "film.mp4")
    library.put(b"film", deep)
    library.backend.move(deep, FILM, Expect.ANY)
    assert not (library.root / "a").exists()
    library.backend.delete(FILM, Expect.ANY)
    assert os.listdir(library.root) == [".seekable"]


@pytest.mark.anyio
async def test_read_raises_truncated_when_file_shrinks(library: Library) -> None:
    library.put(bytes(20_000))
    storage = ThreadedStorage(library.backend)
    async with storage.open(FILM) as file, aclosing(file.read(0, 20_000)) as chunks:
        assert len(await anext(chunks)) == 4096
        os.truncate(library.path(), 5000)
        with pytest.raises(Truncated):
            async for _ in chunks:
                pass
    storage.close()


# Files of other programs


def test_upload_is_an_ordinary_file(library: Library) -> None:
    library.put(b"film")
    assert library.path().read_bytes() == b"film"
    assert library.path().stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert library.path().stat().st_nlink == 1


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_dropped_file_is_added_and_never_overwritten(library: Library) -> None:
    library.path().parent.mkdir()
    with library.path().open("wb", buffering=0) as file:
        file.write(b"drop")
        with pytest.raises(NotFound):  # half written
            library.get()
        for expect in (Expect.ANY, Expect.ABSENT):
            with pytest.raises(AlreadyExists):
                library.put(b"upload", expect=expect)
            with pytest.raises(AlreadyExists):
                library.backend.check(FILM, expect)
        file.write(b"ped")
    data, info = library.get()
    assert data == b"dropped"
    assert (info.content_type, info.sha256, info.size) == ("video/mp4", None, 7)
    assert library.get()[1] == info
    with pytest.raises(AlreadyExists):
        library.put(b"upload", expect=Expect.ABSENT)
    assert library.path().read_bytes() == b"dropped"


def test_edited_file_is_new_version(library: Library, shorten_waits: None) -> None:
    old = library.put(b"before").info
    library.path().write_bytes(b"after it")
    wait_for_tick()
    data, info = library.get()
    assert data == b"after it"
    assert info.id == old.id
    assert info.etag != old.etag
    assert info.sha256 is None
    assert library.get()[1] == info
    again = library.put(b"uploaded", expect=info.etag)
    assert not again.created


def test_removed_file_is_gone(library: Library) -> None:
    library.put(b"film")
    library.path().unlink()
    with pytest.raises(NotFound):
        library.get()
    assert library.sql("SELECT * FROM media") == []
    assert library.put(b"again", expect=Expect.ABSENT).created


def test_restored_backup_keeps_its_version(library: Library) -> None:
    info = library.put(b"film").info
    shutil.copy2(library.path(), library.root / "copy")
    os.replace(library.root / "copy", library.path())
    assert library.get()[1].etag != info.etag, "the etag returns only with a matching hash"
    list(library.backend.maintenance.hash_unverified())
    data, after = library.get()
    assert (data, after.etag, after.sha256) == (b"film", info.etag, info.sha256)


def test_upload_replaces_empty_folder(library: Library) -> None:
    library.path().mkdir(parents=True)
    library.backend.check(FILM, Expect.ABSENT)
    library.put(b"film")
    assert library.get()[0] == b"film"


def test_only_regular_files_are_served(library: Library, shorten_waits: None) -> None:
    kinds = {kind: Key(SHARED, "films", kind) for kind in ("symlink", "fifo", "socket", "directory")}
    library.path(kinds["symlink"]).parent.mkdir()
    outside = library.root.parent / "secret"
    outside.write_bytes(b"secret")
    library.path(kinds["symlink"]).symlink_to(outside)
    os.mkfifo(library.path(kinds["fifo"]))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(library.path(kinds["socket"])))
    (library.path(kinds["directory"]) / "inside").mkdir(parents=True)
    (library.path(kinds["directory"]) / "inside" / "file").write_bytes(b"x")
    wait_for_tick()
    for kind, key in kinds.items():
        with pytest.raises(NotFound):
            library.get(key)
        with pytest.raises(NotFound):
            library.backend.delete(key, Expect.ANY)
        with pytest.raises((AlreadyExists, PathConflict)):
            library.put(b"upload", key)
        assert outside.read_bytes() == b"secret", kind
        assert os.path.lexists(library.path(key)), kind


def test_symlinked_folder_is_not_entered(library: Library, shorten_waits: None) -> None:
    outside = library.root.parent / "outside"
    outside.mkdir()
    (outside / "film.mp4").write_bytes(b"secret")
    (library.root / "films").symlink_to(outside)
    wait_for_tick()
    with pytest.raises(NotFound):
        library.get()
    with pytest.raises(PathConflict):
        library.put(b"upload", Key(SHARED, "films", "other"))
    assert os.listdir(outside) == ["film.mp4"]


# Remains of a crash


def test_crash_after_link_leaves_complete_file(library: Library, shorten_waits: None) -> None:
    # A file of a process that ended holds no lock.
    staged = library.root / ".seekable" / "staging" / "dead"
    staged.write_bytes(b"film")
    library.path().parent.mkdir()
    os.link(staged, library.path())
    library.close()
    library.open()
    assert library.staging() == []
    wait_for_tick()
    assert library.get()[0] == b"film"
    assert library.put(b"new").info.size == 3


def test_crash_after_rename_leaves_new_file(library: Library) -> None:
    old = library.put(b"old").info
    (library.root / "new").write_bytes(b"newer")
    os.replace(library.root / "new", library.path())
    data, info = library.get()
    assert data == b"newer"
    assert (info.id, info.size) == (old.id, 5)
    assert info.etag != old.etag


def test_row_does_not_match_next_version_within_clock_tick(library: Library) -> None:
    """A crash between rename and COMMIT would leave such a row, if both versions fell into one clock tick."""
    library.put(b"film")
    moment = library.path().stat().st_mtime_ns
    staged = library.backend.stage(None)
    staged.write(b"FILM")
    os.utime(library.root / ".seekable" / "staging" / staged.name, ns=(moment, moment))
    library.backend.commit(FILM, staged, size=4, sha256="0" * 64, content_type="video/mp4", expect=Expect.ANY)
    staged.discard()
    assert library.path().stat().st_mtime_ns != moment


def test_sweep_keeps_uploads_in_progress(library: Library) -> None:
    staged = library.backend.stage(None)
    staged.write(b"film")
    dead = library.root / ".seekable" / "staging" / "dead"
    dead.write_bytes(b"half")
    other = Library(library.root)  # like another process, which sweeps when it starts
    assert library.staging() == [staged.name]
    other.close()
    staged.discard()
    assert library.staging() == []


def test_sweep_keeps_file_that_a_change_needs_for_undo(library: Library) -> None:
    library.put(b"film")
    disk = library.backend.disk
    with pytest.raises(ZeroDivisionError), disk.removed(("films", "film.mp4")):
        assert not library.path().exists()
        disk.sweep()
        raise ZeroDivisionError
    assert library.get()[0] == b"film"
    assert library.staging() == []


def test_start_survives_special_files_in_staging(library: Library) -> None:
    staging = library.root / ".seekable" / "staging"
    os.mkfifo(staging / "pipe")
    (staging / "link").symlink_to(library.path())
    (staging / "dangling").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(staging):
        listener.bind("socket")
    (staging / "folder").mkdir()
    library.close()
    library.open()
    assert library.staging() == ["folder"]


def test_files_with_extreme_dates_are_served(library: Library, shorten_waits: None) -> None:
    keys = [Key(SHARED, "", date) for date in ("2300-01-01", "1900-01-01", "2038-02-01")]
    for key in keys:
        library.put(b"film", key)
        moment = datetime.fromisoformat(f"{key.filename}T00:00:00+00:00").timestamp()
        os.utime(library.path(key), (moment, moment))
    wait_for_tick()
    for key in keys:
        data, info = library.get(key)
        assert data == b"film"
        assert info.updated_at <= datetime.now(UTC) + timedelta(seconds=1)
        assert library.get(key)[1] == info
        assert library.put(b"other", key, expect=info.etag).info.updated_at > info.updated_at
        library.backend.delete(key, Expect.ANY)


@pytest.mark.parametrize("library", ["sqlite"], indirect=True)
def test_readers_are_not_blocked_when_reconciling_waits(library: Library, shorten_waits: None) -> None:
    """Another process holds the database: files that need reconciling wait for it, others do not."""
    library.limits.refresh_s = 20

    async def readers() -> None:
        storage = ThreadedStorage(library.backend)
        waiting = [asyncio.create_task(storage.stat(Key(SHARED, "", f"{n}"))) for n in range(20)]
        lists = [storage.page(Listing(SHARED), cursor=None, limit=9) for _ in range(20)]
        waiting += [asyncio.create_task(one) for one in lists]
        await asyncio.sleep(0.2)
        async with asyncio.timeout(5):
            for _ in range(20):
                assert (await storage.stat(FILM)).size == 4
        assert not any(task.done() for task in waiting)
        other.execute("ROLLBACK")
        assert len(await asyncio.gather(*waiting)) == 40
        storage.close()

    library.put(b"film")
    for number in range(20):
        (library.root / f"{number}").write_bytes(b"dropped")
    wait_for_tick()
    database = library.root / ".seekable" / "seekable.db"
    with closing(sqlite3.connect(database, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        asyncio.run(readers())


@pytest.mark.parametrize("library", ["sqlite"], indirect=True)
def test_close_waits_for_scan_step(library: Library) -> None:
    async def close_in_the_middle() -> None:
        storage = ThreadedStorage(library.backend)
        async with aclosing(storage.scan()) as steps:
            step = asyncio.create_task(anext(steps))
            await asyncio.sleep(0.1)
            closing = asyncio.create_task(asyncio.to_thread(storage.close))
            await asyncio.sleep(0.1)
            assert not closing.done()
            other.execute("ROLLBACK")
            await step
            await closing

    database = library.root / ".seekable" / "seekable.db"
    with closing(sqlite3.connect(database, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RuntimeError, match="shutdown"):  # the loop ends before the steps are closed
            asyncio.run(close_in_the_middle())


# A COMMIT that fails


@pytest.mark.usefixtures("failing_commit")
def test_create_is_undone_when_commit_fails(library: Library) -> None:
    other = Key(SHARED, "new/folder", "other")
    with pytest.raises(StorageUnavailable):
        library.put(b"other", other)
    assert not (library.root / "new").exists()
    assert library.staging() == []
    with pytest.raises(NotFound):
        library.get(other)


@pytest.mark.usefixtures("failing_commit")
def test_replace_is_undone_when_commit_fails(library: Library) -> None:
    info = library.get()[1]
    with pytest.raises(StorageUnavailable):
        library.put(b"other")
    assert library.path().read_bytes() == b"film"
    check_doubtful(library, info)
    assert library.staging() == []


def check_doubtful(library: Library, info: FileInfo) -> None:
    """Check that the undone change left the file doubtful: its bytes need a new hash."""
    assert library.get() == (b"film", replace(info, sha256=None, is_utf8=None, doubtful=True))


@pytest.mark.usefixtures("failing_commit")
def test_delete_is_undone_when_commit_fails(library: Library) -> None:
    info = library.get()[1]
    with pytest.raises(StorageUnavailable):
        library.backend.delete(FILM, Expect.ANY)
    check_doubtful(library, info)
    assert library.staging() == []


@pytest.mark.usefixtures("failing_commit")
def test_move_is_undone_when_commit_fails(library: Library) -> None:
    info = library.get()[1]
    with pytest.raises(StorageUnavailable):
        library.backend.move(FILM, Key(SHARED, "elsewhere", "film"), Expect.ANY)
    check_doubtful(library, info)
    assert not (library.root / "elsewhere").exists()
    assert library.path().stat().st_nlink == 1
    assert library.staging() == []


# A folder and its database belong together


def test_wrong_folder_is_refused_and_loses_no_row(library: Library, tmp_path: Path) -> None:
    library.put(b"film")
    settings = library.settings.model_copy(
        update={
            "database_url": library.backend.database.engine.url.render_as_string(hide_password=False),
            "files_dir": tmp_path / "mount",
        }
    )
    with ExitStack() as stack, pytest.raises(StorageUnavailable, match="not the one"):
        open_filesystem(settings, stack)
    # The same under a running server: the row stays.
    (library.root / ".seekable" / "id").rename(library.root / "id-elsewhere")
    library.path().rename(library.root / "film-elsewhere")
    for look in (library.get, library.backend.ping):
        with pytest.raises(StorageUnavailable):
            look()
    assert len(library.sql("SELECT * FROM media")) == 1
    (library.root / "id-elsewhere").rename(library.root / ".seekable" / "id")
    (library.root / "film-elsewhere").rename(library.path())
    assert library.get()[0] == b"film"


def test_ping_raises_when_database_was_swapped(library: Library) -> None:
    library.sql("UPDATE volume SET id = 'another'")
    with pytest.raises(StorageUnavailable, match="exchanged"):
        library.backend.ping()


@pytest.mark.parametrize("library", ["sqlite"], indirect=True)
def test_lost_database_is_rebuilt_from_files(library: Library, shorten_waits: None) -> None:
    library.put(b"film")
    library.close()
    for name in ("seekable.db", "seekable.db-wal", "seekable.db-shm"):
        (library.root / ".seekable" / name).unlink(missing_ok=True)
    wait_for_tick()
    library.open()
    assert library.get()[0] == b"film"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"database_url": "nonsense"}, "SEEKABLE_DATABASE_URL"),
        ({"database_url": "mysql://x/y"}, "SEEKABLE_DATABASE_URL"),
        ({"database_url": "postgresql://localhost:port/x"}, "SEEKABLE_DATABASE_URL"),
    ],
)
def test_invalid_database_url_is_refused(tmp_path: Path, change: dict[str, str], word: str) -> None:
    settings = Settings(_env_file=None, files_dir=tmp_path, **change)
    with ExitStack() as stack, pytest.raises(ConfigurationError, match=word):
        open_filesystem(settings, stack)


def test_impossible_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    settings = Settings(_env_file=None, files_dir=tmp_path / "file" / "files")
    with ExitStack() as stack, pytest.raises(ConfigurationError, match="SEEKABLE_FILES_DIR"):
        open_disk(settings, stack)


def test_database_may_be_outside_folder(tmp_path: Path) -> None:
    settings = Settings(
        _env_file=None, files_dir=tmp_path / "files", database_url=f"sqlite:///{tmp_path}/other.db"
    )
    with ExitStack() as stack:
        open_disk(settings, stack)
        open_database(settings, stack)
    with ExitStack() as stack:
        open_filesystem(settings, stack).ping()
    assert (tmp_path / "other.db").exists()


@pytest.mark.parametrize(("stable_after_s", "paths"), [(0, ["film.mp4"]), (3600, [])])
def test_new_file_is_listed_after_setting_when_system_lacks_leases(
    tmp_path: Path, stable_after_s: float, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(fcntl, "F_SETLEASE")
    settings = Settings(_env_file=None, files_dir=tmp_path, stable_after=stable_after_s)
    (tmp_path / "film.mp4").write_bytes(b"film")
    with ExitStack() as stack:
        backend = open_filesystem(settings, stack)
        page = backend.page(Listing(SHARED), cursor=None, limit=9, wait=True)
    assert page is not None
    assert [info.key.path for info in page.items] == paths
