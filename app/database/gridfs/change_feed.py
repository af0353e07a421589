"""Changes of other processes on one MongoDB database: a change stream, which only replica sets have."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from bson.errors import BSONError
from pymongo.change_stream import DatabaseChangeStream
from pymongo.errors import CollectionInvalid, OperationFailure, PyMongoError

from app.database.gridfs import own_writes
from app.database.gridfs.connection import IMAGES, MongoDatabase, map_error
from app.database.gridfs.documents import MALFORMED, RawDocument, parse_info
from app.database.gridfs.own_writes import Mark
from app.events.feed import ChangeFeed, Message
from app.storage.errors import StorageError, StorageUnavailable
from app.storage.types import Change, ChangeKind, Key

KEY_FIELDS = ("library", "folder", "filename")

PROGRESS_BYTES = 1 << 20
"""The size of the capped collection of messages about uploads."""

NO_IMAGES = (
    "MongoDB keeps no images of documents before a change: it is older than 6.0, or this user may not run "
    "collMod. WebSockets receive a resync for each replacement, move or deletion by another process. To "
    "receive events instead, update MongoDB, or grant the role dbAdmin."
)

ALONE = "MongoDB is not a replica set: WebSockets receive no events of other processes."

RESUMABLE = "ResumableChangeStreamError"
"""MongoDB's label for errors after which the stream can resume from the same place."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StreamEvent:
    """An event of the change stream that concerns clients."""

    change: Change | None
    """None if the event does not contain enough to describe the change."""
    mark: Mark | None = None
    """The mark of the write, by which its own process recognises it."""


def parse_event(event: Mapping[str, Any]) -> StreamEvent | None:
    """Return the event; None if it does not concern clients, such as a new hash of a file."""
    try:
        return _parse(event)
    except MALFORMED:  # a document that another program wrote
        return StreamEvent(None)


def _parse(event: Mapping[str, Any]) -> StreamEvent | None:
    before, after = event.get("fullDocumentBeforeChange"), _after(event)
    match event["operationType"]:
        case "insert":
            return StreamEvent(
                Change(ChangeKind.CREATED, parse_info(after)), own_writes.stored(after["file"])
            )
        case "delete":
            mark = own_writes.deleted(event["documentKey"]["_id"])
            return StreamEvent(
                None if before is None else Change(ChangeKind.DELETED, parse_info(before)), mark
            )
        case "update" | "replace":
            return _parse_update(before, after)
    return StreamEvent(None)  # the collection was dropped or renamed


def _after(event: Mapping[str, Any]) -> RawDocument:
    """Return the document after the change; of an update without an earlier image, the updated fields."""
    if event["operationType"] != "update":
        return dict(event.get("fullDocument") or {})
    return {**(event.get("fullDocumentBeforeChange") or {}), **event["updateDescription"]["updatedFields"]}


def _parse_update(before: RawDocument | None, after: RawDocument) -> StreamEvent | None:
    if before is None:  # the server keeps no images of documents before a change
        if "file" in after:
            return StreamEvent(None, own_writes.stored(after["file"]))
        return StreamEvent(None) if any(name in after for name in (*KEY_FIELDS, "etag")) else None
    if before["file"] != after["file"]:
        return StreamEvent(Change(ChangeKind.REPLACED, parse_info(after)), own_writes.stored(after["file"]))
    if any(before[name] != after[name] for name in KEY_FIELDS):
        previous = Key(*(before[name] for name in KEY_FIELDS))
        mark = own_writes.moved(after["_id"], *(after[name] for name in KEY_FIELDS))
        return StreamEvent(Change(ChangeKind.MOVED, parse_info(after), previous), mark)
    if before["etag"] != after["etag"]:
        return StreamEvent(Change(ChangeKind.REPLACED, parse_info(after)))
    return None


def open_change_source(database: MongoDatabase) -> "MongoChangeSource | None":
    """Return the source of other processes' changes. Returns None if the server is not a replica set."""
    with database.operation():
        replicated = database.is_replicated()
    if not replicated:
        log.info(ALONE)
        return None
    return MongoChangeSource(database)


