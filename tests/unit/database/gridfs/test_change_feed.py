"""Events of a change stream: each becomes a change, a resync, or nothing."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from app.database.gridfs.change_feed import StreamEvent, parse_event
from app.database.gridfs.own_writes import deleted, moved, stored
from app.storage.types import Change, ChangeKind, FileInfo, Key

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
