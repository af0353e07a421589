"""What an event of a change stream says became of a file. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.database.mongo import own
from app.database.mongo.documents import NOT_LIKE_OURS, Stored, info_in
from app.database.mongo.own import Mark
from app.storage.types import Change, Key, Kind

PLACE = ("library", "folder", "filename")


@dataclass(frozen=True)
class Heard:
    """`change` is None where nobody can tell what became of a file, only that something did. `mark` is the
    change's, by which its maker knows it."""

    change: Change | None
    mark: Mark | None = None


def heard(event: Mapping[str, Any]) -> Heard | None:
    """None of what is no news to those who listen, such as the hash of a file."""
    try:
        return _heard(event)
    except NOT_LIKE_OURS:  # a document that another program wrote
        return Heard(None)


def _heard(event: Mapping[str, Any]) -> Heard | None:
    before, after = event.get("fullDocumentBeforeChange"), _after(event)
    match event["operationType"]:
        case "insert":
            return Heard(Change(Kind.CREATED, info_in(after)), own.stored(after["file"]))
        case "delete":
            mark = own.deleted(event["documentKey"]["_id"])
            return Heard(None if before is None else Change(Kind.DELETED, info_in(before)), mark)
        case "update" | "replace":
            return _updated(before, after)
    return Heard(None)  # the whole collection is gone, or has another name


def _after(event: Mapping[str, Any]) -> Stored:
    """The document after the change; of an update without the document before it, what it changed."""
    if event["operationType"] != "update":
        return dict(event.get("fullDocument") or {})
    return {**(event.get("fullDocumentBeforeChange") or {}), **event["updateDescription"]["updatedFields"]}


def _updated(before: Stored | None, after: Stored) -> Heard | None:
    if before is None:  # the server keeps no documents as they were
        if "file" in after:
            return Heard(None, own.stored(after["file"]))
        return Heard(None) if any(name in after for name in (*PLACE, "etag")) else None
    if before["file"] != after["file"]:
        return Heard(Change(Kind.REPLACED, info_in(after)), own.stored(after["file"]))
    if any(before[name] != after[name] for name in PLACE):
        previous = Key(*(before[name] for name in PLACE))
        mark = own.moved(after["_id"], *(after[name] for name in PLACE))
        return Heard(Change(Kind.MOVED, info_in(after), previous), mark)
    if before["etag"] != after["etag"]:
        return Heard(Change(Kind.REPLACED, info_in(after)))
    return None
