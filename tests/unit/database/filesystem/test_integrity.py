"""Reading files for hashing and verification, concurrently with changes."""

import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
from sqlalchemy.event import listen

from app.storage.maintenance import Integrity
from app.storage.types import SHARED, Change, ChangeKind, Expect, Key
from tests.unit.database.foreign_changes import drop, names, page, stat, verdicts, wait_for_tick
from tests.unit.database.library import FILM, Library

pytestmark = pytest.mark.usefixtures("shorten_waits")

LONG = b"x" * 3_000_000  # several steps
NEW = Key(SHARED, "", "new.mp4")


@pytest.fixture
def dropped(library: Library, shorten_waits: None) -> Key:
    """Add a file that several steps hash."""
    drop(library.path(NEW), LONG)
    wait_for_tick()
    assert names(library) == ["new.mp4"]
    return NEW


@pytest.mark.usefixtures("dropped")
def test_hash_is_discarded_when_file_changes_during_hashing(library: Library) -> None:
    hashing = library.backend.maintenance.hash_unverified()
    next(hashing)
    with library.path(NEW).open("r+b") as file:
        file.write(b"y")
    list(hashing)
    assert [info.sha256 for info in page(library).items] == [None]


def test_hashing_skips_file_edited_since_last_scan(library: Library, dropped: Key) -> None:
    library.path(dropped).write_bytes(b"edited")
    assert sum(library.backend.maintenance.hash_unverified()) == 0
    wait_for_tick()
    assert stat(library, dropped).sha256 is None
    assert sum(library.backend.maintenance.hash_unverified()) == 6


def test_upload_keeps_its_hash_when_replaced_file_is_being_hashed(
    library: Library, dropped: Key, changes: list[Change]
) -> None:
    changes.clear()
    hashing = library.backend.maintenance.hash_unverified()
    next(hashing)
    info = library.put(b"uploaded", dropped).info
    list(hashing)
    assert stat(library, dropped) == info
    assert changes == []


def test_hashing_continues_with_file_moved_over_the_hashed_one(library: Library, dropped: Key) -> None:
    hashing = library.backend.maintenance.hash_unverified()
    next(hashing)
    drop(library.root / "other", b"other bytes").rename(library.path(dropped))
    before = stat(library, dropped)
    assert before.sha256 is None
    assert sum(hashing) == len(LONG) - (1 << 20) + 11
    assert stat(library, dropped) == replace(
        before, sha256=hashlib.sha256(b"other bytes").hexdigest(), is_utf8=True
    )


def test_file_is_gone_when_deleted_during_hashing(library: Library, dropped: Key) -> None:
    hashing = library.backend.maintenance.hash_unverified()
    next(hashing)
    library.backend.delete(dropped, Expect.ANY)
    assert sum(hashing) == len(LONG) - (1 << 20)
    assert library.sql("SELECT * FROM media") == []


def test_file_may_be_moved_during_hashing_and_verification(library: Library, dropped: Key) -> None:
    hashing = library.backend.maintenance.hash_unverified()
    next(hashing)
    library.backend.move(dropped, FILM, Expect.ANY)
    list(hashing)
    assert stat(library).sha256 is not None
    verifying = library.backend.maintenance.verify()
    next(verifying)
    library.backend.move(FILM, dropped, Expect.ANY)
    assert [step.verdict for step in verifying if step.verdict] == [Integrity.SOUND]


def test_other_bytes_with_same_size_and_time_are_newer_version(
    library: Library, changes: list[Change]
) -> None:
    info = library.put(b"film").info
    times = library.path().stat()
    copy = drop(library.root / "copy", b"FILM")
    os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
    copy.rename(library.path())
    new = stat(library)
    assert new.etag != info.etag
    assert [(change.kind, change.info) for change in changes] == [(ChangeKind.REPLACED, new)]
    list(library.backend.maintenance.hash_unverified())
    after = stat(library)
    assert (after.etag, after.doubtful, after.sha256) == (
        new.etag,
        False,
        hashlib.sha256(b"FILM").hexdigest(),
    )
    assert after.updated_at.replace(microsecond=0) > info.updated_at.replace(microsecond=0)


def test_verify_reports_changed_when_file_is_edited(library: Library) -> None:
    library.put(LONG)
    steps = library.backend.maintenance.verify()
    next(steps)
    with library.path().open("r+b") as file:
        file.seek(2_500_000)
        file.write(b"y")
    assert [step.verdict for step in steps if step.verdict] == [Integrity.CHANGED]


def test_verify_waits_for_change_in_progress(library: Library) -> None:
    """The change moves the file before it commits or rolls back."""
    library.put(b"film")
    found: dict[str, Integrity] = {}
    verifying = threading.Thread(target=lambda: found.update(verdicts(library)))
    disk, database = library.backend.disk, library.backend.database
    with pytest.raises(ZeroDivisionError), database.writing(), disk.removed(("films", "film.mp4")):
        verifying.start()
        verifying.join(0.2)
        assert verifying.is_alive()
        raise ZeroDivisionError
    verifying.join(20)
    assert found == {"films/film.mp4": Integrity.SOUND}


def test_verify_reports_no_fault_for_deleted_file(library: Library) -> None:
    for name in ("a", "b"):
        library.put(b"film", Key(SHARED, "", name))
    steps = library.backend.maintenance.verify()
    first = next(steps).path
    other = "b" if first == "a" else "a"
    (library.root / other).unlink()
    library.backend.check(Key(SHARED, "", other), Expect.ANY)
    assert {step.path: step.verdict for step in steps if step.verdict} == {first: Integrity.SOUND}


@pytest.mark.usefixtures("dropped")
def test_abandoned_steps_close_their_files(library: Library) -> None:
    library.put(LONG)
    list(library.backend.maintenance.verify())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        for steps in (library.backend.maintenance.verify(), library.backend.maintenance.hash_unverified()):
            next(steps)
            assert len(os.listdir("/proc/self/fd")) > before
            steps.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_unreadable_file_is_reported_and_hashed_later(
    library: Library, no_descriptors: Callable[[], AbstractContextManager[None]]
) -> None:
    library.put(b"film")
    drop(library.path(NEW))
    wait_for_tick()
    assert names(library) == ["new.mp4"]
    with no_descriptors():
        assert verdicts(library) == {"films/film.mp4": Integrity.UNREADABLE, "new.mp4": Integrity.UNREADABLE}
        assert sum(library.backend.maintenance.hash_unverified()) == 0
    assert sum(library.backend.maintenance.hash_unverified()) == 7
    assert verdicts(library) == {"films/film.mp4": Integrity.SOUND, "new.mp4": Integrity.SOUND}


@pytest.mark.parametrize("library", ["sqlite"], indirect=True)
def test_unhashed_files_are_found_by_index(library: Library) -> None:
    """The query runs every minute, in libraries of any size."""
    statements: list[tuple[str, object]] = []
    engine = library.backend.database.engine
    listen(engine, "before_cursor_execute", lambda *call: statements.append((call[2], call[3])))
    assert sum(library.backend.maintenance.hash_unverified()) == 0
    media_statements = [(sql, values) for sql, values in statements if "FROM media" in sql]
    with engine.connect() as connection:
        indexes = ("ix_media_hash_first", "ix_media_unverified", "ix_media_unjudged")
        for (sql, values), index in zip(media_statements, indexes, strict=True):
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
            assert index in str(plan)
