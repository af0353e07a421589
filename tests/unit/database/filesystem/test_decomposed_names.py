"""Folders and files with NFD names, as macOS writes them, on a disk where NFC is another name.

Clients send NFC. No test lists a folder before it requests a file inside.
"""

import os
import unicodedata
from pathlib import Path

import pytest

from app.storage.errors import AlreadyExists, NotFound, PathConflict
from app.storage.types import SHARED, Expect, Key, Listing
from tests.system.live.clients import until
from tests.unit.database.foreign_changes import drop, findings, names, page, wait_for_tick
from tests.unit.database.library import Library


def nfd(path: str) -> str:
    return unicodedata.normalize("NFD", path)


PATHS = ("Amélie.mkv", "séries/film.mkv", "séries/été/Amélie.mkv", "films/été/film.mkv", "séries/a/ö/Ü.mkv")
MIXED = nfd("é") + "é.mkv"  # as in titles copied from the web
pytestmark = pytest.mark.usefixtures("shorten_waits")


def key_of(path: str) -> Key:
    return Key.at(SHARED, path)


def paths_on_disk(library: Library) -> set[str]:
    """Return the paths of the files on the disk."""
    files = (path for path in library.root.rglob("*") if path.is_file())
    return {str(path.relative_to(library.root)) for path in files if ".seekable" not in path.parts}


@pytest.mark.parametrize("path", PATHS)
def test_decomposed_file_is_read_without_listing(library: Library, path: str) -> None:
    drop(library.root / nfd(path), b"film")
    wait_for_tick()
    data, info = library.get(key_of(path))
    assert (data, info.key.path) == (b"film", path)
    assert library.get(key_of(path))[1] == info
    assert findings(library) == []


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("recursive", [False, True])
def test_decomposed_folder_is_listed(library: Library, path: str, recursive: bool) -> None:
    drop(library.root / nfd(path), b"film")
    wait_for_tick()
    folder = key_of(path).folder
    assert [info.key.path for info in page(library, folder, recursive=recursive).items] == [path]
    listing = Listing(SHARED, folder, recursive=recursive)

    def is_cached() -> bool:
        page(library, folder, recursive=recursive)
        return library.backend.page(listing, cursor=None, limit=10, wait=False) is not None

    # The scan cache accepts a folder once the clock of its file system has ticked since the last change.
    until(is_cached, "the folder is in the scan cache")


@pytest.mark.parametrize("path", PATHS)
def test_upload_goes_into_existing_decomposed_folder(library: Library, path: str) -> None:
    drop(library.root / nfd(path), b"film")
    folder = key_of(path).folder
    new, newest = Key(SHARED, folder, "new.mkv"), Key(SHARED, folder, "größer.mkv")
    places = {nfd(path), f"{nfd(folder)}/new.mkv".lstrip("/")}
    library.backend.check(new, Expect.ABSENT)
    assert library.put(b"new", new, Expect.ABSENT).created
    assert paths_on_disk(library) == places
    assert not library.put(b"newer", new).created
    assert library.get(new)[0] == b"newer"
    assert paths_on_disk(library) == places
    wait_for_tick()
    assert [finding.path for finding in findings(library)] == [path]
    assert library.backend.move(new, newest, Expect.ANY).key == newest
    assert paths_on_disk(library) == {nfd(path), f"{nfd(folder)}/größer.mkv".lstrip("/")}
    assert names(library, folder) == sorted([key_of(path).filename, "größer.mkv"], key=str.encode)
    for key in (newest, key_of(path)):
        library.backend.delete(key, Expect.ANY)
    assert paths_on_disk(library) == set()
    assert not folder or not (library.root / nfd(folder)).exists()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rested", [True, False])
def test_upload_is_refused_when_decomposed_file_exists(library: Library, path: str, rested: bool) -> None:
    drop(library.root / nfd(path), b"film")
    if rested:
        wait_for_tick()
    for attempt in (
        lambda: library.backend.check(key_of(path), Expect.ABSENT),
        lambda: create(library, path),
    ):
        with pytest.raises(AlreadyExists):
            attempt()
    other = library.put(b"other", key_of("other.mkv")).info
    with pytest.raises(AlreadyExists):
        library.backend.move(other.key, key_of(path), Expect.ANY)
    assert paths_on_disk(library) == {nfd(path), "other.mkv"}
    wait_for_tick()
    assert library.get(key_of(path))[0] == b"film"
    replaced = library.put(b"newer", key_of(path))
    assert not replaced.created
    assert paths_on_disk(library) == {nfd(path), "other.mkv"}


def create(library: Library, path: str) -> None:
    library.put(b"mine", key_of(path), Expect.ABSENT)


def test_half_decomposed_name_is_found(library: Library) -> None:
    drop(library.root / nfd("séries") / MIXED, b"film")
    wait_for_tick()
    assert library.get(key_of("séries/éé.mkv"))[0] == b"film"


def test_file_is_found_in_either_twin_folder(library: Library) -> None:
    """Earlier versions created such a twin folder for an upload."""
    drop(library.root / nfd("séries") / "old.mkv", b"old")
    drop(library.root / "séries" / "new.mkv", b"new")
    wait_for_tick()
    assert library.get(key_of("séries/old.mkv"))[0] == b"old"
    assert library.get(key_of("séries/new.mkv"))[0] == b"new"
    assert names(library, "séries") == ["new.mkv", "old.mkv"]
    with pytest.raises(AlreadyExists):
        create(library, "séries/old.mkv")


def test_decomposed_file_and_folder_conflict(library: Library) -> None:
    drop(library.root / nfd("séries"), b"a file")
    drop(library.root / nfd("été") / "film.mkv")
    for path in ("séries/film.mkv", "été"):
        for attempt in (
            lambda path=path: library.backend.check(key_of(path), Expect.ANY),
            lambda path=path: library.put(b"film", key_of(path)),
        ):
            with pytest.raises(PathConflict):
                attempt()
    assert paths_on_disk(library) == {nfd("séries"), nfd("été/film.mkv")}


def test_missing_decomposed_path_is_not_found(library: Library, tmp_path: Path) -> None:
    drop(library.root / nfd("séries") / "film.mkv")
    for path in ("séries/été.mkv", "été/film.mkv", "series/film.mkv", "séries/film.mkv/é"):
        with pytest.raises(NotFound):
            library.get(key_of(path))
    assert page(library, "été").items == ()
    assert os.listdir(library.root / nfd("séries")) == ["film.mkv"]
