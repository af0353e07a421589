"""Changes by other programs in the folder of files are found, and their files are never damaged."""

import errno
import hashlib
import os
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.database.filesystem import Limits, scanner
from app.storage.errors import AlreadyExists, NotFound, PathConflict, Unfinished
from app.storage.maintenance import Integrity, ScanFinding, ScanOutcome
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


# Lists


def test_dropped_file_is_in_next_list(library: Library) -> None:
    drop(library.root / "films" / "one.mp4")
    with (library.root / "top.mp4").open("wb") as file:
        file.write(b"dropped")
        assert page(library).items == (), "a program still writes it"
    assert names(library) == ["top.mp4"]
    assert page(library).folders == ("films",)
    assert names(library, "films") == ["one.mp4"]
    info = stat(library, Key(SHARED, "films", "one.mp4"))
    assert (info.size, info.sha256, info.content_type) == (7, None, "video/mp4")


def test_dropped_file_is_listed_when_its_folder_was_empty(library: Library) -> None:
    """The folder above does not change, and no row names the new folder."""
    (library.root / "films" / "new").mkdir(parents=True)
    wait_for_tick()
    assert page(library).folders == ()
    drop(library.root / "films" / "new" / "one.mp4")
    wait_for_tick()
    assert page(library).folders == ("films",)
    assert names(library, "films/new") == ["one.mp4"]


def test_recursive_list_finds_dropped_files_below(library: Library) -> None:
    library.put(b"film", Key(SHARED, "a/b", "film.mp4"))
    page(library, recursive=True)
    drop(library.root / "a" / "b" / "two.mp4")
    wait_for_tick()
    assert page(library, "a/b").items[1].key.filename == "two.mp4"
    drop(library.root / "a" / "b" / "three.mp4")
    wait_for_tick()
    page(library, recursive=True)
    assert [info.key.filename for info in page(library, "a/b").items] == ["film.mp4", "three.mp4", "two.mp4"]


def test_removed_file_is_in_no_list(library: Library) -> None:
    for name in ("one.mp4", "two.mp4"):
        library.put(b"film", Key(SHARED, "films/old", name))
    library.put(b"film", Key(SHARED, "films", "film.mp4"))
    (library.root / "films" / "old" / "one.mp4").unlink()
    assert names(library, "films/old") == ["two.mp4"]
    shutil.rmtree(library.root / "films" / "old")
    assert page(library, "films").folders == ()
    shutil.rmtree(library.root / "films")
    assert page(library).folders == ()
    assert library.sql("SELECT * FROM media") == []


def test_unchanged_folder_is_not_read_again(library: Library) -> None:
    library.put(b"film", Key(SHARED, "a", "film.mp4"))
    wait_for_tick()
    page(library, "a")
    listing = Listing(SHARED, "a")
    assert library.backend.page(listing, cursor=None, limit=9, wait=False) is not None
    drop(library.root / "a" / "two.mp4")
    assert library.backend.page(listing, cursor=None, limit=9, wait=False) is None
    # A change within the clock tick before the folder was read cannot be distinguished from one after it.
    library.limits.folder_tick_s = 1000
    page(library, "a")
    assert library.backend.page(listing, cursor=None, limit=9, wait=False) is None


def test_list_of_absent_folder_waits_for_no_scan_unless_it_has_rows(library: Library) -> None:
    """Each 404 below /files/ looks for a folder of the name."""

    def items(folder: str) -> list[str] | None:
        listing = Listing(SHARED, folder, recursive=True)
        found = library.backend.page(listing, cursor=None, limit=9, wait=False)
        return None if found is None else [info.key.path for info in found.items]

    drop(library.root / "films" / "deep" / "one.mp4")
    scan(library)
    (library.root / "new").mkdir()
    assert items("none") == items("films/none") == items("films/deep/one.mp4/none") == []
    assert items("new") is None, "a file may have been added"
    assert items(NFC) is None, "the disk may have it in another normalization"
    shutil.rmtree(library.root / "films")
    assert items("films") is items("films/deep") is None, "its rows have lost their files"
    assert names(library, "films/deep") == []
    assert items("films/deep") == []


