"""Reconciliation after changes by other programs: the same file, a new version, another file, or
unfinished."""

import fcntl
import os
import shutil
import time
import unicodedata
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from app.storage.errors import AlreadyExists, NotFound, PathConflict, StorageUnavailable
from app.storage.maintenance import Integrity, ScanOutcome
from app.storage.types import SHARED, Change, ChangeKind, Expect, FileId, Key, Listing
from tests.unit.database.foreign_changes import (
    NFC,
    NFD,
    drop,
    findings,
    names,
    page,
    scan,
    stat,
    verdicts,
    wait_for_tick,
)
from tests.unit.database.library import FILM, Library

pytestmark = pytest.mark.usefixtures("shorten_waits")

NEW = Key(SHARED, "", "new.mp4")
THEIRS = Key("theirs", "films", "film.mp4")
SERIES = unicodedata.normalize("NFD", "séries")


def with_times_of(path: Path, other: os.stat_result) -> Path:
    os.utime(path, ns=(other.st_atime_ns, other.st_mtime_ns))
    return path


# The same file


def test_moved_file_keeps_id_when_another_takes_its_path(library: Library) -> None:
    info = library.put(b"film").info
    library.path().rename(library.path(NEW))
    drop(library.path(), b"another")
    wait_for_tick()
    assert stat(library, NEW).id == info.id
    assert stat(library).id != info.id
    assert library.get()[0] == b"another"


def test_moved_file_is_found_at_once(library: Library) -> None:
    info = library.put(b"film").info
    library.path().rename(library.path(NEW))
    assert (stat(library, NEW).id, stat(library, NEW).etag) == (info.id, info.etag)


def test_returning_file_keeps_its_row(library: Library, tmp_path: Path) -> None:
    info = library.put(b"film").info
    library.path().rename(tmp_path / "away")
    assert names(library, "films") == []
    (tmp_path / "away").rename(library.path())
    assert stat(library) == replace(info, sha256=None, is_utf8=None, doubtful=True)
    assert scan(library) == {}
    list(library.backend.maintenance.hash_unverified())
    assert stat(library) == info


def test_returning_file_is_hashed_when_it_was_not_before(library: Library, tmp_path: Path) -> None:
    drop(library.path(), b"film")
    wait_for_tick()
    info = stat(library)
    library.path().rename(tmp_path / "away")
    assert names(library, "films") == []
    (tmp_path / "away").rename(library.path())
    assert stat(library).id == info.id
    assert sum(library.backend.maintenance.hash_unverified()) == 4
    assert stat(library).sha256 is not None


def test_edited_file_keeps_id_and_gets_type_from_name(library: Library) -> None:
    info = library.put(b"film").info
    library.path().write_bytes(b"edited")
    wait_for_tick()
    address = FileId(SHARED, info.id)
    reader = library.backend.open(address, wait=True)
    assert reader is not None
    assert (reader.info.id, reader.info.size, reader.info.content_type) == (info.id, 6, "video/mp4")
    reader.close()


def test_second_link_of_returning_file_is_second_file(library: Library, tmp_path: Path) -> None:
    info = library.put(b"film").info
    library.path().rename(tmp_path / "away")
    assert names(library, "films") == []
    (tmp_path / "away").rename(library.path())
    assert stat(library).id == info.id
    os.link(library.path(), library.path(NEW))
    wait_for_tick()
    assert stat(library, NEW).id != info.id


# Another file


@pytest.mark.parametrize("listed_before", [False, True], ids=["at-once", "away-for-a-while"])
def test_file_moved_and_edited_is_new(library: Library, tmp_path: Path, listed_before: bool) -> None:
    """Its old ETag would promise other bytes."""
    info = library.put(b"film").info
    library.path().rename(tmp_path / "away")
    if listed_before:
        assert names(library, "films") == []
    with (tmp_path / "away").open("ab") as file:
        file.write(b" and more")
    (tmp_path / "away").rename(library.path(NEW))
    wait_for_tick()
    data, after = library.get(NEW)
    assert data == b"film and more"
    assert after.etag != info.etag
    assert after.id != info.id


