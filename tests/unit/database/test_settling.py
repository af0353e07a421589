"""What a file that was worked with by hand is taken for: the same, a new version, another, or none yet."""

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

from app.database.filesystem import reconcile, scanner
from app.storage.errors import AlreadyExists, NotFound, PathConflict, StorageUnavailable
from app.storage.maintenance import Outcome, Verdict
from app.storage.types import SHARED, Change, Expect, FileId, Key, Kind, Listing
from tests.unit.database.by_hand import NFC, NFD, drop, findings, names, page, rest, scan, stat, verdicts
from tests.unit.database.library import FILM, Library

pytestmark = pytest.mark.usefixtures("hurry")

NEW = Key(SHARED, "", "new.mp4")
THEIRS = Key("theirs", "films", "film.mp4")
SERIES = unicodedata.normalize("NFD", "séries")


def with_times_of(path: Path, other: os.stat_result) -> Path:
    os.utime(path, ns=(other.st_atime_ns, other.st_mtime_ns))
    return path


# The same file


def test_a_moved_file_is_the_same_although_another_took_its_place(library: Library) -> None:
    info = library.put(b"film").info
    library.path().rename(library.path(NEW))
    drop(library.path(), b"another")
    rest()
    assert stat(library, NEW).id == info.id
    assert stat(library).id != info.id
    assert library.get()[0] == b"another"


def test_a_moved_file_is_there_at_once(library: Library) -> None:
    info = library.put(b"film").info
    library.path().rename(library.path(NEW))
    assert (stat(library, NEW).id, stat(library, NEW).etag) == (info.id, info.etag)


def test_a_file_that_was_away_comes_back_as_what_it_was(library: Library, tmp_path: Path) -> None:
    info = library.put(b"film").info
    library.path().rename(tmp_path / "away")
    assert names(library, "films") == []
    (tmp_path / "away").rename(library.path())
    assert stat(library) == replace(info, sha256=None, is_utf8=None, doubtful=True)
    assert scan(library) == {}
    list(library.backend.hash_unverified())
    assert stat(library) == info


def test_a_file_that_was_away_before_it_was_hashed_is_hashed_yet(library: Library, tmp_path: Path) -> None:
    drop(library.path(), b"film")
    rest()
    info = stat(library)
    library.path().rename(tmp_path / "away")
    assert names(library, "films") == []
    (tmp_path / "away").rename(library.path())
    assert stat(library).id == info.id
    assert sum(library.backend.hash_unverified()) == 4
    assert stat(library).sha256 is not None


def test_an_edited_file_keeps_its_id_and_gets_its_type_from_its_name(library: Library) -> None:
    info = library.put(b"film").info
    library.path().write_bytes(b"edited")
    rest()
    address = FileId(SHARED, info.id)
    reader = library.backend.open(address, wait=True)
    assert reader is not None
    assert (reader.info.id, reader.info.size, reader.info.content_type) == (info.id, 6, "video/guessed")
    reader.close()


def test_a_second_link_of_a_file_that_was_away_is_a_second_file(library: Library, tmp_path: Path) -> None:
    info = library.put(b"film").info
    library.path().rename(tmp_path / "away")
    assert names(library, "films") == []
    (tmp_path / "away").rename(library.path())
    assert stat(library).id == info.id
    os.link(library.path(), library.path(NEW))
    rest()
    assert stat(library, NEW).id != info.id


# Another file


@pytest.mark.parametrize("noticed", [False, True], ids=["at-once", "away-for-a-while"])
def test_a_file_that_was_moved_and_edited_is_another(library: Library, tmp_path: Path, noticed: bool) -> None:
    """Its old version, and so its ETag, would promise other bytes."""
    info = library.put(b"film").info
    library.path().rename(tmp_path / "away")
    if noticed:
        assert names(library, "films") == []
    with (tmp_path / "away").open("ab") as file:
        file.write(b" and more")
    (tmp_path / "away").rename(library.path(NEW))
    rest()
    data, after = library.get(NEW)
    assert data == b"film and more"
    assert after.etag != info.etag
    assert after.id != info.id


