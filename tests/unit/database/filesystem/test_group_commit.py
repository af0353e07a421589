"""Small uploads that wait at the same time are committed together, and each fails alone."""

import errno
import hashlib
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from sqlalchemy import event

from app.storage.errors import AlreadyExists, NotFound, PathConflict, StorageUnavailable, VersionMismatch
from app.storage.types import SHARED, Expect, Key
from tests.unit.database.library import FILM, Library, Upload, store_together


@contextmanager
def commits_counted(library: Library) -> Iterator[list[None]]:
    """Yield a list with one element for each COMMIT."""
    commits: list[None] = []

    def count(_connection: object) -> None:
        commits.append(None)

    event.listen(library.backend.database.engine, "commit", count)
    yield commits
    event.remove(library.backend.database.engine, "commit", count)


def check_stored(library: Library, path: str, data: bytes) -> None:
    stored, info = library.get(Key.at(SHARED, path))
    assert (stored, info.sha256) == (data, hashlib.sha256(data).hexdigest())
    assert not info.doubtful


def test_uploads_that_wait_are_committed_together(library: Library) -> None:
    old = library.put(b"old", Key.at(SHARED, "a/old.mp4")).info
    uploads: list[Upload] = [
        (f"{number % 3}/{number}.mp4", b"%d" % number, Expect.ABSENT) for number in range(8)
    ]
    uploads.append(("a/old.mp4", b"new", old.etag))
    with commits_counted(library) as commits:
        results = [result.result() for result in store_together(library, *uploads)]
    assert len(commits) == 1
    assert [result.created for result in results] == [True] * 8 + [False]
    for result, (path, data, _) in zip(results, uploads, strict=True):
        check_stored(library, path, data)
        assert library.get(result.info.key)[1] == result.info
    assert results[-1].info.id == old.id
    assert results[-1].info.updated_at > old.updated_at
    assert library.staging() == []
    assert library.published == [], "only changes of other programs are published here"


BAD: dict[str, tuple[Upload, type[Exception]]] = {
    "a name that is taken": (("a/old.mp4", b"bad", Expect.ABSENT), AlreadyExists),
    "a stale version": (("a/old.mp4", b"bad", "stale"), VersionMismatch),
    "a version of no file": (("a/none.mp4", b"bad", "stale"), VersionMismatch),
    "a folder that is a file": (("a/old.mp4/bad.mp4", b"bad", Expect.ANY), PathConflict),
    "a file that is a folder": (("a", b"bad", Expect.ANY), PathConflict),
    "a file of another program": (("a/foreign.mp4", b"bad", Expect.ABSENT), AlreadyExists),
    "a row that the database refuses": (("a/refused.mp4", b"bad", Expect.ANY), StorageUnavailable),
}


@pytest.mark.parametrize("why", BAD)
def test_upload_fails_without_its_neighbours(library: Library, why: str) -> None:
    library.put(b"old", Key.at(SHARED, "a/old.mp4"))
    library.path(Key.at(SHARED, "a/foreign.mp4")).write_bytes(b"foreign")
    refuse(library, "refused.mp4")
    upload, error = BAD[why]
    before, *results = store_together(
        library, ("a/1", b"1", Expect.ANY), upload, ("b/2", b"2", Expect.ABSENT)
    )
    bad, after = results
    with pytest.raises(error):
        bad.result()
    assert before.result().created
    assert after.result().created
    check_stored(library, "a/1", b"1")
    check_stored(library, "b/2", b"2")
    check_stored(library, "a/old.mp4", b"old")
    assert sorted(path.name for path in (library.root / "a").iterdir()) == ["1", "foreign.mp4", "old.mp4"]
    assert library.staging() == []


