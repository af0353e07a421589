"""Notifications between the processes on one PostgreSQL database, by LISTEN and NOTIFY."""

import json
import os
import selectors
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from app.database.sql.liveness import WatchedConnection
from app.events.feed import ChangeFeed, Message
from app.storage.errors import InvalidName, StorageUnavailable
from app.storage.types import Change, ChangeKind, FileInfo, Key

CHANNEL = "seekable"
"""The channel of the notifications. PostgreSQL delivers them within the database only."""

MAX_PAYLOAD_BYTES = 7999
"""The limit of PostgreSQL for one notification."""

MAX_CHANGES = 32
"""Changes of one transaction that are sent in full. Of more, only the libraries are sent."""

_MALFORMED = (KeyError, TypeError, ValueError, InvalidName)


def change_payloads(origin: str, changes: Sequence[Change]) -> list[str]:
    """Return the notifications of changes that the process `origin` makes in one transaction."""
    if len(changes) <= MAX_CHANGES:
        payloads = [_payload(origin, changed=_encoded(change)) for change in changes]
        if all(_fits(payload) for payload in payloads):
            return payloads
    libraries = {change.info.key.library for change in changes}
    return [_payload(origin, missed=library) for library in sorted(libraries)]


def message_payloads(origin: str, message: Message) -> list[str]:
    """Return the notification of a message; an empty list if it is too long."""
    payload = _payload(origin, progressed=list(message))
    return [payload] if _fits(payload) else []


def receive_payload(payload: str, origin: str, feed: ChangeFeed) -> None:
    """Pass a notification to the feed, unless the process `origin` itself sent it."""
    try:
        content = json.loads(payload)
        if content["origin"] == origin:
            return
        if "changed" in content:
            feed.publish_threadsafe([_decoded(content["changed"])])
        elif "progressed" in content:
            library, sid, text = map(str, content["progressed"])
            feed.send_threadsafe(Message(library, sid, text))
        else:
            feed.resync_threadsafe([str(content["missed"])])
    except _MALFORMED:  # for example, from a newer version
        feed.resync_threadsafe()


def _fits(payload: str) -> bool:
    return len(payload.encode()) <= MAX_PAYLOAD_BYTES


def _payload(origin: str, **content: object) -> str:
    return json.dumps({"origin": origin, **content}, ensure_ascii=False, separators=(",", ":"))


def _encoded(change: Change) -> dict[str, object]:
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


def _decoded(fields: Mapping[str, Any]) -> Change:
    library, previous = fields["library"], fields["previous"]
    info = FileInfo(
        id=fields["id"],
        key=Key.at(library, fields["path"]),
        size=int(fields["size"]),
        content_type=fields["content_type"],
        etag=fields["etag"],
        sha256=fields["sha256"],
        created_at=datetime.fromisoformat(fields["created_at"]),
        updated_at=datetime.fromisoformat(fields["updated_at"]),
        # Servers of earlier releases do not send these.
        is_utf8=fields.get("is_utf8"),
        doubtful=bool(fields.get("doubtful")),
        other_etag=fields.get("other_etag"),
    )
    return Change(ChangeKind(fields["kind"]), info, None if previous is None else Key.at(library, previous))


class PostgresqlChangeSource:
    """`change_listener.ChangeSource` over PostgreSQL, which keeps no notification for a process that is away.

    `origin` identifies this process. `connect` opens a connection, and `notify` sends notifications.
    """

    def __init__(
        self, origin: str, connect: Callable[[], WatchedConnection], notify: Callable[[Sequence[str]], None]
    ) -> None:
        self._origin, self._open_connection, self._notify = origin, connect, notify
        self._connection: WatchedConnection | None = None
        self._wake, self._waker = os.pipe()
        self._open = True
        self._interrupting = threading.Lock()

    def connect(self) -> bool:
        with _map_errors():
            self._connection = self._open_connection()
            self._connection.execute(SQL("LISTEN {}").format(Identifier(CHANNEL)))
        return False

    def receive(self, feed: ChangeFeed) -> None:
        assert self._connection is not None
        with _map_errors(), selectors.DefaultSelector() as ready:
            # First the notifications that libpq has read already: the descriptor is not ready for those.
            for notification in self._connection.notifies(timeout=0):
                receive_payload(notification.payload, self._origin, feed)
            ready.register(self._connection, selectors.EVENT_READ)
            ready.register(self._wake, selectors.EVENT_READ)
            ready.select()

    def interrupt(self) -> None:
        with self._interrupting:
            if self._open:
                os.write(self._waker, b"x")

    def disconnect(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def close(self) -> None:
        with self._interrupting:
            self._open = False
            os.close(self._wake)
            os.close(self._waker)

    def send(self, message: Message) -> None:
        self._notify(message_payloads(self._origin, message))


@contextmanager
def _map_errors() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise StorageUnavailable("The database does not answer.") from error