@pytest.mark.parametrize("noticed", [False, True], ids=["at-once", "after-it-went"])
def test_a_copy_that_has_the_same_times_is_another(
    library: Library, tmp_path: Path, noticed: bool, changes: list[Change]
) -> None:
    info = library.put(b"film").info
    times = library.path().stat()
    if noticed:
        library.path().rename(tmp_path / "away")
        assert names(library, "films") == []
    with_times_of(drop(library.path(NEW), b"FILM"), times)
    rest()
    after = stat(library, NEW)
    assert (after.id == info.id, after.etag == info.etag) == (False, False)
    assert Kind.MOVED not in [change.kind for change in changes]


@pytest.mark.parametrize("noticed", [False, True], ids=["at-once", "away-for-a-while"])
def test_a_file_that_is_moved_to_another_library_is_another(library: Library, noticed: bool) -> None:
    """Who has its id there must not follow it."""
    info = library.put(b"film", THEIRS).info
    theirs = library.root / ".seekable" / "libraries" / THEIRS.library / THEIRS.path
    away = theirs.rename(library.root / ".seekable" / "away")
    if noticed:
        assert page(library, "films", of=THEIRS.library).items == ()
    away.rename(library.path(NEW))
    rest()
    assert stat(library, NEW).id != info.id
    with pytest.raises(NotFound):
        stat(library, THEIRS)


def test_every_library_is_scanned(library: Library) -> None:
    library.put(b"film", THEIRS)
    folder = library.root / ".seekable" / "libraries" / THEIRS.library
    drop(folder / "new" / "film.mp4")
    rest()
    assert [(one.path, one.outcome) for one in findings(library)] == [("new/film.mp4", Outcome.CREATED)]
    shutil.rmtree(folder)
    library.put(b"film", Key(THEIRS.library, "", "other"))
    assert scan(library) == {Outcome.DELETED: 2}


# Not yet


