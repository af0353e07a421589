"""What other programs do in the folder of the files is found, and nothing of theirs is harmed."""

import errno
import hashlib
import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from app.database.filesystem import diff, scanner
from app.storage.errors import AlreadyExists, NotFound, PathConflict, Unfinished
from app.storage.maintenance import Finding, Outcome, Verdict
from app.storage.types import SHARED, Change, Expect, FileId, Key, Kind, Listing
from tests.unit.database.by_hand import NFC, NFD, drop, findings, names, page, rest, scan, stat, verdicts
from tests.unit.database.library import FILM, Library

pytestmark = pytest.mark.usefixtures("hurry")


# Lists


def test_a_dropped_file_is_in_the_next_list(library: Library) -> None:
    drop(library.root / "films" / "one.mp4")
    with (library.root / "top.mp4").open("wb") as file:
        file.write(b"dropped")
        assert page(library).items == (), "it is still written"
    assert names(library) == ["top.mp4"]
    assert page(library).folders == ("films",)
    assert names(library, "films") == ["one.mp4"]
    info = stat(library, Key(SHARED, "films", "one.mp4"))
    assert (info.size, info.sha256, info.content_type) == (7, None, "video/guessed")


def test_a_file_that_is_dropped_into_a_folder_that_was_listed_empty(library: Library) -> None:
    """Nothing changes in the folder above, and no row speaks of the one it is in."""
    (library.root / "films" / "new").mkdir(parents=True)
    rest()
    assert page(library).folders == ()
    drop(library.root / "films" / "new" / "one.mp4")
    rest()
    assert page(library).folders == ("films",)
    assert names(library, "films/new") == ["one.mp4"]


def test_a_recursive_list_finds_what_was_dropped_below(library: Library) -> None:
    library.put(b"film", Key(SHARED, "a/b", "film.mp4"))
    page(library, recursive=True)
    drop(library.root / "a" / "b" / "two.mp4")
    rest()
    assert page(library, "a/b").items[1].key.filename == "two.mp4"
    drop(library.root / "a" / "b" / "three.mp4")
    rest()
    page(library, recursive=True)
    assert [info.key.filename for info in page(library, "a/b").items] == ["film.mp4", "three.mp4", "two.mp4"]


def test_what_was_removed_is_in_no_list(library: Library) -> None:
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


