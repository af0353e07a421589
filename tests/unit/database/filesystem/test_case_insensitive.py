"""Libraries on file systems that ignore case or normalization, mounted by FUSE.

lowntfs-3g shows all names in lower case, so it runs only the tests of refusals. `folding` keeps names as
given, like APFS, or decomposes them, like HFS+.
"""

import errno
import itertools
import os
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import pytest

from app.database.filesystem.writable_disk import MoveIntent, MoveIntentFile
from app.storage.errors import (
    AlreadyExists,
    InvalidName,
    NotFound,
    PathConflict,
    StorageError,
    StorageUnavailable,
    VersionMismatch,
)
from app.storage.maintenance import ScanOutcome
from app.storage.types import SHARED, Change, ChangeKind, Expect, FileId, Key
from tests.support import mounted
from tests.support.folding import FILE_SYSTEMS
from tests.support.sqlite import begin_database
from tests.unit.database.foreign_changes import (
    drop,
    findings,
    names,
    page,
    scan,
    shorten_waits,
    wait_for_tick,
)
from tests.unit.database.library import FILM, Library

CASE = Key(SHARED, "films", "FILM.mp4")
FOLDER = Key(SHARED, "FILMS", "film.mp4")
NEW = Key(SHARED, "Films", "new.mp4")

_numbers = itertools.count()


@pytest.fixture(scope="module", params=FILE_SYSTEMS)
def file_system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp(request.param)
    with FILE_SYSTEMS[request.param](folder) as mounted:
        yield mounted


on_name_preserving_file_systems = pytest.mark.parametrize("file_system", ["folding", "nfd"], indirect=True)


@pytest.fixture
def library(file_system: Path, tmp_path: Path) -> Iterator[Library]:
    # The database is on a faster disk.
    database = tmp_path / "seekable.db"
    begin_database(database)
    library = Library(file_system / str(next(_numbers)), f"sqlite:///{database}")
    library.put(b"film")
    yield library
    library.close()


@pytest.fixture
def aging_files(library: Library) -> None:
    shorten_waits(library)


def rows(library: Library) -> list[str]:
    found = library.sql("SELECT folder, filename FROM media WHERE library = ''")
    return sorted(f"{folder}/{name}" for folder, name in found)


def plant(library: Library, key: Key) -> str:
    """Insert a row under another spelling, as earlier versions did, and return its id."""
    (row,) = library.sql("SELECT * FROM media WHERE folder = 'films'")
    columns = [name for _, name, *_ in library.sql("PRAGMA table_info(media)")]
    known = dict(zip(columns, row, strict=True))
    known |= {"id": "planted", "folder": key.folder, "filename": key.filename}
    values = ", ".join("NULL" if value is None else repr(value) for value in known.values())
    library.sql(f"INSERT INTO media ({', '.join(known)}) VALUES ({values})")
    return "planted"


# The reserved folder


@contextmanager
def bind_mounted(library: Library, name: str) -> Iterator[None]:
    with mounted(library.root / name, "--bind", library.root / ".seekable"):
        yield


@pytest.mark.parametrize("name", [".SEEKABLE", "films/bound"])
def test_reserved_folder_is_inaccessible_under_other_names(
    library: Library, name: str, aging_files: None
) -> None:
    by_case = name == ".SEEKABLE"
    drop(library.root / ".seekable" / "secret", b"secret")
    drop(library.root / ".seekable" / "libraries" / "anna" / "film.mp4", b"anna's")
    with nullcontext() if by_case else bind_mounted(library, name):
        wait_for_tick()
        for folder, filename in ((name, "secret"), (f"{name}/libraries/anna", "film.mp4")):
            key = Key(SHARED, folder, filename)  # bypasses the validation of names
            plant(library, key)
            for address in (FileId(SHARED, "planted"), key):
                with pytest.raises(NotFound):
                    library.backend.open(address, wait=True)
            assert library.backend.try_open(key) is None
            for change in (
                lambda key=key: library.backend.delete(key, Expect.ANY),
                lambda key=key: library.backend.move(key, Key(SHARED, "", "mine"), Expect.ANY),
            ):
                with pytest.raises(NotFound):
                    change()
            with pytest.raises((InvalidName, PathConflict)):
                library.backend.check(key, Expect.ANY)
            with pytest.raises(StorageError):
                library.put(b"mine", key)
            with pytest.raises(StorageError):
                library.backend.move(FILM, key, Expect.ANY)
            plant(library, key)
            page(library, name)
            page(library, recursive=True)
            scan(library)
            assert rows(library) == ["films/film.mp4"]
        assert (library.root / ".seekable" / "secret").read_bytes() == b"secret"
        found = [(one.path, one.outcome) for one in findings(library)]
        assert found == ([] if by_case else [(name, ScanOutcome.SKIPPED)])
    (library.root / ".seekable" / "secret").unlink()