def test_what_was_just_touched_is_not_taken_for_finished(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no lease tells: an old date says nothing, as tar, rsync and wget give one to what they wrote."""
    monkeypatch.delattr(fcntl, "F_SETLEASE")
    os.utime(drop(library.path(NEW)), (1e9, 1e9))
    assert names(library) == []
    rest()
    assert names(library) == ["new.mp4"]


def test_what_nobody_ever_closes_is_taken_in_at_last(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    with drop(library.path(NEW)).open("ab"):
        rest()
        assert names(library) == []
        monkeypatch.setattr(reconcile, "WRITTEN_FOR_S", 0)
        assert names(library) == ["new.mp4"]


def test_a_clock_that_was_set_back_hides_no_files(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() - 3600 * 10**9)
    drop(library.path(NEW))
    with drop(library.path()).open("ab"):
        assert library.get()[0] == b"dropped"
    assert library.get(NEW)[0] == b"dropped"


def test_a_file_went_although_another_beside_it_is_not_finished(library: Library) -> None:
    library.put(b"film")
    library.path().unlink()
    with drop(library.root / "films" / "new.mp4").open("ab"):
        rest()
        assert names(library, "films") == []
        assert library.sql("SELECT * FROM media") == []
        assert [step.files for step in library.backend.scan() if step.files] == []


def test_what_came_within_one_tick_of_the_clock_is_found(library: Library) -> None:
    """Which is as if the folder had not changed since it was looked through."""
    drop(library.path(NEW))
    rest()
    os.utime(library.root)
    times = library.root.stat()
    assert names(library) == ["new.mp4"]
    drop(library.root / "two.mp4")
    rest()
    with_times_of(library.root, times)
    assert names(library) == ["new.mp4", "two.mp4"]


# What is gone


def test_whole_folders_that_are_gone_are_noticed(library: Library) -> None:
    for folder in ("a/b", "a/b/c", "a-b", "a0"):
        library.put(b"film", Key(SHARED, folder, "film.mp4"))
    shutil.rmtree(library.root / "a")
    assert scan(library) == {Outcome.DELETED: 2}
    assert page(library).folders == ("a-b", "a0")


def test_a_file_that_became_a_folder_is_gone(library: Library) -> None:
    for name in ("one", "two"):
        library.put(b"film", Key(SHARED, "", name))
        library.path(Key(SHARED, "", name)).unlink()
    (library.root / "one").mkdir()
    os.mkfifo(library.root / "two")
    assert names(library) == []


def test_what_is_gone_makes_room(library: Library) -> None:
    library.put(b"film", Key(SHARED, "a", "film"))
    shutil.rmtree(library.root / "a")
    library.put(b"film", Key(SHARED, "", "a"))
    library.path(Key(SHARED, "", "a")).unlink()
    library.put(b"film", Key(SHARED, "a", "film"))
    assert page(library, recursive=True).items[0].key.path == "a/film"


def test_a_change_of_what_is_gone_tells_that_it_is_gone(library: Library, changes: list[Change]) -> None:
    infos = [library.put(b"film", key).info for key in (FILM, NEW)]
    for key in (FILM, NEW):
        library.path(key).unlink()
    with pytest.raises(NotFound):
        library.backend.delete(FILM, Expect.ANY)
    with pytest.raises(NotFound):
        library.backend.move(NEW, Key(SHARED, "", "other"), Expect.ANY)
    assert [(change.kind, change.info) for change in changes] == [(Kind.DELETED, info) for info in infos]


def test_what_a_refused_change_saw_is_told_once_it_is_true(library: Library, changes: list[Change]) -> None:
    library.put(b"film")
    library.path().write_bytes(b"edited")
    rest()
    with pytest.raises(AlreadyExists):
        library.put(b"upload", expect=Expect.ABSENT)
    told = list(changes)
    info = stat(library)
    assert [change.info for change in changes] == [info]
    assert told in ([], changes)


def test_a_scan_removes_what_crashed_writers_left(library: Library) -> None:
    drop(library.root / ".seekable" / "staging" / "dead")
    scan(library)
    assert library.staging() == []


# Names in another normalisation


def test_an_odd_name_that_was_moved_by_hand_is_served_where_it_is(library: Library) -> None:
    drop(library.root / NFD, b"film")
    rest()
    (info,) = page(library).items
    (library.root / SERIES).mkdir()
    (library.root / NFD).rename(library.root / SERIES / NFD)
    assert scan(library) == {Outcome.MOVED: 1}
    data, after = library.get(Key.of(SHARED, SERIES, NFC))
    assert (data, after.id) == (b"film", info.id)
    assert scan(library) == {}


def test_an_odd_name_that_was_made_an_even_one_is_the_same_file(library: Library) -> None:
    drop(library.root / NFD, b"film")
    rest()
    (info,) = page(library).items
    list(library.backend.hash_unverified())
    (library.root / NFD).rename(library.root / NFC)
    scan(library)
    assert verdicts(library) == {NFC: Verdict.SOUND}
    assert stat(library, Key(SHARED, "", NFC)).id == info.id


def test_odd_names_are_not_missed_while_others_go(library: Library) -> None:
    drop(library.root / SERIES / NFD)
    drop(library.root / SERIES / "two.mp4")
    rest()
    assert scan(library) == {Outcome.CREATED: 2}
    (library.root / SERIES / "two.mp4").unlink()
    assert scan(library) == {Outcome.DELETED: 1}
    assert names(library, "séries") == [NFC]


def test_odd_names_stand_in_the_way_of_their_own_library_only(library: Library) -> None:
    drop(library.root / SERIES / "deep" / "film.mp4")
    drop(library.root / NFD)
    rest()
    assert scan(library) == {Outcome.CREATED: 2}
    for key in (Key(SHARED, "", "séries"), Key(SHARED, "séries", "deep"), Key(SHARED, NFC, "film.mp4")):
        with pytest.raises(PathConflict):
            library.put(b"film", key)
        library.put(b"film", Key("theirs", key.folder, key.filename))
        library.backend.delete(Key("theirs", key.folder, key.filename), Expect.ANY)
    library.put(b"film", Key(SHARED, "", "sérieux"))


@pytest.mark.parametrize("odd_first", [False, True], ids=["even-first", "odd-first"])
@pytest.mark.parametrize("odd_file", [False, True], ids=["odd-folder", "odd-file"])
def test_a_file_and_a_folder_of_one_name_are_never_both_taken_in(
    library: Library, odd_first: bool, odd_file: bool
) -> None:
    """The disk takes both, if they differ in normalisation."""
    file, folder = (NFD, NFC) if odd_file else (NFC, NFD)

    def put_file() -> None:
        drop(library.root / file)

    def put_folder() -> None:
        drop(library.root / folder / "film.mp4")

    for put in (put_file, put_folder) if odd_first is odd_file else (put_folder, put_file):
        put()
        rest()
        scan(library)
    found = findings(library)
    assert [one.outcome for one in found] == [Outcome.SKIPPED]
    (info,) = page(library, recursive=True).items
    assert info.key.path in (NFC, f"{NFC}/film.mp4")
    other = {NFC, f"{NFC}/film.mp4"} - {info.key.path}
    with pytest.raises(NotFound):
        library.get(Key.at(SHARED, other.pop()))
    assert len(page(library, recursive=True).items) == 1


# Lists that have little time


@pytest.fixture
def huge(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with so many files that a list has no time to look at them all."""
    for number in range(9):
        library.put(b"film", Key(SHARED, "", f"{number}"))
    monkeypatch.setattr(scanner, "BATCH", 2)
    monkeypatch.setattr(scanner, "REFRESH_FOR_S", 0)


@pytest.mark.parametrize("library", ["sqlite"], indirect=True)  # as many lists as that one needs
def test_a_list_that_finds_more_than_it_has_time_for_leaves_the_rest_to_the_next(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanner, "BATCH", 10)
    # Time enough to compare all with what is known of them, but not to take them all in.
    monkeypatch.setattr(scanner, "REFRESH_FOR_S", 0.3)
    monkeypatch.setattr(scanner, "LEFT_FOR_S", 0)
    for number in range(400):
        drop(library.root / f"{number}")
    rest()
    found = [len(names(library))]
    assert 0 < found[0] < 400
    while found[-1] < 400:
        found.append(len(names(library)))
    assert found == sorted(found)


@pytest.mark.usefixtures("huge")
def test_a_list_leaves_a_huge_folder_to_the_next_scan(library: Library) -> None:
    assert len(names(library)) == 9
    drop(library.root / "another")
    rest()
    listing = Listing(SHARED)
    assert library.backend.page(listing, cursor=None, limit=99, wait=False) is not None, "nobody looks again"
    assert scan(library) == {Outcome.CREATED: 1}
    assert len(names(library)) == 10


@pytest.mark.usefixtures("huge")
def test_a_list_looks_into_a_huge_folder_again_after_a_while(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanner, "LEFT_FOR_S", 0.01)
    assert len(names(library)) == 9
    drop(library.root / "another")
    rest()
    monkeypatch.setattr(scanner, "REFRESH_FOR_S", 20)
    assert len(names(library)) == 10


def test_a_list_soon_looks_again_for_many_files_that_were_put_there_just_now(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow machine has no time to look at them all while none of them is finished."""
    monkeypatch.setattr(scanner, "BATCH", 10)
    monkeypatch.setattr(scanner, "REFRESH_FOR_S", 0.05)
    monkeypatch.setattr(scanner, "LEFT_NEW_FOR_S", 0.01)
    for number in range(300):
        drop(library.root / f"{number}")
    assert len(names(library)) < 300
    rest()
    monkeypatch.setattr(scanner, "REFRESH_FOR_S", 20)
    assert len(names(library)) == 300


@pytest.mark.usefixtures("huge")
def test_a_recursive_list_that_took_too_long_keeps_no_other_from_looking(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(page(library, recursive=True).items) == 9
    monkeypatch.setattr(scanner, "REFRESH_FOR_S", 20)
    drop(library.path(NEW))
    rest()
    assert len(page(library, recursive=True).items) == 9
    assert len(names(library)) == 10


def test_a_recursive_list_looks_beneath_folders_that_did_not_change(library: Library) -> None:
    library.put(b"film", Key(SHARED, "a/b/c", "film.mp4"))
    rest()
    assert len(page(library, recursive=True).items) == 1
    drop(library.root / "a" / "b" / "c" / "two.mp4")
    rest()
    assert len(page(library, recursive=True).items) == 2


def test_a_scan_looks_closely_at_what_lists_remember(library: Library) -> None:
    library.put(b"film")
    rest()
    assert names(library, "films") == ["film.mp4"]
    library.path().write_bytes(b"edited")
    rest()
    assert scan(library) == {Outcome.REPLACED: 1}


def test_a_list_is_there_although_its_folder_cannot_be_looked_into(
    library: Library, no_descriptors: Callable[[], AbstractContextManager[None]]
) -> None:
    library.put(b"film")
    rest()
    page(library, "films")
    with no_descriptors():
        assert names(library, "films") == ["film.mp4"]
        with pytest.raises(StorageUnavailable):
            library.get()
    assert library.get()[0] == b"film"


def test_a_scan_that_is_left_keeps_no_list_from_missing_what_is_gone(library: Library) -> None:
    for folder in ("a", "b"):
        for name in ("one.mp4", "two.mp4"):
            library.put(b"film", Key(SHARED, folder, name))
    rest()
    for folder in ("a", "b"):
        (library.root / folder / "one.mp4").unlink()
    rest()
    scanning = library.backend.scan()
    for _ in range(6):  # twice the top, one folder and the other: what is gone would come next
        assert not next(scanning).findings
    scanning.close()
    assert [names(library, folder) for folder in ("a", "b")] == [["two.mp4"], ["two.mp4"]]


def test_a_change_of_ours_in_a_big_folder_is_no_reason_to_compare_it_anew(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanner, "BIG", 2)
    listing = Listing(SHARED)
    for number in range(3):
        library.put(b"film", Key(SHARED, "", f"{number}"))
    rest()
    assert len(names(library)) == 3
    library.put(b"film", Key(SHARED, "", "new"))
    library.put(b"another film", Key(SHARED, "", "new"))
    library.backend.move(Key(SHARED, "", "new"), Key(SHARED, "", "moved"), Expect.ANY)
    library.backend.delete(Key(SHARED, "", "moved"), Expect.ANY)
    assert library.backend.page(listing, cursor=None, limit=99, wait=False) is not None, "nobody looks again"
    drop(library.root / "dropped")
    library.put(b"film", Key(SHARED, "", "newer"))
    rest()
    assert names(library) == ["0", "1", "2", "dropped", "newer"]


def test_many_folders_are_looked_through_again_after_a_while(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanner, "MAX_WALKED", 2)
    monkeypatch.setattr(scanner, "REST", 10_000)
    for folder in ("a", "b", "c"):
        library.put(b"film", Key(SHARED, folder, "film"))
    rest()
    assert len(page(library, recursive=True).items) == 3
    listing = Listing(SHARED, recursive=True)
    assert library.backend.page(listing, cursor=None, limit=99, wait=False) is not None, "nobody looks again"
    library.backend._scanner._walked_until.clear()
    drop(library.root / "c" / "dropped")
    rest()
    assert len(page(library, recursive=True).items) == 4
