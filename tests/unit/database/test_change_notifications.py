"""Events of a change stream, notifications, and the filter of a process's own writes."""

import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from app.database.gridfs.change_feed import StreamEvent, parse_event
from app.database.gridfs.own_writes import OwnWrites, deleted, moved, stored
from app.database.sql import change_feed
from app.events.feed import Message
from app.storage.types import MAX_PATH_BYTES, MAX_SEGMENT_BYTES, Change, ChangeKind, FileInfo, Key
from tests.support.recording_feed import RecordingFeed

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
        (event("insert", fullDocument=document()), StreamEvent(Change(ChangeKind.CREATED, INFO), stored(1))),
        (event("delete") | BEFORE, StreamEvent(Change(ChangeKind.DELETED, INFO), deleted("id"))),
        (event("delete"), StreamEvent(None, deleted("id"))),
        (event("delete", fullDocumentBeforeChange=None), StreamEvent(None, deleted("id"))),
        (
            updated(file=2, etag="two", sha256="two") | BEFORE,
            StreamEvent(Change(ChangeKind.REPLACED, replace(INFO, etag="two", sha256="two")), stored(2)),
        ),
        (updated(file=2, etag="one") | BEFORE, StreamEvent(Change(ChangeKind.REPLACED, INFO), stored(2))),
        (updated(file=2, etag="two"), StreamEvent(None, stored(2))),
        (
            updated(filename="c.mp4", words=["c", "mp4"]) | BEFORE,
            StreamEvent(Change(ChangeKind.MOVED, MOVED, INFO.key), moved("id", "lib", "a", "c.mp4")),
        ),
        (updated(filename="c.mp4"), StreamEvent(None)),
        (
            event("replace", fullDocument=document(filename="c.mp4")) | BEFORE,
            StreamEvent(Change(ChangeKind.MOVED, MOVED, INFO.key), moved("id", "lib", "a", "c.mp4")),
        ),
        (updated(etag="two") | BEFORE, StreamEvent(Change(ChangeKind.REPLACED, replace(INFO, etag="two")))),
        (updated(etag="two"), StreamEvent(None)),
        # No visible change.
        (updated(sha256="two", unverified=False) | BEFORE, None),
        (updated(sha256="two"), None),
        (updated(filename="b.mp4") | BEFORE, None),
        # Events of the whole collection, and invalid documents of other programs.
        (event("drop"), StreamEvent(None)),
        (event("dropDatabase"), StreamEvent(None)),
        (event("insert", fullDocument={"_id": 1}), StreamEvent(None)),
        (event("insert", fullDocument=document(folder="/a/")), StreamEvent(None)),
        (event("insert", fullDocument=document(filename=None)), StreamEvent(None)),
        (event("insert"), StreamEvent(None)),
        (updated(size="long", file=2) | BEFORE, StreamEvent(None)),
        (event("delete", fullDocumentBeforeChange={"_id": 1}), StreamEvent(None)),
    ],
)
def test_change_event_becomes_change(event: dict[str, Any], expected: StreamEvent | None) -> None:
    assert parse_event(event) == expected


def received(*payloads: str, origin: str = "here") -> list[object]:
    feed = RecordingFeed()
    for payload in payloads:
        change_feed.receive_payload(payload, origin, feed)
    return feed.all


LONGEST = '"' * MAX_SEGMENT_BYTES
LONGEST_PATH = "/".join(['"' * 204] * 5)


