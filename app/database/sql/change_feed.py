"""How processes on one PostgreSQL hear of one another: by LISTEN, on a connection for nothing else."""

import contextlib
import json
import os
import selectors
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from app.database.relay import Hearer
from app.database.sql.liveness import AnsweredConnection
from app.storage.errors import InvalidName, StorageUnavailable
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


class Listening:
    """`relay.Line` over PostgreSQL. What is notified while nobody listens is not kept.

    `origin` is what this process calls itself; `dial` gives a connection, and `notify` sends notifications.
    """

    def __init__(
        self, origin: str, dial: Callable[[], AnsweredConnection], notify: Callable[[Sequence[str]], None]
    ) -> None:
        self._origin, self._dial, self._notify = origin, dial, notify
        self._connection: AnsweredConnection | None = None
        self._wake, self._waker = os.pipe()
        self._open = True
        self._interrupting = threading.Lock()

    def connect(self) -> bool:
        with _translated():
            self._connection = self._dial()
            self._connection.execute(SQL("LISTEN {}").format(Identifier(CHANNEL)))
        return False

    def hear(self, hearer: Hearer) -> None:
        assert self._connection is not None
        with _translated(), selectors.DefaultSelector() as ready:
            # First what has come already, of which the descriptor says nothing any more.
            for told in self._connection.notifies(timeout=0):
                hear(told.payload, self._origin, hearer)
            ready.register(self._connection, selectors.EVENT_READ)
            ready.register(self._wake, selectors.EVENT_READ)
            ready.select()

    def interrupt(self) -> None:
        with self._interrupting:
            if self._open:
                os.write(self._waker, b"x")

    def disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def close(self) -> None:
        with self._interrupting:
            self._open = False
            os.close(self._wake)
            os.close(self._waker)

    def tell(self, library: str, sid: str, text: str) -> None:
        self._notify(of_progress(self._origin, library, sid, text))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise StorageUnavailable("The database does not answer.") from error