def test_folder_is_read_again_when_its_time_was_set_back(library: Library) -> None:
    """tar, rsync and cp -a set the time back after they have copied into a folder."""
    library.put(b"film")
    os.utime(library.root / "films", (1_500_000_000, 1_500_000_000))
    wait_for_tick()
    page(library, "films")
    drop(library.root / "films" / "two.mp4")
    os.utime(library.root / "films", (1_500_000_000, 1_500_000_000))
    wait_for_tick()
    assert names(library, "films") == ["film.mp4", "two.mp4"]


def test_file_written_again_after_removal_is_new(library: Library) -> None:
    """The new file may get the inode of the old one."""
    library.put(b"film")
    wait_for_tick()
    assert page(library, "films").items[0].size == 4
    library.path().unlink()
    drop(library.path(), b"another film")
    wait_for_tick()
    assert page(library, "films").items[0].size == 12


def test_emptied_folder_is_read_again(library: Library) -> None:
    library.put(b"film", Key(SHARED, "a/b", "film.mp4"))
    wait_for_tick()
    assert page(library).folders == ("a",)
    (library.root / "a" / "b" / "film.mp4").unlink()
    assert page(library, "a/b").items == ()
    drop(library.root / "a" / "b" / "new.mp4")
    wait_for_tick()
    assert page(library).folders == ("a",)
    assert names(library, "a/b") == ["new.mp4"]


def test_dropped_file_is_listed_when_folder_has_other_normalization(library: Library) -> None:
    odd = library.root / unicodedata.normalize("NFD", "séries")
    drop(odd / "one.mp4")
    wait_for_tick()
    page(library)
    library.put(b"film", Key.of(SHARED, "séries", "two.mp4"))
    wait_for_tick()
    assert names(library, "séries") == ["one.mp4", "two.mp4"]
    drop(odd / "three.mp4")
    wait_for_tick()
    assert names(library, "séries") == ["one.mp4", "three.mp4", "two.mp4"]


def test_list_reports_move_when_folder_was_moved(library: Library) -> None:
    library.put(b"film", Key(SHARED, "old", "film.mp4"))
    library.put(b"stays", Key(SHARED, "", "film.mp4"))
    page(library)
    (library.root / "old").rename(library.root / "new")
    assert page(library).folders == ("new",)
    assert [change.kind for change in library.published] == [ChangeKind.MOVED]