def test_a_folder_that_did_not_change_is_not_looked_through_again(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.put(b"film", Key(SHARED, "a", "film.mp4"))
    rest()
    page(library, "a")
    listing = Listing(SHARED, "a")
    assert library.backend.page(listing, cursor=None, limit=9, wait=False) is not None
    drop(library.root / "a" / "two.mp4")
    assert library.backend.page(listing, cursor=None, limit=9, wait=False) is None
    # What changed within one tick of the clock before it was looked at may have changed after that too.
    monkeypatch.setattr(scanner, "FINE_NS", 10**12)
    page(library, "a")
    assert library.backend.page(listing, cursor=None, limit=9, wait=False) is None


def test_a_folder_whose_time_was_set_back_is_looked_through(library: Library) -> None:
    """As tar, rsync and cp -a do when they have copied into it."""
    library.put(b"film")
    os.utime(library.root / "films", (1_500_000_000, 1_500_000_000))
    rest()
    page(library, "films")
    drop(library.root / "films" / "two.mp4")
    os.utime(library.root / "films", (1_500_000_000, 1_500_000_000))
    rest()
    assert names(library, "films") == ["film.mp4", "two.mp4"]


def test_a_file_that_was_removed_and_written_again_is_another(library: Library) -> None:
    """It may well get the inode of the one before it."""
    library.put(b"film")
    rest()
    assert page(library, "films").items[0].size == 4
    library.path().unlink()
    drop(library.path(), b"another film")
    rest()
    assert page(library, "films").items[0].size == 12


def test_a_folder_that_lost_its_last_file_by_hand_is_looked_into_again(library: Library) -> None:
    library.put(b"film", Key(SHARED, "a/b", "film.mp4"))
    rest()
    assert page(library).folders == ("a",)
    (library.root / "a" / "b" / "film.mp4").unlink()
    assert page(library, "a/b").items == ()
    drop(library.root / "a" / "b" / "new.mp4")
    rest()
    assert page(library).folders == ("a",)
    assert names(library, "a/b") == ["new.mp4"]


def test_what_is_dropped_into_the_other_spelling_of_a_folder(library: Library) -> None:
    odd = library.root / unicodedata.normalize("NFD", "séries")
    drop(odd / "one.mp4")
    rest()
    page(library)
    library.put(b"film", Key.of(SHARED, "séries", "two.mp4"))
    rest()
    assert names(library, "séries") == ["one.mp4", "two.mp4"]
    drop(odd / "three.mp4")
    rest()
    assert names(library, "séries") == ["one.mp4", "three.mp4", "two.mp4"]


def test_a_list_that_meets_a_moved_folder_tells_of_a_move(library: Library) -> None:
    library.put(b"film", Key(SHARED, "old", "film.mp4"))
    library.put(b"stays", Key(SHARED, "", "film.mp4"))
    page(library)
    (library.root / "old").rename(library.root / "new")
    assert page(library).folders == ("new",)
    assert [change.kind for change in library.noticed] == [Kind.MOVED]


def test_many_files_at_once(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (diff, scanner):
        monkeypatch.setattr(module, "BATCH", 64)
    count = 2 * 64 + 3
    for number in range(count):
        drop(library.root / "many" / f"{number:04}.mp4")
    rest()
    assert scan(library) == {Outcome.CREATED: count}
    for number in range(0, count, 2):
        (library.root / "many" / f"{number:04}.mp4").unlink()
    assert scan(library) == {Outcome.DELETED: count // 2 + 1}
    assert len(names(library, "many")) == count // 2


def test_what_is_remembered_of_folders_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanner, "MAX_FOLDERS", 3)
    monkeypatch.setattr(scanner, "MAX_NAMES", 7)
    folders = scanner.SeenFolders()
    for number in (0, 1, 2, 0, 3, 4):
        folders.put((str(number),), scanner.Seen(0, ("a", "b"), ()), looked_ns=10**10)
    found = [number for number in range(5) if folders.get((str(number),)) is not None]
    assert found == [0, 3, 4], "those that were looked through last"
    folders.put(("0",), scanner.Seen(0, ("a", "b", "c"), ()), looked_ns=10**10)
    assert folders.get(("3",)) is not None, "seven names"
    folders.put(("0",), scanner.Seen(0, ("a", "b", "c", "d"), ()), looked_ns=10**10)
    found = [number for number in range(5) if folders.get((str(number),)) is not None]
    assert found == [0, 4], "those that were looked through first gave way"
    folders.put(("0",), scanner.Seen(0, tuple("abcdefgh"), ()), looked_ns=10**10)
    assert folders.get(("0",)) is None, "not with so much in it"


@pytest.mark.parametrize(
    ("changed_ns", "looked_ns", "remembered"),
    [
        (10 * 10**9 + 1, 10 * 10**9 + 10**8, False),
        (10 * 10**9 + 1, 10 * 10**9 + 10**8 + 1, True),
        (10 * 10**9, 12 * 10**9 - 1, False),  # its file system may know whole seconds only, or two
        (10 * 10**9, 12 * 10**9, True),
        (20 * 10**9, 12 * 10**9, False),  # in the future
    ],
)
def test_when_a_folder_is_taken_for_seen(
    changed_ns: int, looked_ns: int, remembered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanner, "FINE_NS", 10**8)
    folders = scanner.SeenFolders()
    folders.put(("a",), scanner.Seen(changed_ns, (), ()), looked_ns=looked_ns)
    assert (folders.get(("a",)) is not None) is remembered


# Files that are being written


def test_a_file_that_is_being_written_is_left_alone(library: Library) -> None:
    path = library.root / "slow.mp4"
    with path.open("wb") as file:
        file.write(b"half")
        file.flush()
        rest()
        assert names(library) == []
        assert scan(library) == {Outcome.UNFINISHED: 1}
        with pytest.raises(NotFound):
            library.get(Key(SHARED, "", "slow.mp4"))
        with pytest.raises(AlreadyExists):
            library.backend.check(Key(SHARED, "", "slow.mp4"), Expect.ABSENT)
        file.write(b" and half")
    rest()
    assert names(library) == ["slow.mp4"]
    assert library.get(Key(SHARED, "", "slow.mp4"))[0] == b"half and half"


def test_a_known_file_that_is_being_written_over_is_not_served_by_halves(library: Library) -> None:
    info = library.put(b"the old film").info
    with library.path().open("r+b") as file:
        file.write(b"THE NEW")
        file.flush()
        with pytest.raises(Unfinished):
            library.get()
        assert scan(library) == {Outcome.UNFINISHED: 1}
    data, after = library.get()
    assert data == b"THE NEW film"
    assert (after.id, after.sha256) == (info.id, None)
    assert after.etag != info.etag


def test_a_file_that_is_moved_over_another_is_a_new_version(library: Library) -> None:
    info = library.put(b"old").info
    drop(library.root / "films" / "new.mp4", b"new!").rename(library.path())
    data, after = library.get()
    assert (data, after.id, after.size) == (b"new!", info.id, 4)
    assert after.etag != info.etag
    assert names(library, "films") == ["film.mp4"]


# Files that were moved


def test_a_moved_file_stays_what_it_was(library: Library) -> None:
    info = library.put(b"film").info
    (library.root / "new").mkdir()
    library.path().rename(library.root / "new" / "name.mp4")
    assert scan(library) == {Outcome.MOVED: 1}
    assert stat(library, Key(SHARED, "new", "name.mp4")).etag == info.etag
    list(library.backend.hash_unverified())
    after = stat(library, Key(SHARED, "new", "name.mp4"))
    assert (after.id, after.etag, after.sha256, after.created_at) == (
        info.id,
        info.etag,
        info.sha256,
        info.created_at,
    )
    assert page(library).folders == ("new",)
    assert library.backend.open(FileId(SHARED, info.id), wait=False) is not None


def test_a_moved_folder_stays_what_it_was_whichever_end_is_looked_at_first(library: Library) -> None:
    ids = {library.put(b"film", Key(SHARED, "a/b", name)).info.id for name in ("1", "2", "3")}
    (library.root / "a").rename(library.root / "c")
    assert page(library, "a/b").items == ()
    assert {info.id for info in page(library, "c/b").items} == ids
    (library.root / "c").rename(library.root / "a")
    assert {info.id for info in page(library, "a/b").items} == ids
    assert scan(library) == {}
    assert page(library).folders == ("a",)


def test_a_second_link_is_a_second_file(library: Library) -> None:
    info = library.put(b"film").info
    os.link(library.path(), library.root / "again.mp4")
    rest()
    assert scan(library) == {Outcome.CREATED: 1}
    assert stat(library).id == info.id
    assert stat(library, Key(SHARED, "", "again.mp4")).id != info.id


def test_what_comes_back_leaves_a_copy_its_id(library: Library) -> None:
    info = library.put(b"film").info
    library.path().rename(library.root.parent / "away")
    assert names(library, "films") == []
    copy = library.put(b"film", Key(SHARED, "", "copy.mp4"), origin=info).info
    assert copy.id == info.id
    (library.root.parent / "away").rename(library.path())
    rest()
    back = stat(library, FILM)
    assert back.id != info.id
    assert stat(library, FileId(SHARED, info.id)) == copy


def test_what_departed_long_ago_is_forgotten(library: Library) -> None:
    library.put(b"film")
    library.path().unlink()
    assert scan(library) == {Outcome.DELETED: 1}
    assert len(library.sql("SELECT * FROM departed")) == 1
    scan(library)
    assert len(library.sql("SELECT * FROM departed")) == 1
    library.sql("UPDATE departed SET departed_at = '2020-01-01 00:00:00.000000'")
    scan(library)
    assert library.sql("SELECT * FROM departed") == []


# Names that the disk takes and we do not


def test_what_cannot_be_taken_in_is_named(library: Library, tmp_path: Path) -> None:
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
    rest()
    found = {finding.path: finding for finding in findings(library)}
    assert {path for path, one in found.items() if one.outcome is Outcome.SKIPPED} == {
        "link.mp4",
        "folder",
        "pipe",
        "back\\slash",
        "not\udcffutf8",
        "line\nbreak",
    }
    assert all(one.reason for one in found.values() if one.outcome is Outcome.SKIPPED)
    assert names(library) == ["good.mp4"]
    assert page(library).folders == ()
    assert (bad / "film.mp4").exists()


def test_scan_counts_no_files_beneath_folders_without_a_legal_name(library: Library) -> None:
    """Each folder is entered from the top, so that thousands of nested ones took quadratic time."""
    deep = library.root.joinpath(*["nested"] * 33)
    drop(deep / "film.mkv")
    drop(library.root / "nested" / "back\\slash" / "film.mkv")
    drop(library.root / "nested" / "film.mkv")
    assert library.backend.to_scan() == 1


def test_a_name_in_another_normalisation_is_served_and_kept(library: Library) -> None:
    """As files that were made on a Mac have."""
    folder = unicodedata.normalize("NFD", "séries")
    drop(library.root / folder / NFD, b"film")
    rest()
    key = Key.of(SHARED, "séries", NFC)
    assert page(library).folders == ("séries",)
    assert names(library, "séries") == [NFC]
    assert library.get(key)[0] == b"film"
    assert os.listdir(library.root / folder) == [NFD]
    drop(library.root / folder / "two.mp4")
    rest()
    assert names(library, "séries") == [NFC, "two.mp4"]
    # It is replaced where it is.
    library.put(b"other", key)
    assert (library.root / folder / NFD).read_bytes() == b"other"
    assert not (library.root / "séries").exists()
    library.backend.move(key, FILM, Expect.ANY)
    assert library.path().read_bytes() == b"other"
    assert os.listdir(library.root / folder) == ["two.mp4"]
    library.backend.delete(Key.of(SHARED, "séries", "two.mp4"), Expect.ANY)
    assert not (library.root / folder).exists()


def test_twins_are_not_taken_for_one_another(library: Library) -> None:
    library.put(b"first", Key(SHARED, "", NFC))
    drop(library.root / NFD, b"second")
    rest()
    (found,) = findings(library)
    assert (found.path, found.outcome) == (NFD, Outcome.SKIPPED)
    assert library.get(Key(SHARED, "", NFC))[0] == b"first"
    (library.root / NFC).unlink()
    assert scan(library) == {Outcome.DELETED: 1, Outcome.CREATED: 1}
    assert library.get(Key(SHARED, "", NFC))[0] == b"second"


def test_a_file_and_a_folder_that_differ_in_normalisation_only(library: Library) -> None:
    drop(library.root / NFD)
    rest()
    assert names(library) == [NFC]
    with pytest.raises(PathConflict):
        library.put(b"film", Key(SHARED, NFC, "film.mp4"))
    folder = unicodedata.normalize("NFD", "séries")
    drop(library.root / folder / "film.mp4")
    rest()
    scan(library)
    with pytest.raises(PathConflict):
        library.put(b"film", Key.of(SHARED, "", "séries"))


# Hashes


def test_what_was_dropped_is_hashed_and_keeps_its_version(library: Library) -> None:
    drop(library.root / "film.mp4", b"x" * 3_000_000)
    rest()
    before = page(library).items[0]
    steps = [1 << 20, 1 << 20, 3_000_000 - (2 << 20)]
    assert [size for size in library.backend.hash_unverified() if size] == steps
    after = page(library).items[0]
    assert after.sha256 == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert after.etag == before.etag
    assert sum(library.backend.hash_unverified()) == 0


def test_a_restored_backup_is_hashed_again(library: Library, changes: list[Change]) -> None:
    info = library.put(b"film").info
    times = library.path().stat()
    for data, same in ((b"film", True), (b"FILM", False)):
        copy = drop(library.root / "copy", data)  # beside it, or it may get the same inode
        os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
        copy.rename(library.path())
        assert stat(library).etag != info.etag
        list(library.backend.hash_unverified())
        assert (stat(library).etag == info.etag) is same
        assert (stat(library).sha256 == info.sha256) is same
    assert [change.kind for change in changes] == [Kind.REPLACED] * 3


def test_a_file_that_changes_while_it_is_hashed(library: Library) -> None:
    drop(library.root / "film.mp4", b"x" * 3_000_000)
    rest()
    page(library)
    hashing = library.backend.hash_unverified()
    next(hashing)
    drop(library.root / "film.mp4", b"y")
    for _ in hashing:
        pass
    rest()
    data, info = library.get(Key(SHARED, "", "film.mp4"))
    assert (data, info.sha256) == (b"y", None)


def test_verify_names_what_no_longer_matches(library: Library) -> None:
    for name in ("sound", "rotten", "edited", "gone", "short"):
        library.put(b"x" * 2_000_000, Key(SHARED, "a", name))
    drop(library.root / "dropped")
    rest()
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
        "a/sound": Verdict.SOUND,
        "a/rotten": Verdict.DAMAGED,
        "a/edited": Verdict.CHANGED,
        "a/short": Verdict.CHANGED,
        "a/gone": Verdict.MISSING,
        "dropped": Verdict.UNKNOWN,
    }
    assert library.sql("SELECT * FROM media") == before
    assert sum(step.size for step in library.backend.verify() if step.path == "a/sound") == 2_000_000
    assert (library.backend.usage(None).files, library.backend.usage(None).size) == (6, 10_000_007)


def test_what_is_replaced_or_deleted_while_it_is_verified_is_no_fault(library: Library) -> None:
    library.put(b"x" * 3_000_000)
    steps = library.backend.verify()
    next(steps)
    library.put(b"y")
    assert [step.verdict for step in steps if step.verdict] == [Verdict.SOUND]
    library.put(b"x" * 3_000_000)
    steps = library.backend.verify()
    next(steps)
    library.backend.delete(FILM, Expect.ANY)
    assert [step.verdict for step in steps if step.verdict in (Verdict.MISSING, Verdict.DAMAGED)] == []


def test_what_came_back_is_hashed_again(library: Library, tmp_path: Path) -> None:
    """What was to be hashed when it went away is not forgotten."""
    info = library.put(b"film").info
    library.path().rename(tmp_path / "away")
    assert names(library, "films") == []
    (tmp_path / "away").rename(library.path())
    assert stat(library).sha256 is None
    assert sum(library.backend.hash_unverified()) == 4
    assert stat(library) == info


# Who is told


def test_changes_by_hand_are_told_of(library: Library, changes: list[Change]) -> None:
    library.put(b"film")
    assert changes == [], "whoever asked for it knows"
    library.path().rename(library.root / "moved.mp4")
    scan(library)
    (library.root / "moved.mp4").write_bytes(b"other")
    rest()
    scan(library)
    (library.root / "moved.mp4").unlink()
    scan(library)
    assert [(change.kind, change.info.key.path) for change in changes] == [
        (Kind.MOVED, "moved.mp4"),
        (Kind.REPLACED, "moved.mp4"),
        (Kind.DELETED, "moved.mp4"),
    ]
    assert changes[0].previous == FILM


# Ignored names


def test_ignored_files_by_hand_are_in_no_list_and_answer_at_their_own_address(library: Library) -> None:
    hidden = Key(SHARED, "", "film.mp4.part")
    drop(library.path(hidden))
    drop(library.root / "#recycle" / "film.mp4")
    rest()
    assert (page(library).items, page(library).folders, scan(library)) == ((), (), {})
    assert library.sql("SELECT id FROM media") == []
    assert stat(library, hidden).size == 7
    assert names(library) == []
    library.path(hidden).rename(library.root / "film.mp4")
    rest()
    assert names(library) == ["film.mp4"]


def test_upload_replaces_an_ignored_file_by_hand_only_when_it_may(library: Library) -> None:
    """A crash may leave a file without a row, which no scan takes in: its client sends it again."""
    hidden = Key(SHARED, "films", "film.mp4.part")
    drop(library.path(hidden))
    rest()
    with pytest.raises(AlreadyExists):
        library.put(b"new", hidden, Expect.ABSENT)
    assert library.path(hidden).read_bytes() == b"dropped"
    assert not library.put(b"new", hidden).created
    assert library.get(hidden)[0] == b"new"
    assert scan(library) == {}


def test_ignored_folder_is_looked_into_only_where_rows_speak_of_it(library: Library) -> None:
    thumbs = library.root / "films" / "@eaDir" / "film.mp4"
    drop(thumbs / "thumb.jpg")
    library.put(b"film", Key(SHARED, "films", "film.mp4"))
    rest()
    assert library.backend.to_scan() == 1
    scan(library)
    page(library, recursive=True)
    seen_folders = library.backend._scanner._seen
    assert seen_folders.get(("films",)) is not None
    assert seen_folders.get(("films", "@eaDir")) is None
    uploaded = Key(SHARED, "films/@eaDir/film.mp4", "uploaded.jpg")
    library.put(b"uploaded", uploaded)
    library.path(uploaded).unlink()
    assert scan(library) == {Outcome.DELETED: 1}
    assert (thumbs / "thumb.jpg").exists()


def test_film_that_gets_an_ignored_name_by_hand_comes_back_as_itself(library: Library) -> None:
    before = library.put(b"film").info
    library.path().rename(library.root / "films" / "film.mp4.part")
    rest()
    assert names(library, "films") == []
    assert scan(library) == {}
    (library.root / "films" / "film.mp4.part").rename(library.path())
    rest()
    assert names(library, "films") == ["film.mp4"]
    assert stat(library).id == before.id


def test_file_whose_status_fails_spoils_no_list(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    status_of = os.lstat

    def failing(path: str, *, dir_fd: int | None = None) -> os.stat_result:
        if path == "bad.mp4":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return status_of(path, dir_fd=dir_fd)

    drop(library.root / "bad.mp4")
    assert names(library) == ["bad.mp4"]
    drop(library.root / "new.mp4")
    monkeypatch.setattr(os, "lstat", failing)
    assert names(library) == ["bad.mp4", "new.mp4"], "the database knows the one"
    assert findings(library) == [
        Finding("bad.mp4", Outcome.UNREADABLE, "The disk refuses: Input/output error.")
    ]