# Other spellings


@pytest.mark.parametrize("key", [CASE, FOLDER])
def test_other_spelling_neither_reads_nor_replaces_nor_deletes(
    library: Library, aging_files: None, key: Key
) -> None:
    wait_for_tick()
    with pytest.raises(NotFound):
        library.backend.open(key, wait=True)
    for expect in (Expect.ANY, Expect.ABSENT):
        with pytest.raises(PathConflict, match=r"“film(s|\.mp4)”"):
            library.backend.check(key, expect)
        with pytest.raises(PathConflict):
            library.put(b"other", key, expect)
    with pytest.raises(VersionMismatch):
        library.backend.check(key, library.get()[1].etag)
    with pytest.raises(NotFound):
        library.backend.delete(key, Expect.ANY)
    with pytest.raises(NotFound):
        library.backend.move(key, Key(SHARED, "", "other.mp4"), Expect.ANY)
    other = library.put(b"other", Key(SHARED, "", "other.mp4")).info
    with pytest.raises((PathConflict, AlreadyExists)):
        library.backend.move(other.key, key, Expect.ANY)
    assert library.get()[0] == b"film"
    assert library.get(other.key)[0] == b"other"
    assert page(library, key.folder).items == (() if key is FOLDER else (library.get()[1],))
    assert rows(library) == ["/other.mp4", "films/film.mp4"]
    assert library.staging() == []


def test_upload_to_other_spelling_of_folder_is_refused(library: Library) -> None:
    for change in (lambda: library.backend.check(NEW, Expect.ANY), lambda: library.put(b"new", NEW)):
        with pytest.raises(PathConflict, match=f"“{NEW.path}” cannot be stored. “Films” exists as “films”"):
            change()
    assert page(library, "Films").items == ()
    assert names(library, "films") == ["film.mp4"]


@pytest.mark.parametrize("key", [CASE, FOLDER])
def test_scan_removes_second_row_of_file(library: Library, key: Key) -> None:
    """Earlier versions created one row for each requested spelling."""
    plant(library, key)
    scan(library)
    assert rows(library) == ["films/film.mp4"]


@on_name_preserving_file_systems
@pytest.mark.parametrize("to", ["films/FILM.mp4", "Films/film.mp4"])
def test_case_rename_by_other_program_is_a_move(library: Library, aging_files: None, to: str) -> None:
    before = library.get()[1]
    old, new = ("film.mp4", "FILM.mp4") if to == CASE.path else ("films", "Films")
    parent = library.root / "films" if to == CASE.path else library.root
    # In two steps, because Linux ignores a rename to the same entry.
    (parent / old).rename(parent / "between")
    (parent / "between").rename(parent / new)
    wait_for_tick()
    page(library, recursive=True)
    assert rows(library) == [to]
    assert library.get(Key.at(SHARED, to))[1].id == before.id
    with pytest.raises(NotFound):
        library.get()


@on_name_preserving_file_systems
def test_move_changes_only_case(library: Library) -> None:
    before = library.get()[1]
    after = library.backend.move(FILM, CASE, before.etag)
    assert (after.id, after.etag, after.key) == (before.id, before.etag, CASE)
    assert os.listdir(library.root / "films") == ["FILM.mp4"]
    assert library.get(CASE)[0] == b"film"
    with pytest.raises(NotFound):
        library.get()
    scan(library)
    assert [info.key for info in page(library, "films").items] == [CASE]


@on_name_preserving_file_systems
@pytest.mark.usefixtures("failing_commit")
def test_case_rename_is_undone_when_commit_fails(library: Library) -> None:
    with pytest.raises(StorageUnavailable):
        library.backend.move(FILM, CASE, Expect.ANY)
    assert os.listdir(library.root / "films") == ["film.mp4"]
    assert library.get()[0] == b"film"