@pytest.mark.parametrize("listed_before", [False, True], ids=["at-once", "after-it-went"])
def test_copy_with_same_times_is_new_file(
    library: Library, tmp_path: Path, listed_before: bool, changes: list[Change]
) -> None:
    info = library.put(b"film").info
    times = library.path().stat()
    if listed_before:
        library.path().rename(tmp_path / "away")
        assert names(library, "films") == []
    with_times_of(drop(library.path(NEW), b"FILM"), times)
    wait_for_tick()
    after = stat(library, NEW)
    assert (after.id == info.id, after.etag == info.etag) == (False, False)
    assert ChangeKind.MOVED not in [change.kind for change in changes]


@pytest.mark.parametrize("listed_before", [False, True], ids=["at-once", "away-for-a-while"])
def test_file_moved_to_other_library_is_new(library: Library, listed_before: bool) -> None:
    """Clients that know its id in the old library must not get access to it in the new one."""
    info = library.put(b"film", THEIRS).info
    theirs = library.root / ".seekable" / "libraries" / THEIRS.library / THEIRS.path
    away = theirs.rename(library.root / ".seekable" / "away")
    if listed_before:
        assert page(library, "films", of=THEIRS.library).items == ()
    away.rename(library.path(NEW))
    wait_for_tick()
    assert stat(library, NEW).id != info.id
    with pytest.raises(NotFound):
        stat(library, THEIRS)


def test_scan_covers_every_library(library: Library) -> None:
    library.put(b"film", THEIRS)
    folder = library.root / ".seekable" / "libraries" / THEIRS.library
    drop(folder / "new" / "film.mp4")
    wait_for_tick()
    assert [(one.path, one.outcome) for one in findings(library)] == [("new/film.mp4", ScanOutcome.CREATED)]
    shutil.rmtree(folder)
    library.put(b"film", Key(THEIRS.library, "", "other"))
    assert scan(library) == {ScanOutcome.DELETED: 2}


# Unfinished files


