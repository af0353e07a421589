"""Versions of a file after changes by other programs and by us: ETag, digest, and the proof by a hash."""

import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.database.filesystem.writable_disk import WritableDisk
from app.database.sql.engine import BUSY_TIMEOUT_MS
from app.storage.errors import NotFound, Unfinished, VersionMismatch
from app.storage.maintenance import Integrity
from app.storage.types import SHARED, Change, Expect, FileInfo, Key
from tests.unit.database.foreign_changes import drop, names, scan, stat, verdicts
from tests.unit.database.library import FILM, Library

NEW = Key(SHARED, "new", "new.mp4")


def restore(library: Library, data: bytes, key: Key = FILM) -> None:
    """Replace a file by another with the same mtime, like `touch -r old new; mv new old`."""
    path = library.path(key)
    new = drop(library.root / "elsewhere", data)
    shutil.copystat(path, new)
    new.rename(path)


def hash_all(library: Library) -> int:
    return sum(library.backend.maintenance.hash_unverified())


def second(info: FileInfo) -> int:
    return int(info.updated_at.timestamp())


def test_lookalike_regains_old_etag_when_bytes_are_equal(library: Library) -> None:
    info = library.put(b"film").info
    restore(library, b"film")
    meanwhile = stat(library)
    assert meanwhile.etag != info.etag
    assert (meanwhile.sha256, meanwhile.doubtful, meanwhile.other_etag) == (None, True, None)
    assert verdicts(library) == {FILM.path: Integrity.SOUND}
    assert hash_all(library) == 4
    after = stat(library)
    assert (after.etag, after.sha256, after.other_etag) == (info.etag, info.sha256, meanwhile.etag)
    assert after.updated_at == info.updated_at, "a restored backup must keep its dates"
    assert not after.doubtful
    ((until,),) = library.sql("SELECT other_until FROM media")
    remaining = datetime.fromisoformat(str(until)).replace(tzinfo=UTC) - datetime.now(UTC)
    assert timedelta(minutes=59) < remaining <= timedelta(hours=1)
    library.sql("UPDATE media SET other_until = '2020-01-01 00:00:00'")
    assert stat(library).other_etag is None, "the hour has passed"


def test_lookalike_never_has_old_etag_when_bytes_differ(library: Library, changes: list[Change]) -> None:
    info = library.put(b"film").info
    restore(library, b"FILM")
    data, meanwhile = library.get()
    assert (data, meanwhile.etag == info.etag, meanwhile.sha256) == (b"FILM", False, None)
    hash_all(library)
    after = stat(library)
    assert (after.etag, after.other_etag) == (meanwhile.etag, None)
    assert after.sha256 == hashlib.sha256(b"FILM").hexdigest()
    assert (meanwhile.doubtful, after.doubtful) == (True, False)
    assert second(after) > second(info)
    assert [change.info.etag for change in changes] == [meanwhile.etag] * 2


def test_lookalike_of_lookalike_regains_first_etag(library: Library) -> None:
    info = library.put(b"film").info
    etags = [info.etag]
    for _ in range(3):
        restore(library, b"film")
        etags.append(stat(library).etag)
    assert len(set(etags)) == 4
    hash_all(library)
    assert (stat(library).etag, stat(library).other_etag) == (info.etag, etags[-1])


def replace(library: Library, expect: str) -> None:
    library.backend.check(FILM, expect)
    library.put(b"new", FILM, expect)


CHANGES: list[Callable[[Library, str], object]] = [
    replace,
    lambda library, expect: library.backend.move(FILM, NEW, expect),
    lambda library, expect: library.backend.delete(FILM, expect),
]


@pytest.mark.parametrize("change", CHANGES)
def test_change_accepts_either_etag(library: Library, change: Callable[[Library, str], object]) -> None:
    """For example, an upload with If-Match is hashed to its end after the condition was evaluated."""
    library.put(b"film")
    restore(library, b"film")
    meanwhile = stat(library).etag
    hash_all(library)
    with pytest.raises(VersionMismatch):
        change(library, "other")
    change(library, meanwhile)


def test_touched_file_is_served_and_regains_etag(library: Library) -> None:
    info = library.put(b"film").info
    os.utime(library.path())
    touched = stat(library)
    assert touched.etag != info.etag
    kept = (info.id, info.content_type, info.updated_at)
    assert (touched.id, touched.content_type, touched.updated_at) == kept
    hash_all(library)
    after = stat(library)
    assert (after.etag, after.sha256, after.other_etag) == (info.etag, info.sha256, touched.etag)


