"""What processes on one PostgreSQL tell one another, as texts that fit into a notification: these hold less
than 8000 bytes."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.database.relay import Hearer
from app.storage.errors import InvalidName
from app.storage.types import Change, FileInfo, Key, Kind

CHANNEL = "seekable"
"""Of the notifications, which stay within the database."""

MOST_BYTES = 7999

MOST_CHANGES = 32
"""Of one transaction that are told one by one. Of a scan that found more only the libraries are told."""

_NOT_OURS = (KeyError, TypeError, ValueError, InvalidName)


def of_changes(origin: str, changes: Sequence[Change]) -> list[str]:
    """`origin` names the process."""
    if len(changes) <= MOST_CHANGES:
        told = [_text(origin, changed=_plain(change)) for change in changes]
        if all(_fits(one) for one in told):
            return told
    libraries = {change.info.key.library for change in changes}
    return [_text(origin, missed=library) for library in sorted(libraries)]


def of_progress(origin: str, library: str, sid: str, text: str) -> list[str]:
    """None of it if it is too long."""
    told = _text(origin, progressed=[library, sid, text])
    return [told] if _fits(told) else []


def hear(told: str, origin: str, hearer: Hearer) -> None:
    """Hand on what another process told; what this one did is passed over."""
    try:
        message = json.loads(told)
        if message["origin"] == origin:
            return
        if "changed" in message:
            hearer.changed([_change(message["changed"])])
        elif "progressed" in message:
            library, sid, text = map(str, message["progressed"])
            hearer.progressed(library, sid, text)
        else:
            hearer.missed([str(message["missed"])])
    except _NOT_OURS:  # of a newer version, say
        hearer.missed()


def _fits(told: str) -> bool:
    return len(told.encode()) <= MOST_BYTES


def _text(origin: str, **what: object) -> str:
    return json.dumps({"origin": origin, **what}, ensure_ascii=False, separators=(",", ":"))


def _plain(change: Change) -> dict[str, object]:
    info = change.info
    return {
        "kind": change.kind.value,
        "previous": None if change.previous is None else change.previous.path,
        "id": info.id,
        "library": info.key.library,
        "path": info.key.path,
        "size": info.size,
        "content_type": info.content_type,
        "etag": info.etag,
        "sha256": info.sha256,
        "created_at": info.created_at.isoformat(),
        "updated_at": info.updated_at.isoformat(),
        "is_utf8": info.is_utf8,
        "doubtful": info.doubtful,
        "other_etag": info.other_etag,
    }


def _change(plain: Mapping[str, Any]) -> Change:
    library, previous = plain["library"], plain["previous"]
    info = FileInfo(
        id=plain["id"],
        key=Key.at(library, plain["path"]),
        size=int(plain["size"]),
        content_type=plain["content_type"],
        etag=plain["etag"],
        sha256=plain["sha256"],
        created_at=datetime.fromisoformat(plain["created_at"]),
        updated_at=datetime.fromisoformat(plain["updated_at"]),
        # Servers of earlier releases send none of these.
        is_utf8=plain.get("is_utf8"),
        doubtful=bool(plain.get("doubtful")),
        other_etag=plain.get("other_etag"),
    )
    return Change(Kind(plain["kind"]), info, None if previous is None else Key.at(library, previous))