def test_recently_changed_file_is_unfinished_without_leases(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without leases: an old mtime proves nothing, because tar, rsync and wget set it."""
    library.limits.stable_after_s = 2
    monkeypatch.delattr(fcntl, "F_SETLEASE")
    os.utime(drop(library.path(NEW)), (1e9, 1e9))
    assert names(library) == []
    library.limits.stable_after_s = 0
    wait_for_tick()
    assert names(library) == ["new.mp4"]


def test_paused_copy_stays_unfinished_until_setting_when_system_lacks_leases(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.limits.stable_after_s = 300
    library.limits.written_for_s = 0.1
    monkeypatch.delattr(fcntl, "F_SETLEASE")
    drop(library.path(NEW))
    time.sleep(0.2)
    assert names(library) == []
    library.limits.stable_after_s = 0.1
    assert names(library) == ["new.mp4"]


def test_file_is_added_eventually_when_writer_never_closes_it(library: Library) -> None:
    with drop(library.path(NEW)).open("ab"):
        wait_for_tick()
        assert names(library) == []
        library.limits.written_for_s = 0
        assert names(library) == ["new.mp4"]


def test_files_are_listed_when_clock_was_set_back(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() - 3600 * 10**9)
    drop(library.path(NEW))
    with drop(library.path()).open("ab"):
        assert library.get()[0] == b"dropped"
    assert library.get(NEW)[0] == b"dropped"


def test_removed_file_is_noticed_beside_unfinished_file(library: Library) -> None:
    library.put(b"film")
    library.path().unlink()
    with drop(library.root / "films" / "new.mp4").open("ab"):
        wait_for_tick()
        assert names(library, "films") == []
        assert library.sql("SELECT * FROM media") == []
        assert [step.files for step in library.backend.maintenance.scan() if step.files] == []


def test_file_added_within_clock_tick_is_found(library: Library) -> None:
    """The folder then seems unchanged since it was read."""
    drop(library.path(NEW))
    wait_for_tick()
    os.utime(library.root)
    times = library.root.stat()
    assert names(library) == ["new.mp4"]
    drop(library.root / "two.mp4")
    wait_for_tick()
    with_times_of(library.root, times)
    assert names(library) == ["new.mp4", "two.mp4"]


# Removed files


def test_scan_deletes_rows_of_removed_folders(library: Library) -> None:
    for folder in ("a/b", "a/b/c", "a-b", "a0"):
        library.put(b"film", Key(SHARED, folder, "film.mp4"))
    shutil.rmtree(library.root / "a")
    assert scan(library) == {ScanOutcome.DELETED: 2}
    assert page(library).folders == ("a-b", "a0")


def test_file_is_gone_when_folder_takes_its_path(library: Library) -> None:
    for name in ("one", "two"):
        library.put(b"film", Key(SHARED, "", name))
        library.path(Key(SHARED, "", name)).unlink()
    (library.root / "one").mkdir()
    os.mkfifo(library.root / "two")
    assert names(library) == []


def test_path_is_free_when_file_or_folder_was_removed(library: Library) -> None:
    library.put(b"film", Key(SHARED, "a", "film"))
    shutil.rmtree(library.root / "a")
    library.put(b"film", Key(SHARED, "", "a"))
    library.path(Key(SHARED, "", "a")).unlink()
    library.put(b"film", Key(SHARED, "a", "film"))
    assert page(library, recursive=True).items[0].key.path == "a/film"


def test_change_of_removed_file_reports_deletion(library: Library, changes: list[Change]) -> None:
    infos = [library.put(b"film", key).info for key in (FILM, NEW)]
    for key in (FILM, NEW):
        library.path(key).unlink()
    with pytest.raises(NotFound):
        library.backend.delete(FILM, Expect.ANY)
    with pytest.raises(NotFound):
        library.backend.move(NEW, Key(SHARED, "", "other"), Expect.ANY)
    assert [(change.kind, change.info) for change in changes] == [
        (ChangeKind.DELETED, info) for info in infos
    ]


def test_refused_change_reports_replacement_only_when_committed(
    library: Library, changes: list[Change]
) -> None:
    library.put(b"film")
    library.path().write_bytes(b"edited")
    wait_for_tick()
    with pytest.raises(AlreadyExists):
        library.put(b"upload", expect=Expect.ABSENT)
    changes_before = list(changes)
    info = stat(library)
    assert [change.info for change in changes] == [info]
    assert changes_before in ([], changes)


def test_scan_removes_files_of_crashed_writers(library: Library) -> None:
    drop(library.root / ".seekable" / "staging" / "dead")
    scan(library)
    assert library.staging() == []


# Names in another normalization


def test_decomposed_file_is_served_after_move(library: Library) -> None:
    drop(library.root / NFD, b"film")
    wait_for_tick()
    (info,) = page(library).items
    (library.root / SERIES).mkdir()
    (library.root / NFD).rename(library.root / SERIES / NFD)
    assert scan(library) == {ScanOutcome.MOVED: 1}
    data, after = library.get(Key.of(SHARED, SERIES, NFC))
    assert (data, after.id) == (b"film", info.id)
    assert scan(library) == {}


def test_file_keeps_id_when_name_is_normalized(library: Library) -> None:
    drop(library.root / NFD, b"film")
    wait_for_tick()
    (info,) = page(library).items
    list(library.backend.maintenance.hash_unverified())
    (library.root / NFD).rename(library.root / NFC)
    scan(library)
    assert verdicts(library) == {NFC: Integrity.SOUND}
    assert stat(library, Key(SHARED, "", NFC)).id == info.id


def test_decomposed_file_stays_when_another_is_removed(library: Library) -> None:
    drop(library.root / SERIES / NFD)
    drop(library.root / SERIES / "two.mp4")
    wait_for_tick()
    assert scan(library) == {ScanOutcome.CREATED: 2}
    (library.root / SERIES / "two.mp4").unlink()
    assert scan(library) == {ScanOutcome.DELETED: 1}
    assert names(library, "séries") == [NFC]


def test_decomposed_names_conflict_within_their_library_only(library: Library) -> None:
    drop(library.root / SERIES / "deep" / "film.mp4")
    drop(library.root / NFD)
    wait_for_tick()
    assert scan(library) == {ScanOutcome.CREATED: 2}
    for key in (Key(SHARED, "", "séries"), Key(SHARED, "séries", "deep"), Key(SHARED, NFC, "film.mp4")):
        with pytest.raises(PathConflict):
            library.put(b"film", key)
        library.put(b"film", Key("theirs", key.folder, key.filename))
        library.backend.delete(Key("theirs", key.folder, key.filename), Expect.ANY)
    library.put(b"film", Key(SHARED, "", "sérieux"))


@pytest.mark.parametrize("decomposed_first", [False, True], ids=["even-first", "odd-first"])
@pytest.mark.parametrize("decomposed_file", [False, True], ids=["odd-folder", "odd-file"])
def test_file_and_folder_with_equal_names_are_never_both_added(
    library: Library, decomposed_first: bool, decomposed_file: bool
) -> None:
    """The disk allows both if they differ in normalization."""
    file, folder = (NFD, NFC) if decomposed_file else (NFC, NFD)

    def put_file() -> None:
        drop(library.root / file)

    def put_folder() -> None:
        drop(library.root / folder / "film.mp4")

    for put in (put_file, put_folder) if decomposed_first is decomposed_file else (put_folder, put_file):
        put()
        wait_for_tick()
        scan(library)
    found = findings(library)
    assert [one.outcome for one in found] == [ScanOutcome.SKIPPED]
    (info,) = page(library, recursive=True).items
    assert info.key.path in (NFC, f"{NFC}/film.mp4")
    other = {NFC, f"{NFC}/film.mp4"} - {info.key.path}
    with pytest.raises(NotFound):
        library.get(Key.at(SHARED, other.pop()))
    assert len(page(library, recursive=True).items) == 1


# Lists with little time


@pytest.fixture
def huge(library: Library) -> None:
    """Create a folder with more files than a list has time to check."""
    for number in range(9):
        library.put(b"film", Key(SHARED, "", f"{number}"))
    library.limits.batch = 2
    library.limits.refresh_s = 0


@pytest.mark.parametrize("library", ["sqlite"], indirect=True)  # one database is enough for this many lists
def test_list_leaves_remaining_files_to_next_list_when_out_of_time(library: Library) -> None:
    library.limits.batch = 10
    # Enough time to compare all files with their rows, but not to add them all.
    library.limits.refresh_s = 0.3
    library.limits.retry_after_s = 0
    for number in range(400):
        drop(library.root / f"{number}")
    wait_for_tick()
    found = [len(names(library))]
    assert 0 < found[0] < 400
    while found[-1] < 400:
        found.append(len(names(library)))
    assert found == sorted(found)


@pytest.mark.usefixtures("huge")
def test_list_leaves_huge_folder_to_next_scan(library: Library) -> None:
    assert len(names(library)) == 9
    drop(library.root / "another")
    wait_for_tick()
    listing = Listing(SHARED)
    assert library.backend.page(listing, cursor=None, limit=99, wait=False) is not None, (
        "the list must not read the folder again"
    )
    assert scan(library) == {ScanOutcome.CREATED: 1}
    assert len(names(library)) == 10


@pytest.mark.usefixtures("huge")
def test_list_reads_huge_folder_again_after_pause(library: Library) -> None:
    library.limits.retry_after_s = 0.01
    assert len(names(library)) == 9
    drop(library.root / "another")
    wait_for_tick()
    library.limits.refresh_s = 20
    assert len(names(library)) == 10


def test_list_soon_reads_folder_again_when_many_files_are_new(library: Library) -> None:
    """A slow machine has no time to check them all while they are unfinished."""
    library.limits.batch = 10
    library.limits.refresh_s = 0.05
    library.limits.retry_new_after_s = 0.01
    for number in range(300):
        drop(library.root / f"{number}")
    assert len(names(library)) < 300
    wait_for_tick()
    library.limits.refresh_s = 20
    assert len(names(library)) == 300


@pytest.mark.usefixtures("huge")
def test_folder_list_still_reads_after_recursive_list_ran_out_of_time(library: Library) -> None:
    assert len(page(library, recursive=True).items) == 9
    library.limits.refresh_s = 20
    drop(library.path(NEW))
    wait_for_tick()
    assert len(page(library, recursive=True).items) == 9
    assert len(names(library)) == 10


def test_recursive_list_reads_below_unchanged_folders(library: Library) -> None:
    library.put(b"film", Key(SHARED, "a/b/c", "film.mp4"))
    wait_for_tick()
    assert len(page(library, recursive=True).items) == 1
    drop(library.root / "a" / "b" / "c" / "two.mp4")
    wait_for_tick()
    assert len(page(library, recursive=True).items) == 2


def test_scan_checks_files_that_lists_have_cached(library: Library) -> None:
    library.put(b"film")
    wait_for_tick()
    assert names(library, "films") == ["film.mp4"]
    library.path().write_bytes(b"edited")
    wait_for_tick()
    assert scan(library) == {ScanOutcome.REPLACED: 1}


def test_list_is_served_when_folder_cannot_be_read(
    library: Library, no_descriptors: Callable[[], AbstractContextManager[None]]
) -> None:
    library.put(b"film")
    wait_for_tick()
    page(library, "films")
    with no_descriptors():
        assert names(library, "films") == ["film.mp4"]
        with pytest.raises(StorageUnavailable):
            library.get()
    assert library.get()[0] == b"film"


def test_list_notices_removed_files_after_abandoned_scan(library: Library) -> None:
    for folder in ("a", "b"):
        for name in ("one.mp4", "two.mp4"):
            library.put(b"film", Key(SHARED, folder, name))
    wait_for_tick()
    for folder in ("a", "b"):
        (library.root / folder / "one.mp4").unlink()
    wait_for_tick()
    scanning = library.backend.maintenance.scan()
    for _ in range(6):  # twice the top, then one folder and the other: the removed files would come next
        assert not next(scanning).findings
    scanning.close()
    assert [names(library, folder) for folder in ("a", "b")] == [["two.mp4"], ["two.mp4"]]


def test_own_change_in_big_folder_causes_no_new_comparison(library: Library) -> None:
    library.limits.big_folder = 2
    listing = Listing(SHARED)
    for number in range(3):
        library.put(b"film", Key(SHARED, "", f"{number}"))
    wait_for_tick()
    assert len(names(library)) == 3
    library.put(b"film", Key(SHARED, "", "new"))
    library.put(b"another film", Key(SHARED, "", "new"))
    library.backend.move(Key(SHARED, "", "new"), Key(SHARED, "", "moved"), Expect.ANY)
    library.backend.delete(Key(SHARED, "", "moved"), Expect.ANY)
    assert library.backend.page(listing, cursor=None, limit=99, wait=False) is not None, (
        "the list must not read the folder again"
    )
    drop(library.root / "dropped")
    library.put(b"film", Key(SHARED, "", "newer"))
    wait_for_tick()
    assert names(library) == ["0", "1", "2", "dropped", "newer"]


def test_many_folders_are_read_again_after_pause(library: Library) -> None:
    library.limits.max_folders_checked = 2
    library.limits.rest_factor = 10_000
    for folder in ("a", "b", "c"):
        library.put(b"film", Key(SHARED, folder, "film"))
    wait_for_tick()
    assert len(page(library, recursive=True).items) == 3
    listing = Listing(SHARED, recursive=True)
    assert library.backend.page(listing, cursor=None, limit=99, wait=False) is not None, (
        "the list must not read the folder again"
    )
    library.limits.rest_factor = 0
    drop(library.root / "c" / "dropped")
    wait_for_tick()
    assert len(page(library, recursive=True).items) == 4