@on_name_preserving_file_systems
def test_case_rename_is_undone_when_sync_fails(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    films, sync, failed = library.root / "films", os.fsync, []

    def failing(descriptor: int) -> None:
        if not failed and os.path.samestat(os.fstat(descriptor), films.stat()):
            failed.append(os.listdir(films))
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    with monkeypatch.context() as patch, pytest.raises(StorageError):
        patch.setattr(os, "fsync", failing)
        library.backend.move(FILM, CASE, Expect.ANY)
    assert (failed, os.listdir(films)) == ([["FILM.mp4"]], ["film.mp4"])
    assert library.get()[0] == b"film"


@on_name_preserving_file_systems
@pytest.mark.parametrize("killed", ["before", "between", "linked", "after"])
def test_case_rename_leaves_one_file_when_killed(library: Library, aging_files: None, killed: str) -> None:
    """On Linux the rename goes through a third name."""
    before = library.get()[1]
    films = library.root / "films"
    status = (films / "film.mp4").stat()
    path = "films", "film.mp4"
    reserved = os.open(library.root / ".seekable", os.O_RDONLY)
    MoveIntentFile(reserved).write(MoveIntent(path, ("films", "detour"), status.st_ino, is_detour=True))
    os.close(reserved)
    if killed != "before":
        (films / "film.mp4").rename(films / "detour")
    if killed in ("linked", "after"):
        os.link(films / "detour", films / "FILM.mp4")
    if killed == "after":
        (films / "detour").unlink()
    library.close()
    wait_for_tick()
    library.stack = ExitStack()
    library.published.clear()
    library.open()
    (name,) = os.listdir(films)
    assert name == ("film.mp4" if killed in ("before", "between") else "FILM.mp4")
    page(library, "films")
    assert library.get(Key(SHARED, "films", name))[1].id == before.id
    assert not library.backend.disk.is_moving()


@on_name_preserving_file_systems
def test_move_error_names_folder_with_other_spelling(library: Library) -> None:
    with pytest.raises(PathConflict, match=f"“{NEW.path}” cannot be stored. “Films” exists as “films”"):
        library.backend.move(FILM, NEW, Expect.ANY)


@on_name_preserving_file_systems
@pytest.mark.parametrize("name", ["Amélie.mkv", "séries/Amélie.mkv"])
def test_file_is_unique_under_any_normalization_of_disk(
    library: Library, aging_files: None, name: str
) -> None:
    key = Key.at(SHARED, name)
    new = library.put(b"new", key).info
    wait_for_tick()
    assert findings(library) == []
    assert [info.id for info in page(library, key.folder).items] == [new.id]
    assert library.put(b"newer", key).info.id == new.id
    wait_for_tick()
    assert findings(library) == []
    moved = library.backend.move(key, Key.at(SHARED, name.replace("A", "a")), Expect.ANY)
    assert moved.id == new.id
    assert findings(library) == []
    library.backend.delete(moved.key, Expect.ANY)
    assert rows(library) == ["films/film.mp4"]


@on_name_preserving_file_systems
def test_dropped_file_is_found_by_exact_name_only(library: Library, aging_files: None) -> None:
    nfd = unicodedata.normalize("NFD", "Été.mkv")
    drop(library.root / nfd)
    wait_for_tick()
    assert library.get(Key.of(SHARED, "", nfd))[1].key.filename == "Été.mkv"
    with pytest.raises(NotFound):
        library.get(Key(SHARED, "", "été.mkv"))
    assert findings(library) == []
    assert [change.kind for change in library.published] == [ChangeKind.CREATED]


# Case-sensitive file systems


@pytest.fixture
def case_sensitive_library(tmp_path: Path) -> Iterator[Library]:
    library = Library(tmp_path / "files")
    yield library
    library.close()


def test_names_differ_by_case_on_case_sensitive_file_system(
    case_sensitive_library: Library, aging_files: None
) -> None:
    case_sensitive_library.put(b"film")
    case_sensitive_library.put(b"FILM", CASE)
    # A second name of the same file.
    os.link(case_sensitive_library.path(), case_sensitive_library.root / "films" / "Film.mp4")
    case_sensitive_library.put(b"Film", FOLDER)
    wait_for_tick()
    assert scan(case_sensitive_library) == {ScanOutcome.CREATED: 1}
    assert rows(case_sensitive_library) == [
        "FILMS/film.mp4",
        "films/FILM.mp4",
        "films/Film.mp4",
        "films/film.mp4",
    ]
    assert scan(case_sensitive_library) == {}
    case_sensitive_library.published.clear()
    with pytest.raises(AlreadyExists):
        case_sensitive_library.backend.move(FILM, CASE, Expect.ANY)
    assert case_sensitive_library.published == list[Change]()
    with pytest.raises(InvalidName):
        Key.of(SHARED, ".SEEKABLE", "x")
