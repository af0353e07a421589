"""Events of a change stream, notifications, and the filter of a process's own writes."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from app.database.gridfs.change_feed import Heard, heard
from app.database.gridfs.own_writes import OwnChanges, deleted, moved, stored
from app.database.sql import change_feed
from app.storage.types import MAX_PATH_BYTES, MAX_SEGMENT_BYTES, Change, FileInfo, Key, Kind

DAY = datetime(2026, 11, 22, 12, 30, 15, 123000, UTC)


def document(**more: Any) -> dict[str, Any]:
    return {
        "_id": "id", "library": "lib", "folder": "a", "filename": "b.mp4", "file": 1, "size": 5,
        "etag": "one", "chunk_size": 4, "content_type": "video/mp4", "sha256": "one", "unverified": False,
        "created_at": DAY, "updated_at": DAY, "words": ["b", "mp4"], **more,
    }  # fmt: skip


INFO = FileInfo("id", Key("lib", "a", "b.mp4"), 5, "video/mp4", "one", "one", DAY, DAY)
BEFORE = {"fullDocumentBeforeChange": document()}
MOVED = replace(INFO, key=Key("lib", "a", "c.mp4"))


def updated(**fields: Any) -> dict[str, Any]:
    return {
        "operationType": "update",
        "documentKey": {"_id": "id"},
        "updateDescription": {"updatedFields": fields, "removedFields": []},
    }


def event(kind: str, **more: Any) -> dict[str, Any]:
    return {"operationType": kind, "documentKey": {"_id": "id"}, **more}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (event("insert", fullDocument=document()), Heard(Change(Kind.CREATED, INFO), stored(1))),
        (event("delete") | BEFORE, Heard(Change(Kind.DELETED, INFO), deleted("id"))),
        (event("delete"), Heard(None, deleted("id"))),
        (event("delete", fullDocumentBeforeChange=None), Heard(None, deleted("id"))),
        (
            updated(file=2, etag="two", sha256="two") | BEFORE,
            Heard(Change(Kind.REPLACED, replace(INFO, etag="two", sha256="two")), stored(2)),
        ),
        (updated(file=2, etag="one") | BEFORE, Heard(Change(Kind.REPLACED, INFO), stored(2))),
        (updated(file=2, etag="two"), Heard(None, stored(2))),
        (
            updated(filename="c.mp4", words=["c", "mp4"]) | BEFORE,
            Heard(Change(Kind.MOVED, MOVED, INFO.key), moved("id", "lib", "a", "c.mp4")),
        ),
        (updated(filename="c.mp4"), Heard(None)),
        (
            event("replace", fullDocument=document(filename="c.mp4")) | BEFORE,
            Heard(Change(Kind.MOVED, MOVED, INFO.key), moved("id", "lib", "a", "c.mp4")),
        ),
        (updated(etag="two") | BEFORE, Heard(Change(Kind.REPLACED, replace(INFO, etag="two")))),
        (updated(etag="two"), Heard(None)),
        # No visible change.
        (updated(sha256="two", unverified=False) | BEFORE, None),
        (updated(sha256="two"), None),
        (updated(filename="b.mp4") | BEFORE, None),
        # Events of the whole collection, and invalid documents of other programs.
        (event("drop"), Heard(None)),
        (event("dropDatabase"), Heard(None)),
        (event("insert", fullDocument={"_id": 1}), Heard(None)),
        (event("insert", fullDocument=document(folder="/a/")), Heard(None)),
        (event("insert", fullDocument=document(filename=None)), Heard(None)),
        (event("insert"), Heard(None)),
        (updated(size="long", file=2) | BEFORE, Heard(None)),
        (event("delete", fullDocumentBeforeChange={"_id": 1}), Heard(None)),
    ],
)
def test_change_event_becomes_change(event: dict[str, Any], expected: Heard | None) -> None:
    assert heard(event) == expected


class RecordingListener:
    def __init__(self) -> None:
        self.all: list[object] = []

    def changed(self, changes: Sequence[Change]) -> None:
        self.all += changes

    def missed(self, libraries: Sequence[str] | None = None) -> None:
        self.all.append(libraries)

    def progressed(self, library: str, sid: str, text: str) -> None:
        self.all.append((library, sid, text))


def received(*texts: str, origin: str = "origin") -> list[object]:
    listener = RecordingListener()
    for text in texts:
        change_feed.hear(text, origin, listener)
    return listener.all


LONGEST = '"' * MAX_SEGMENT_BYTES
LONGEST_PATH = "/".join(['"' * 204] * 5)


@pytest.mark.parametrize(
    "change",
    [
        Change(Kind.CREATED, INFO),
        Change(Kind.REPLACED, replace(INFO, sha256=None)),
        Change(Kind.MOVED, MOVED, INFO.key),
        Change(Kind.DELETED, replace(INFO, key=Key.at("", "é\u2028😀.mp4"))),
        Change(
            Kind.MOVED,
            replace(INFO, key=Key.at(LONGEST, LONGEST_PATH), content_type='"' * 255),
            Key.at(LONGEST, LONGEST_PATH),
        ),
    ],
    ids=lambda change: change.kind.value,
)
def test_notification_carries_change_within_8000_bytes(change: Change) -> None:
    texts = change_feed.of_changes("there", [change])
    assert received(*texts) == [change]
    assert received(*texts, origin="there") == []
    assert all(len(text.encode()) < 8000 for text in texts)


def test_longest_path_has_maximum_length() -> None:
    assert len(LONGEST_PATH) == MAX_PATH_BYTES


def test_notification_names_only_libraries_when_changes_do_not_fit() -> None:
    many = [Change(Kind.CREATED, replace(INFO, id=str(number))) for number in range(change_feed.MOST_CHANGES)]
    assert received(*change_feed.of_changes("there", many)) == many
    other = Change(Kind.CREATED, replace(INFO, key=Key.at("other", "x")))
    assert received(*change_feed.of_changes("there", [*many, other])) == [["lib"], ["other"]]
    long = Change(Kind.CREATED, replace(INFO, content_type="x" * 8000))
    assert received(*change_feed.of_changes("there", [other, long])) == [["lib"], ["other"]]


def test_progress_is_sent_when_it_fits() -> None:
    assert received(*change_feed.of_progress("there", "lib", "sid", '{"é":1}')) == [("lib", "sid", '{"é":1}')]
    assert change_feed.of_progress("there", "lib", "sid", "x" * 8000) == []


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "1", '{"origin":"there"}', '{"origin":"there","changed":{"kind":"melted"}}',
     '{"origin":"there","changed":[]}', '{"origin":"there","progressed":["a"]}', '{"changed":{}}'],
)  # fmt: skip
def test_invalid_notification_counts_as_missed_change(text: str) -> None:
    assert received(text) == [None]


@pytest.fixture
def own_changes() -> OwnChanges:
    own_changes = OwnChanges()
    own_changes.counts = True
    return own_changes


def test_own_change_is_filtered_as_often_as_it_was_made(own_changes: OwnChanges) -> None:
    for _ in range(2):
        own_changes.make(stored(1), lambda: True)
    own_changes.make(stored(2), lambda: False)
    with pytest.raises(ZeroDivisionError):
        own_changes.make(stored(3), lambda: 1 / 0)
    assert [own_changes.is_own(stored(1)) for _ in range(3)] == [True, True, False]
    assert not own_changes.is_own(stored(2))
    assert not own_changes.is_own(stored(3))
    own_changes.make(stored(4), lambda: True)
    own_changes.forget()
    assert not own_changes.is_own(stored(4))


@pytest.mark.parametrize("succeeds", [True, False])
def test_is_own_blocks_until_write_returns(own_changes: OwnChanges, *, succeeds: bool) -> None:
    """The change stream may deliver the event before the write returns."""
    started, end = threading.Event(), threading.Event()

    def change() -> bool:
        started.set()
        return end.wait(5) and succeeds

    maker = threading.Thread(target=lambda: own_changes.make(stored(1), change))
    maker.start()
    started.wait(5)
    threading.Timer(0.05, end.set).start()
    start = time.monotonic()
    assert own_changes.is_own(stored(1)) == succeeds
    assert time.monotonic() - start >= 0.04
    maker.join()


def test_own_changes_without_event_are_dropped_eventually(
    own_changes: OwnChanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database.gridfs.own_writes.MOST", 3)
    for number in range(5):
        own_changes.make(stored(number), lambda: True)
    assert [own_changes.is_own(stored(number)) for number in range(5)] == [False, False, True, True, True]


def test_own_changes_are_not_recorded_without_listener() -> None:
    own_changes = OwnChanges()
    own_changes.make(stored(1), lambda: True)
    assert not own_changes.is_own(stored(1))