def chmod(path: Path) -> None:
    path.chmod(0o600)


def link(path: Path) -> None:
    os.link(path, path.parents[2] / "backup")


def edit(path: Path) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"FILM")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(("change", "is_same"), [(chmod, True), (link, True), (edit, False)])
def test_file_with_other_ctime_keeps_etag_unconfirmed(
    library: Library,
    change: Callable[[Path], None],
    is_same: bool,
    changes: list[Change],
    caplog: pytest.LogCaptureFixture,
) -> None:
    info = library.put(b"film").info
    change(library.path())
    meanwhile = stat(library)
    assert (meanwhile.etag, meanwhile.sha256, meanwhile.doubtful) == (info.etag, None, True)
    assert second(meanwhile) == second(info)
    assert stat(library) == meanwhile
    assert hash_all(library) == 4
    after = stat(library)
    assert (after == info) is is_same
    assert (after.etag == info.etag, after.sha256 == info.sha256) == (is_same, is_same)
    assert not after.doubtful
    assert len(changes) == (0 if is_same else 1)
    assert ("films/film.mp4 has other bytes than before" in caplog.text) is not is_same
    assert hash_all(library) == 0


@pytest.mark.parametrize("change", [chmod, edit])
def test_file_changed_before_first_hash_gets_new_etag_with_hash(
    library: Library, change: Callable[[Path], None], changes: list[Change]
) -> None:
    """No hash exists of the bytes that had the ETag; players that hold it continue."""
    drop(library.path(), b"film")
    info = stat(library)
    assert (info.sha256, info.doubtful) == (None, False)
    change(library.path())
    assert (stat(library).etag, stat(library).doubtful) == (info.etag, True)
    hash_all(library)
    after = stat(library)
    assert (after.etag, after.other_etag, after.doubtful) == (after.sha256, info.etag, False)
    assert after.updated_at == info.updated_at
    assert changes[-1].info == after


def test_lookalike_changed_before_hash_gets_new_etag_with_hash(library: Library) -> None:
    info = library.put(b"film").info
    restore(library, b"FILM")
    meanwhile = stat(library)
    edit(library.path())
    assert stat(library).etag == meanwhile.etag
    hash_all(library)
    after = stat(library)
    assert (after.etag, after.other_etag) == (after.sha256, meanwhile.etag)
    assert second(after) > second(info)


def test_both_etags_are_accepted_for_an_hour_when_file_is_touched_again(library: Library) -> None:
    info = library.put(b"film").info
    restore(library, b"film")
    meanwhile = stat(library)
    hash_all(library)
    chmod(library.path())
    assert (stat(library).doubtful, stat(library).other_etag) == (True, meanwhile.etag)
    hash_all(library)
    after = stat(library)
    assert (after.etag, after.other_etag, after.doubtful) == (info.etag, meanwhile.etag, False)


def test_older_file_moved_over_newer_gets_later_modification_time(library: Library) -> None:
    drop(library.path())
    info = stat(library)
    older = drop(library.root / "older", b"of yesterday")
    os.utime(older, (1_500_000_000, 1_500_000_000))
    older.rename(library.path())
    assert second(stat(library)) > second(info)


def test_own_changes_need_no_hash(library: Library) -> None:
    library.put(b"film")
    library.put(b"replaced")
    library.put(b"other", NEW)
    library.backend.move(FILM, Key(SHARED, "moved", "film.mp4"), Expect.ANY)
    for path in (library.root / "moved" / "film.mp4", library.path(NEW)):
        ctime_ns = path.stat().st_ctime_ns
        assert library.sql(f"SELECT device FROM media WHERE ctime_ns = {ctime_ns}") == [(0,)]
    infos = [stat(library, key) for key in (NEW, Key(SHARED, "moved", "film.mp4"))]
    assert [(info.doubtful, info.sha256 is None) for info in infos] == [(False, False)] * 2
    assert (scan(library), hash_all(library)) == ({}, 0)


def create(library: Library) -> Key:
    library.put(b"ours", NEW)
    return NEW


def replace_version(library: Library) -> Key:
    library.put(b"ours")
    return FILM


def move(library: Library) -> Key:
    library.backend.move(FILM, NEW, Expect.ANY)
    return NEW