class MongoChangeSource:
    """`change_listener.ChangeSource` over MongoDB, whose oplog keeps changes for disconnected processes."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database
        self._origin = uuid4().hex
        self._stream: DatabaseChangeStream[RawDocument] | None = None
        self._token: Mapping[str, Any] | None = None
        self._is_prepared = False
        self._has_progress = False

    def connect(self) -> bool:
        if not self._is_prepared:
            self._keep_images()
            self._is_prepared = True
        token, own_writes = self._token, self._database.own_writes
        if token is None:
            own_writes.clear()
        own_writes.enabled = True
        try:
            with self._database.operation():
                self._stream = self._database.media.database.watch(
                    [{"$match": self._filter()}],
                    full_document_before_change="whenAvailable",
                    resume_after=token,
                )
        except StorageError as error:
            self._forget_token_after(error.__cause__)
            raise
        self._token = self._stream.resume_token
        return token is not None

    def receive(self, feed: ChangeFeed) -> None:
        stream = self._stream
        assert stream is not None
        try:
            event = stream.try_next()
        except (PyMongoError, BSONError) as error:
            self._forget_token_after(error)
            raise map_error(error) from error
        if event is not None:
            self._pass_on(event, feed)
        elif not stream.alive:
            self._token = None
            raise StorageUnavailable("The database was dropped. Start the server again.")
        self._token = stream.resume_token

    def interrupt(self) -> None:
        # Killing the cursor ends the `try_next` that waits for it.
        self.disconnect()

    def disconnect(self) -> None:
        stream = self._stream
        if stream is not None:
            with suppress(PyMongoError):
                stream.close()

    def close(self) -> None:
        """Do nothing: the connections belong to the database."""

    def send(self, message: Message) -> None:
        with self._database.operation():
            if not self._has_progress:
                with suppress(CollectionInvalid, OperationFailure):  # it exists
                    self._database.progress.database.create_collection(
                        self._database.progress.name, capped=True, size=PROGRESS_BYTES
                    )
                self._has_progress = True
            self._database.progress.insert_one({"origin": self._origin, **message._asdict()})

    def _pass_on(self, event: RawDocument, feed: ChangeFeed) -> None:
        if event["ns"].get("coll") == self._database.progress.name:
            document = event["fullDocument"]
            if document.get("origin") != self._origin:
                feed.send_threadsafe(Message(*(str(document.get(name)) for name in Message._fields)))
            return
        parsed = parse_event(event)
        if parsed is None or (parsed.mark is not None and self._database.own_writes.take(parsed.mark)):
            return
        if parsed.change is None:
            feed.resync_threadsafe()
        else:
            feed.publish_threadsafe([parsed.change])

    def _filter(self) -> RawDocument:
        media, progress = self._database.media.name, self._database.progress.name
        relevant = [
            {f"updateDescription.updatedFields.{name}": {"$exists": True}}
            for name in (*KEY_FIELDS, "file", "etag")
        ]
        whole = ["insert", "replace", "delete", "drop", "rename"]
        return {
            "$or": [
                {"ns.coll": media, "operationType": {"$in": whole}},
                {"ns.coll": media, "operationType": "update", "$or": relevant},
                {"ns.coll": progress, "operationType": "insert"},
                {"operationType": {"$in": ["dropDatabase", "invalidate"]}},
            ]
        }

    def _keep_images(self) -> None:
        """Make the server keep images of documents before a change, even in an older collection."""
        media = self._database.media
        with self._database.operation():
            (found,) = media.database.list_collections(filter={"name": media.name})
        if found["options"].get("changeStreamPreAndPostImages", {}).get("enabled"):
            return
        try:
            with self._database.operation():
                media.database.command("collMod", media.name, **IMAGES)
        except StorageError as error:
            if not isinstance(error.__cause__, OperationFailure):
                raise
            log.warning(NO_IMAGES)

    def _forget_token_after(self, error: BaseException | None) -> None:
        """Give up the place in the oplog if the database refuses to resume there, or if the next event is
        malformed (another program wrote it), because resuming would fail again and again."""
        refused = isinstance(error, OperationFailure) and not error.has_error_label(RESUMABLE)
        if refused or isinstance(error, BSONError):
            self._token = None