def test_scan_handles_more_files_than_one_batch(library: Library) -> None:
    library.limits.batch = 64
    count = 2 * 64 + 3
    for number in range(count):
        drop(library.root / "many" / f"{number:04}.mp4")
    wait_for_tick()
    assert scan(library) == {ScanOutcome.CREATED: count}
    for number in range(0, count, 2):
        (library.root / "many" / f"{number:04}.mp4").unlink()
    assert scan(library) == {ScanOutcome.DELETED: count // 2 + 1}
    assert len(names(library, "many")) == count // 2


def test_scan_cache_is_bounded() -> None:
    folders = scanner.ScanCache(Limits(), max_folders=3, max_names=7)
    for number in (0, 1, 2, 0, 3, 4):
        folders.put((str(number),), scanner.FolderState(0, ("a", "b"), ()), scanned_ns=10**10)
    found = [number for number in range(5) if folders.get((str(number),)) is not None]
    assert found == [0, 3, 4], "the most recently read folders stay"
    folders.put(("0",), scanner.FolderState(0, ("a", "b", "c"), ()), scanned_ns=10**10)
    assert folders.get(("3",)) is not None, "seven names are within the limit"
    folders.put(("0",), scanner.FolderState(0, ("a", "b", "c", "d"), ()), scanned_ns=10**10)
    found = [number for number in range(5) if folders.get((str(number),)) is not None]
    assert found == [0, 4], "the least recently read folders are dropped"
    folders.put(("0",), scanner.FolderState(0, tuple("abcdefgh"), ()), scanned_ns=10**10)
    assert folders.get(("0",)) is None, "a folder with too many names is not cached"


@pytest.mark.parametrize(
    ("changed_ns", "scanned_ns", "is_cached"),
    [
        (10 * 10**9 + 1, 10 * 10**9 + 10**8, False),
        (10 * 10**9 + 1, 10 * 10**9 + 10**8 + 1, True),
        (10 * 10**9, 12 * 10**9 - 1, False),  # the file system may store whole seconds only, or two
        (10 * 10**9, 12 * 10**9, True),
        (20 * 10**9, 12 * 10**9, False),  # in the future
    ],
)
def test_folder_is_cached_when_its_time_is_old_enough(
    changed_ns: int, scanned_ns: int, is_cached: bool
) -> None:
    folders = scanner.ScanCache(Limits(folder_tick_s=0.1))
    folders.put(("a",), scanner.FolderState(changed_ns, (), ()), scanned_ns=scanned_ns)
    assert (folders.get(("a",)) is not None) is is_cached


# Files that are being written


def test_unfinished_file_is_not_listed(library: Library) -> None:
    path = library.root / "slow.mp4"
    with path.open("wb") as file:
        file.write(b"half")
        file.flush()
        wait_for_tick()
        assert names(library) == []
        assert scan(library) == {ScanOutcome.UNFINISHED: 1}
        with pytest.raises(NotFound):
            library.get(Key(SHARED, "", "slow.mp4"))
        with pytest.raises(AlreadyExists):
            library.backend.check(Key(SHARED, "", "slow.mp4"), Expect.ABSENT)
        file.write(b" and half")
    wait_for_tick()
    assert names(library) == ["slow.mp4"]
    assert library.get(Key(SHARED, "", "slow.mp4"))[0] == b"half and half"


def test_known_file_is_not_served_while_overwritten(library: Library) -> None:
    info = library.put(b"the old film").info
    with library.path().open("r+b") as file:
        file.write(b"THE NEW")
        file.flush()
        with pytest.raises(Unfinished):
            library.get()
        assert scan(library) == {ScanOutcome.UNFINISHED: 1}
    data, after = library.get()
    assert data == b"THE NEW film"
    assert (after.id, after.sha256) == (info.id, None)
    assert after.etag != info.etag


def test_file_moved_over_another_is_new_version(library: Library) -> None:
    info = library.put(b"old").info
    drop(library.root / "films" / "new.mp4", b"new!").rename(library.path())
    data, after = library.get()
    assert (data, after.id, after.size) == (b"new!", info.id, 4)
    assert after.etag != info.etag
    assert names(library, "films") == ["film.mp4"]


# Files that were moved


def test_moved_file_keeps_id_and_version(library: Library) -> None:
    info = library.put(b"film").info
    (library.root / "new").mkdir()
    library.path().rename(library.root / "new" / "name.mp4")
    assert scan(library) == {ScanOutcome.MOVED: 1}
    assert stat(library, Key(SHARED, "new", "name.mp4")).etag == info.etag
    list(library.backend.maintenance.hash_unverified())
    after = stat(library, Key(SHARED, "new", "name.mp4"))
    assert (after.id, after.etag, after.sha256, after.created_at) == (
        info.id,
        info.etag,
        info.sha256,
        info.created_at,
    )
    assert page(library).folders == ("new",)
    assert library.backend.open(FileId(SHARED, info.id), wait=False) is not None


def test_files_of_moved_folder_keep_ids_when_either_end_is_listed_first(library: Library) -> None:
    ids = {library.put(b"film", Key(SHARED, "a/b", name)).info.id for name in ("1", "2", "3")}
    (library.root / "a").rename(library.root / "c")
    assert page(library, "a/b").items == ()
    assert {info.id for info in page(library, "c/b").items} == ids
    (library.root / "c").rename(library.root / "a")
    assert {info.id for info in page(library, "a/b").items} == ids
    assert scan(library) == {}
    assert page(library).folders == ("a",)


def test_second_link_is_second_file(library: Library) -> None:
    info = library.put(b"film").info
    os.link(library.path(), library.root / "again.mp4")
    wait_for_tick()
    assert scan(library) == {ScanOutcome.CREATED: 1}
    assert stat(library).id == info.id
    assert stat(library, Key(SHARED, "", "again.mp4")).id != info.id


def test_returning_file_gets_new_id_when_copy_has_its_id(library: Library) -> None:
    info = library.put(b"film").info
    library.path().rename(library.root.parent / "away")
    assert names(library, "films") == []
    copy = library.put(b"film", Key(SHARED, "", "copy.mp4"), origin=info).info
    assert copy.id == info.id
    (library.root.parent / "away").rename(library.path())
    wait_for_tick()
    back = stat(library, FILM)
    assert back.id != info.id
    assert stat(library, FileId(SHARED, info.id)) == copy


def test_departed_files_are_forgotten_after_retention(library: Library) -> None:
    library.put(b"film")
    library.path().unlink()
    assert scan(library) == {ScanOutcome.DELETED: 1}
    assert len(library.sql("SELECT * FROM departed")) == 1
    scan(library)
    assert len(library.sql("SELECT * FROM departed")) == 1
    library.sql("UPDATE departed SET departed_at = '2020-01-01 00:00:00.000000'")
    scan(library)
    assert library.sql("SELECT * FROM departed") == []


# Names that the disk allows and the library does not


def test_scan_reports_files_it_must_skip(library: Library, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    drop(tmp_path / "outside" / "secret.mp4")
    (library.root / "link.mp4").symlink_to(tmp_path / "outside" / "secret.mp4")
    (library.root / "folder").symlink_to(tmp_path / "outside")
    os.mkfifo(library.root / "pipe")
    drop(library.root / "back\\slash")
    Path(os.fsdecode(os.fsencode(library.root) + b"/not\xffutf8")).write_bytes(b"")
    bad = library.root / "line\nbreak"
    drop(bad / "film.mp4")
    drop(library.root / "good.mp4")
    wait_for_tick()
    found = {finding.path: finding for finding in findings(library)}
    assert {path for path, one in found.items() if one.outcome is ScanOutcome.SKIPPED} == {
        "link.mp4",
        "folder",
        "pipe",
        "back\\slash",
        "not\udcffutf8",
        "line\nbreak",
    }
    assert all(one.reason for one in found.values() if one.outcome is ScanOutcome.SKIPPED)
    assert names(library) == ["good.mp4"]
    assert page(library).folders == ()
    assert (bad / "film.mp4").exists()


def test_estimate_skips_folders_with_invalid_names(library: Library) -> None:
    """Each folder is opened from the top, so thousands of nested folders would take quadratic time."""
    deep = library.root.joinpath(*["nested"] * 33)
    drop(deep / "film.mkv")
    drop(library.root / "nested" / "back\\slash" / "film.mkv")
    drop(library.root / "nested" / "film.mkv")
    assert library.backend.maintenance.estimate_file_count() == 1


def test_name_in_other_normalization_is_served_and_kept(library: Library) -> None:
    """Files that macOS created have such names."""
    folder = unicodedata.normalize("NFD", "séries")
    drop(library.root / folder / NFD, b"film")
    wait_for_tick()
    key = Key.of(SHARED, "séries", NFC)
    assert page(library).folders == ("séries",)
    assert names(library, "séries") == [NFC]
    assert library.get(key)[0] == b"film"
    assert os.listdir(library.root / folder) == [NFD]
    drop(library.root / folder / "two.mp4")
    wait_for_tick()
    assert names(library, "séries") == [NFC, "two.mp4"]
    # An upload replaces it under its own spelling.
    library.put(b"other", key)
    assert (library.root / folder / NFD).read_bytes() == b"other"
    assert not (library.root / "séries").exists()
    library.backend.move(key, FILM, Expect.ANY)
    assert library.path().read_bytes() == b"other"
    assert os.listdir(library.root / folder) == ["two.mp4"]
    library.backend.delete(Key.of(SHARED, "séries", "two.mp4"), Expect.ANY)
    assert not (library.root / folder).exists()


def test_twin_names_are_not_confused(library: Library) -> None:
    library.put(b"first", Key(SHARED, "", NFC))
    drop(library.root / NFD, b"second")
    wait_for_tick()
    (found,) = findings(library)
    assert (found.path, found.outcome) == (NFD, ScanOutcome.SKIPPED)
    assert library.get(Key(SHARED, "", NFC))[0] == b"first"
    (library.root / NFC).unlink()
    assert scan(library) == {ScanOutcome.DELETED: 1, ScanOutcome.CREATED: 1}
    assert library.get(Key(SHARED, "", NFC))[0] == b"second"


def test_file_and_folder_conflict_when_they_differ_in_normalization(library: Library) -> None:
    drop(library.root / NFD)
    wait_for_tick()
    assert names(library) == [NFC]
    with pytest.raises(PathConflict):
        library.put(b"film", Key(SHARED, NFC, "film.mp4"))
    folder = unicodedata.normalize("NFD", "séries")
    drop(library.root / folder / "film.mp4")
    wait_for_tick()
    scan(library)
    with pytest.raises(PathConflict):
        library.put(b"film", Key.of(SHARED, "", "séries"))


# Hashes


def test_dropped_file_is_hashed_and_keeps_its_version(library: Library) -> None:
    drop(library.root / "film.mp4", b"x" * 3_000_000)
    wait_for_tick()
    before = page(library).items[0]
    steps = [1 << 20, 1 << 20, 3_000_000 - (2 << 20)]
    assert [size for size in library.backend.maintenance.hash_unverified() if size] == steps
    after = page(library).items[0]
    assert after.sha256 == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert after.etag == before.etag
    assert sum(library.backend.maintenance.hash_unverified()) == 0


def test_restored_backup_is_hashed_again(library: Library, changes: list[Change]) -> None:
    info = library.put(b"film").info
    times = library.path().stat()
    for data, same in ((b"film", True), (b"FILM", False)):
        copy = drop(library.root / "copy", data)  # beside the original, or it may get the same inode
        os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
        copy.rename(library.path())
        assert stat(library).etag != info.etag
        list(library.backend.maintenance.hash_unverified())
        assert (stat(library).etag == info.etag) is same
        assert (stat(library).sha256 == info.sha256) is same
    assert [change.kind for change in changes] == [ChangeKind.REPLACED] * 3


def test_file_has_no_hash_when_changed_during_hashing(library: Library) -> None:
    drop(library.root / "film.mp4", b"x" * 3_000_000)
    wait_for_tick()
    page(library)
    hashing = library.backend.maintenance.hash_unverified()
    next(hashing)
    drop(library.root / "film.mp4", b"y")
    for _ in hashing:
        pass
    wait_for_tick()
    data, info = library.get(Key(SHARED, "", "film.mp4"))
    assert (data, info.sha256) == (b"y", None)


def test_verify_reports_files_that_no_longer_match(library: Library) -> None:
    for name in ("sound", "rotten", "edited", "gone", "short"):
        library.put(b"x" * 2_000_000, Key(SHARED, "a", name))
    drop(library.root / "dropped")
    wait_for_tick()
    page(library)
    folder = library.root / "a"
    times = (folder / "rotten").stat()
    with (folder / "rotten").open("r+b") as file:
        file.seek(1_500_000)
        file.write(b"y")
    os.utime(folder / "rotten", ns=(times.st_atime_ns, times.st_mtime_ns))
    with (folder / "edited").open("r+b") as file:
        file.write(b"y")
    os.truncate(folder / "short", 1_000_000)
    (folder / "gone").unlink()
    before = library.sql("SELECT * FROM media")
    assert verdicts(library) == {
        "a/sound": Integrity.SOUND,
        "a/rotten": Integrity.DAMAGED,
        "a/edited": Integrity.CHANGED,
        "a/short": Integrity.CHANGED,
        "a/gone": Integrity.MISSING,
        "dropped": Integrity.UNKNOWN,
    }
    assert library.sql("SELECT * FROM media") == before
    assert (
        sum(step.size for step in library.backend.maintenance.verify() if step.path == "a/sound") == 2_000_000
    )
    assert (library.backend.maintenance.usage(None).files, library.backend.maintenance.usage(None).size) == (
        6,
        10_000_007,
    )


def test_verify_reports_no_fault_when_file_is_replaced_or_deleted(library: Library) -> None:
    library.put(b"x" * 3_000_000)
    steps = library.backend.maintenance.verify()
    next(steps)
    library.put(b"y")
    assert [step.verdict for step in steps if step.verdict] == [Integrity.SOUND]
    library.put(b"x" * 3_000_000)
    steps = library.backend.maintenance.verify()
    next(steps)
    library.backend.delete(FILM, Expect.ANY)
    assert [step.verdict for step in steps if step.verdict in (Integrity.MISSING, Integrity.DAMAGED)] == []


def test_returning_file_is_hashed_again(library: Library, tmp_path: Path) -> None:
    """A file that disappeared before its hash was computed still needs one."""
    info = library.put(b"film").info
    library.path().rename(tmp_path / "away")
    assert names(library, "films") == []
    (tmp_path / "away").rename(library.path())
    assert stat(library).sha256 is None
    assert sum(library.backend.maintenance.hash_unverified()) == 4
    assert stat(library) == info


# Notifications


def test_changes_by_other_programs_are_reported(library: Library, changes: list[Change]) -> None:
    library.put(b"film")
    assert changes == [], "an upload is not reported to its own process"
    library.path().rename(library.root / "moved.mp4")
    scan(library)
    (library.root / "moved.mp4").write_bytes(b"other")
    wait_for_tick()
    scan(library)
    (library.root / "moved.mp4").unlink()
    scan(library)
    assert [(change.kind, change.info.key.path) for change in changes] == [
        (ChangeKind.MOVED, "moved.mp4"),
        (ChangeKind.REPLACED, "moved.mp4"),
        (ChangeKind.DELETED, "moved.mp4"),
    ]
    assert changes[0].previous == FILM


# Ignored names


def test_ignored_file_is_in_no_list_but_served_by_path(library: Library) -> None:
    hidden = Key(SHARED, "", "film.mp4.part")
    drop(library.path(hidden))
    drop(library.root / "#recycle" / "film.mp4")
    wait_for_tick()
    assert (page(library).items, page(library).folders, scan(library)) == ((), (), {})
    assert library.sql("SELECT id FROM media") == []
    assert stat(library, hidden).size == 7
    assert names(library) == []
    library.path(hidden).rename(library.root / "film.mp4")
    wait_for_tick()
    assert names(library) == ["film.mp4"]


def test_upload_replaces_dropped_ignored_file_only_without_if_none_match(library: Library) -> None:
    """A crash may leave a file without a row, which no scan adds; the client then uploads it again."""
    hidden = Key(SHARED, "films", "film.mp4.part")
    drop(library.path(hidden))
    wait_for_tick()
    with pytest.raises(AlreadyExists):
        library.put(b"new", hidden, Expect.ABSENT)
    assert library.path(hidden).read_bytes() == b"dropped"
    assert not library.put(b"new", hidden).created
    assert library.get(hidden)[0] == b"new"
    assert scan(library) == {}


def test_ignored_folder_is_read_only_where_rows_exist(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, scandir = set(), os.scandir

    def recorded(folder: int) -> "Iterator[os.DirEntry[str]]":
        read.add(os.fstat(folder).st_ino)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", recorded)
    thumbs = library.root / "films" / "@eaDir" / "film.mp4"
    drop(thumbs / "thumb.jpg")
    library.put(b"film", Key(SHARED, "films", "film.mp4"))
    wait_for_tick()
    assert library.backend.maintenance.estimate_file_count() == 1
    scan(library)
    page(library, recursive=True)
    ignored = thumbs.parent.stat().st_ino
    assert (library.root / "films").stat().st_ino in read
    assert ignored not in read
    uploaded = Key(SHARED, "films/@eaDir/film.mp4", "uploaded.jpg")
    library.put(b"uploaded", uploaded)
    library.path(uploaded).unlink()
    assert scan(library) == {ScanOutcome.DELETED: 1}
    assert ignored in read
    assert (thumbs / "thumb.jpg").exists()


def test_film_keeps_id_after_temporary_ignored_name(library: Library) -> None:
    before = library.put(b"film").info
    library.path().rename(library.root / "films" / "film.mp4.part")
    wait_for_tick()
    assert names(library, "films") == []
    assert scan(library) == {}
    (library.root / "films" / "film.mp4.part").rename(library.path())
    wait_for_tick()
    assert names(library, "films") == ["film.mp4"]
    assert stat(library).id == before.id


def test_list_survives_when_lstat_of_one_file_fails(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    status_of = os.lstat

    def failing(path: str, *, dir_fd: int | None = None) -> os.stat_result:
        if path == "bad.mp4":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return status_of(path, dir_fd=dir_fd)

    drop(library.root / "bad.mp4")
    assert names(library) == ["bad.mp4"]
    drop(library.root / "new.mp4")
    monkeypatch.setattr(os, "lstat", failing)
    assert names(library) == ["bad.mp4", "new.mp4"], "the row of the unreadable file stays"
    assert findings(library) == [
        ScanFinding("bad.mp4", ScanOutcome.UNREADABLE, "The file system reported: Input/output error.")
    ]