def refuse(library: Library, filename: str) -> None:
    """Have the database refuse rows with this filename."""
    if library.settings.database_url is None:
        library.sql(
            "CREATE TRIGGER refuse BEFORE INSERT ON media "
            f"WHEN NEW.filename = '{filename}' BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    else:
        library.sql(f"ALTER TABLE media ADD CONSTRAINT refuse CHECK (filename <> '{filename}')")


def test_one_of_racing_creators_wins(library: Library) -> None:
    uploads: list[Upload] = [("a/film.mp4", b"%d" % number, Expect.ABSENT) for number in range(6)]
    results = store_together(library, *uploads)
    errors = [type(result.exception()) for result in results]
    assert Counter(errors) == {AlreadyExists: 5, type(None): 1}
    check_stored(library, "a/film.mp4", b"%d" % errors.index(type(None)))
    assert library.staging() == []


def test_racing_replacements_all_succeed_and_one_is_last(library: Library) -> None:
    uploads: list[Upload] = [("a/film.mp4", b"%d" % number, Expect.ANY) for number in range(6)]
    results = [result.result() for result in store_together(library, *uploads)]
    assert sum(result.created for result in results) == 1
    assert len({result.info.id for result in results}) == 1
    last = max(results, key=lambda result: result.info.updated_at)
    assert library.get(last.info.key)[1] == last.info
    assert library.staging() == []


def test_file_that_another_program_edited_is_reconciled_before_it_is_replaced(library: Library) -> None:
    first = library.store(b"first", Key.at(SHARED, "a/film.mp4")).info
    library.path(first.key).write_bytes(b"edited by hand")
    with pytest.raises(VersionMismatch):
        library.store(b"second", first.key, first.etag)
    second = library.store(b"second", first.key)
    assert not second.created
    assert second.info.id == first.id
    check_stored(library, "a/film.mp4", b"second")


def test_upload_gives_up_when_the_turn_does_not_come(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database.sql.engine.BUSY_TIMEOUT_MS", 50)
    ended = threading.Event()
    with library.backend.database.turn(), ThreadPoolExecutor(1) as pool:
        result = pool.submit(library.store, b"film")
        result.add_done_callback(lambda _: ended.set())
        assert ended.wait(60)
    with pytest.raises(StorageUnavailable):
        result.result()
    with pytest.raises(NotFound):
        library.get()
    assert library.store(b"film").created, "a later upload does not store the one that was given up"
    assert library.staging() == []


def test_failed_commit_stores_no_upload_of_the_group(library: Library, failing_commit: None) -> None:
    uploads: list[Upload] = [
        ("new/1.mp4", b"1", Expect.ANY),
        (FILM.path, b"replaced", Expect.ANY),
        ("new/deep/2.mp4", b"2", Expect.ABSENT),
    ]
    for result in store_together(library, *uploads):
        with pytest.raises(StorageUnavailable):
            result.result()
    assert library.path().read_bytes() == b"film"
    assert not (library.root / "new").exists()
    assert library.staging() == []


def test_folder_that_fails_fails_only_the_uploads_into_it(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.put(b"old", Key.at(SHARED, "bad/old.mp4"))
    failing = (library.root / "bad").stat().st_ino
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    good_1, bad_1, bad_2, good_2 = store_together(
        library,
        ("good/1", b"1", Expect.ANY),
        ("bad/new.mp4", b"bad", Expect.ANY),
        ("bad/old.mp4", b"bad", Expect.ANY),
        ("good/2", b"2", Expect.ANY),
    )
    monkeypatch.undo()
    for bad in (bad_1, bad_2):
        with pytest.raises(StorageUnavailable):
            bad.result()
    for good, name in ((good_1, "1"), (good_2, "2")):
        assert good.result().created
        check_stored(library, f"good/{name}", name.encode())
    assert [path.name for path in (library.root / "bad").iterdir()] == ["old.mp4"]
    assert library.path(Key.at(SHARED, "bad/old.mp4")).read_bytes() == b"old"
    assert library.staging() == []
    assert library.store(b"new", Key.at(SHARED, "bad/new.mp4")).created


def test_folder_that_another_program_removed_meanwhile_is_durable(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, link, fsync = library.root / "new", os.link, os.fsync
    links = count(1)
    synced: set[int] = set()

    def remove_folder_once(source: str, target: str, **options: Any) -> None:
        if next(links) == 2:
            shutil.rmtree(folder)
        link(source, target, **options)

    def record(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "link", remove_folder_once)
    monkeypatch.setattr(os, "fsync", record)
    uploads: list[Upload] = [(f"new/{number}.mp4", b"%d" % number, Expect.ANY) for number in range(2)]
    for result in store_together(library, *uploads):
        assert result.result().created
    assert len([*folder.iterdir()]) == 1
    assert folder.stat().st_ino in synced


def test_upload_of_which_the_disk_lost_a_part_fails_alone(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def lose(descriptor: int) -> None:
        if os.fstat(descriptor).st_size == len(b"long film"):
            os.ftruncate(descriptor, 4)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", lose)
    with ThreadPoolExecutor(2) as pool:
        bad = pool.submit(library.store, b"long film", Key.at(SHARED, "a/bad.mp4"), Expect.ANY)
        good = pool.submit(library.store, b"film", Key.at(SHARED, "a/good.mp4"), Expect.ANY)
    with pytest.raises(StorageUnavailable):
        bad.result()
    assert good.result().created
    assert [path.name for path in (library.root / "a").iterdir()] == ["good.mp4"]
    assert library.staging() == []


def test_upload_that_a_group_has_taken_is_not_given_up(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.put(b"old", Key.at(SHARED, "a/old.mp4"))
    slow = (library.root / "a").stat().st_ino
    fsync = os.fsync

    def delay(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == slow:
            time.sleep(0.5)
        fsync(descriptor)

    monkeypatch.setattr("app.database.sql.engine.BUSY_TIMEOUT_MS", 100)
    monkeypatch.setattr(os, "fsync", delay)
    uploads: list[Upload] = [(f"a/{number}", b"%d" % number, Expect.ABSENT) for number in range(3)]
    for result, (path, data, _) in zip(store_together(library, *uploads), uploads, strict=True):
        assert result.result().created
        check_stored(library, path, data)