@pytest.mark.parametrize(
    "change",
    [
        Change(ChangeKind.CREATED, INFO),
        Change(ChangeKind.REPLACED, replace(INFO, sha256=None)),
        Change(ChangeKind.MOVED, MOVED, INFO.key),
        Change(ChangeKind.DELETED, replace(INFO, key=Key.at("", "é\u2028😀.mp4"))),
        Change(
            ChangeKind.MOVED,
            replace(INFO, key=Key.at(LONGEST, LONGEST_PATH), content_type='"' * 255),
            Key.at(LONGEST, LONGEST_PATH),
        ),
    ],
    ids=lambda change: change.kind.value,
)
def test_notification_carries_change_within_8000_bytes(change: Change) -> None:
    texts = change_feed.change_payloads("there", [change])
    assert received(*texts) == [change]
    assert received(*texts, origin="there") == []
    assert all(len(text.encode()) < 8000 for text in texts)


def test_longest_path_has_maximum_length() -> None:
    assert len(LONGEST_PATH) == MAX_PATH_BYTES


def test_notification_names_only_libraries_when_changes_do_not_fit() -> None:
    missed = [("missed", "lib"), ("missed", "other")]
    many = [
        Change(ChangeKind.CREATED, replace(INFO, id=str(number))) for number in range(change_feed.MAX_CHANGES)
    ]
    assert received(*change_feed.change_payloads("there", many)) == many
    other = Change(ChangeKind.CREATED, replace(INFO, key=Key.at("other", "x")))
    assert received(*change_feed.change_payloads("there", [*many, other])) == missed
    long = Change(ChangeKind.CREATED, replace(INFO, content_type="x" * 8000))
    assert received(*change_feed.change_payloads("there", [other, long])) == missed


def test_progress_is_sent_when_it_fits() -> None:
    message = Message("lib", "sid", '{"é":1}')
    assert received(*change_feed.message_payloads("there", message)) == [message]
    assert change_feed.message_payloads("there", message._replace(text="x" * 8000)) == []


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "1", '{"origin":"there"}', '{"origin":"there","changed":{"kind":"melted"}}',
     '{"origin":"there","changed":[]}', '{"origin":"there","progressed":["a"]}', '{"changed":{}}'],
)  # fmt: skip
def test_invalid_notification_counts_as_missed_change(text: str) -> None:
    assert received(text) == ["missed"]


@pytest.fixture
def own_writes() -> OwnWrites:
    own_writes = OwnWrites()
    own_writes.enabled = True
    return own_writes


def test_own_write_is_filtered_as_often_as_it_was_made(own_writes: OwnWrites) -> None:
    for _ in range(2):
        own_writes.run(stored(1), lambda: True)
    own_writes.run(stored(2), lambda: False)
    with pytest.raises(ZeroDivisionError):
        own_writes.run(stored(3), lambda: 1 / 0)
    assert [own_writes.take(stored(1)) for _ in range(3)] == [True, True, False]
    assert not own_writes.take(stored(2))
    assert not own_writes.take(stored(3))
    own_writes.run(stored(4), lambda: True)
    own_writes.clear()
    assert not own_writes.take(stored(4))


@pytest.mark.parametrize("succeeds", [True, False])
def test_take_blocks_until_write_returns(own_writes: OwnWrites, *, succeeds: bool) -> None:
    """The change stream may deliver the event before the write returns."""
    started, end = threading.Event(), threading.Event()

    def change() -> bool:
        started.set()
        return end.wait(5) and succeeds

    maker = threading.Thread(target=lambda: own_writes.run(stored(1), change))
    maker.start()
    started.wait(5)
    threading.Timer(0.05, end.set).start()
    start = time.monotonic()
    assert own_writes.take(stored(1)) == succeeds
    assert time.monotonic() - start >= 0.04
    maker.join()


def test_own_writes_without_event_are_dropped_eventually() -> None:
    own_writes = OwnWrites(max_marks=3)
    own_writes.enabled = True
    for number in range(5):
        own_writes.run(stored(number), lambda: True)
    assert [own_writes.take(stored(number)) for number in range(5)] == [False, False, True, True, True]


def test_own_writes_are_not_recorded_without_listener() -> None:
    own_writes = OwnWrites()
    own_writes.run(stored(1), lambda: True)
    assert not own_writes.take(stored(1))
