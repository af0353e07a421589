"""Reading files to hash and to verify them, beside whatever becomes of them meanwhile."""

import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
from sqlalchemy.event import listen

from app.storage.maintenance import Verdict
from app.storage.types import SHARED, Change, Expect, Key, Kind
from tests.unit.database.by_hand import drop, names, page, rest, stat, verdicts
from tests.unit.database.library import FILM, Library

pytestmark = pytest.mark.usefixtures("hurry")

LONG = b"x" * 3_000_000  # several steps
NEW = Key(SHARED, "", "new.mp4")


@pytest.fixture
def dropped(library: Library, hurry: None) -> Key:
    """A file of several steps that needs a hash."""
    drop(library.path(NEW), LONG)
    rest()
    assert names(library) == ["new.mp4"]
    return NEW


@pytest.mark.usefixtures("dropped")
def test_no_list_has_the_hash_of_bytes_that_were_changed_while_they_were_hashed(library: Library) -> None:
    hashing = library.backend.hash_unverified()
    next(hashing)
    with library.path(NEW).open("r+b") as file:
        file.write(b"y")
    list(hashing)
    assert [info.sha256 for info in page(library).items] == [None]


def test_what_was_edited_since_it_was_looked_at_is_not_even_read(library: Library, dropped: Key) -> None:
    library.path(dropped).write_bytes(b"edited")
    assert sum(library.backend.hash_unverified()) == 0
    rest()
    assert stat(library, dropped).sha256 is None
    assert sum(library.backend.hash_unverified()) == 6


def test_what_is_uploaded_over_a_file_while_it_is_hashed_keeps_its_own_hash(
    library: Library, dropped: Key, changes: list[Change]
) -> None:
    changes.clear()
    hashing = library.backend.hash_unverified()
    next(hashing)
    info = library.put(b"uploaded", dropped).info
    list(hashing)
    assert stat(library, dropped) == info
    assert changes == []


def test_what_is_moved_over_a_file_while_it_is_hashed_is_hashed_itself(
    library: Library, dropped: Key
) -> None:
    hashing = library.backend.hash_unverified()
    next(hashing)
    drop(library.root / "other", b"other bytes").rename(library.path(dropped))
    before = stat(library, dropped)
    assert before.sha256 is None
    assert sum(hashing) == len(LONG) - (1 << 20) + 11
    assert stat(library, dropped) == replace(
        before, sha256=hashlib.sha256(b"other bytes").hexdigest(), is_utf8=True
    )


def test_what_is_deleted_while_it_is_hashed_is_gone(library: Library, dropped: Key) -> None:
    hashing = library.backend.hash_unverified()
    next(hashing)
    library.backend.delete(dropped, Expect.ANY)
    assert sum(hashing) == len(LONG) - (1 << 20)
    assert library.sql("SELECT * FROM media") == []


def test_what_is_moved_while_it_is_hashed_or_verified_does_no_harm(library: Library, dropped: Key) -> None:
    hashing = library.backend.hash_unverified()
    next(hashing)
    library.backend.move(dropped, FILM, Expect.ANY)
    list(hashing)
    assert stat(library).sha256 is not None
    verifying = library.backend.verify()
    next(verifying)
    library.backend.move(FILM, dropped, Expect.ANY)
    assert [step.verdict for step in verifying if step.verdict] == [Verdict.SOUND]


def test_other_bytes_under_the_same_size_and_time_are_a_newer_version(
    library: Library, changes: list[Change]
) -> None:
    info = library.put(b"film").info
    times = library.path().stat()
    copy = drop(library.root / "copy", b"FILM")
    os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
    copy.rename(library.path())
    new = stat(library)
    assert new.etag != info.etag
    assert [(change.kind, change.info) for change in changes] == [(Kind.REPLACED, new)]
    list(library.backend.hash_unverified())
    after = stat(library)
    assert (after.etag, after.doubtful, after.sha256) == (
        new.etag,
        False,
        hashlib.sha256(b"FILM").hexdigest(),
    )
    assert after.updated_at.replace(microsecond=0) > info.updated_at.replace(microsecond=0)


def test_a_file_that_is_edited_while_it_is_verified_is_changed_and_not_damaged(library: Library) -> None:
    library.put(LONG)
    steps = library.backend.verify()
    next(steps)
    with library.path().open("r+b") as file:
        file.seek(2_500_000)
        file.write(b"y")
    assert [step.verdict for step in steps if step.verdict] == [Verdict.CHANGED]


def test_a_change_that_is_under_way_is_no_fault(library: Library) -> None:
    """It takes its file step before it is committed, or undone."""
    library.put(b"film")
    found: dict[str, Verdict] = {}
    verifying = threading.Thread(target=lambda: found.update(verdicts(library)))
    disk, database = library.backend._disk, library.backend._database
    with pytest.raises(ZeroDivisionError), database.writing(), disk.removed(("films", "film.mp4")):
        verifying.start()
        verifying.join(0.2)
        assert verifying.is_alive()
        raise ZeroDivisionError
    verifying.join(20)
    assert found == {"films/film.mp4": Verdict.SOUND}


def test_a_deleted_file_has_no_verdict_of_a_fault(library: Library) -> None:
    for name in ("a", "b"):
        library.put(b"film", Key(SHARED, "", name))
    steps = library.backend.verify()
    first = next(steps).path
    other = "b" if first == "a" else "a"
    (library.root / other).unlink()
    library.backend.check(Key(SHARED, "", other), Expect.ANY)
    assert {step.path: step.verdict for step in steps if step.verdict} == {first: Verdict.SOUND}


@pytest.mark.usefixtures("dropped")
def test_steps_that_are_left_hold_no_file_open(library: Library) -> None:
    library.put(LONG)
    list(library.backend.verify())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        for steps in (library.backend.verify(), library.backend.hash_unverified()):
            next(steps)
            assert len(os.listdir("/proc/self/fd")) > before
            steps.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_cannot_be_read_is_called_so_and_hashed_later(
    library: Library, no_descriptors: Callable[[], AbstractContextManager[None]]
) -> None:
    library.put(b"film")
    drop(library.path(NEW))
    rest()
    assert names(library) == ["new.mp4"]
    with no_descriptors():
        assert verdicts(library) == {"films/film.mp4": Verdict.UNREADABLE, "new.mp4": Verdict.UNREADABLE}
        assert sum(library.backend.hash_unverified()) == 0
    assert sum(library.backend.hash_unverified()) == 7
    assert verdicts(library) == {"films/film.mp4": Verdict.SOUND, "new.mp4": Verdict.SOUND}


@pytest.mark.parametrize("library", ["sqlite"], indirect=True)
def test_what_is_to_be_hashed_is_found_by_an_index_of_its_own(library: Library) -> None:
    """It is looked for every minute, in however big a library."""
    asked: list[tuple[str, object]] = []
    engine = library.backend._database.engine
    listen(engine, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))
    assert sum(library.backend.hash_unverified()) == 0
    statements = [(sql, values) for sql, values in asked if "FROM media" in sql]
    with engine.connect() as connection:
        indexes = ("ix_media_hash_first", "ix_media_unverified", "ix_media_unjudged")
        for (sql, values), index in zip(statements, indexes, strict=True):
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
            assert index in str(plan)