@pytest.mark.parametrize("change", [create, replace_version, move])
@pytest.mark.parametrize("taken_away", [False, True], ids=["replaced", "taken-away"])
def test_file_replaced_during_change_gets_its_own_version(
    library: Library, change: Callable[[Library], Key], taken_away: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.put(b"film")
    ours, name = (
        (b"film" if change is move else b"ours"),
        (FILM if change is replace_version else NEW).filename,
    )
    theirs = drop(library.root / "theirs", b"more")
    fsync = os.fsync
    done: list[Path] = []

    def meanwhile(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}")) / name
        if not done and path.is_file() and path.read_bytes() == ours:
            path.unlink() if taken_away else theirs.rename(path)
            done.append(path)

    monkeypatch.setattr(os, "fsync", meanwhile)
    key = change(library)
    assert done
    if taken_away:
        with pytest.raises(NotFound):
            stat(library, key)
    else:
        data, info = library.get(key)
        assert (data, info.sha256) == (b"more", None)
        assert info.etag not in (hashlib.sha256(b"ours").hexdigest(), hashlib.sha256(b"film").hexdigest())


def test_upload_raises_unfinished_when_file_disappears(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.put(b"film")
    link = os.link

    def meanwhile(*names: str, **options: Any) -> None:
        library.path().unlink()
        link(*names, **options)

    monkeypatch.setattr(os, "link", meanwhile)
    with pytest.raises(Unfinished):
        library.put(b"ours")
    monkeypatch.undo()
    assert library.put(b"ours").created
    assert library.get()[0] == b"ours"


def test_upload_over_doubtful_file_needs_no_hash(library: Library) -> None:
    library.put(b"film")
    chmod(library.path())
    assert stat(library).doubtful
    new = library.put(b"replaced").info
    assert stat(library) == new
    assert hash_all(library) == 0


def test_doubtful_files_are_hashed_first(library: Library) -> None:
    """This includes a file that became doubtful while others were hashed."""
    sizes = {}
    for number in range(4):
        sizes[drop(library.root / f"{number}", b"x" * (number + 1))] = number + 1
    assert len(names(library)) == 4
    library.put(b"x" * 100)
    chmod(library.path())
    stat(library)
    steps = library.backend.maintenance.hash_unverified()
    hashed = [size for size in (next(steps) for _ in range(4)) if size]
    assert hashed[0] == 100
    library.put(b"x" * 200, NEW)
    chmod(library.path(NEW))
    stat(library, NEW)
    later_sizes = [size for size in steps if size]
    assert 200 in later_sizes[:2]
    assert sorted([*hashed, *later_sizes]) == [1, 2, 3, 4, 100, 200]


def test_rows_of_earlier_releases_keep_etags_without_hashing(library: Library) -> None:
    info = library.put(b"film").info
    library.sql("UPDATE media SET ctime_ns = NULL, device = NULL")
    chmod(library.path())  # at an unknown time
    assert stat(library) == info
    assert library.sql("SELECT ctime_ns FROM media") == [(None,)], "reading must not write"
    assert (scan(library), hash_all(library)) == ({}, 0)
    assert library.sql("SELECT ctime_ns FROM media") == [(library.path().stat().st_ctime_ns,)]
    assert stat(library) == info
    edit(library.path())
    assert stat(library).doubtful


def test_file_is_served_unconfirmed_when_database_is_read_only(library: Library) -> None:
    info = library.put(b"film").info
    library.sql("CREATE TRIGGER full BEFORE UPDATE ON media BEGIN SELECT RAISE(ABORT, 'refused'); END")
    chmod(library.path())
    data, meanwhile = library.get()
    assert (data, meanwhile.etag, meanwhile.sha256, meanwhile.doubtful) == (b"film", info.etag, None, True)


def test_file_is_served_unconfirmed_soon_when_database_is_locked(library: Library) -> None:
    info = library.put(b"film").info
    library.backend.database.proven_for_s = 0  # as if the last change were long ago
    chmod(library.path())
    with closing(sqlite3.connect(library.root / ".seekable" / "seekable.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        data, meanwhile = library.get()
        assert time.monotonic() - began < BUSY_TIMEOUT_MS / 2000
    assert (data, meanwhile.etag, meanwhile.sha256, meanwhile.doubtful) == (b"film", info.etag, None, True)


def test_device_of_returns_number_for_other_device(tmp_path: Path) -> None:
    disk = WritableDisk(tmp_path)
    assert disk.device_of(tmp_path.stat()) == 0
    assert disk.device_of(os.stat("/proc")) not in (None, 0)
    disk.close()
