"""How processes on one MongoDB hear of one another: by a change stream, which only replica sets have."""

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
from app.database.gridfs.connection import IMAGES, Database, told
from app.database.gridfs.documents import NOT_LIKE_OURS, Stored, info_in
from app.database.gridfs.own_writes import Mark
from app.database.relay import Hearer
from app.storage.errors import StorageError, StorageUnavailable
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
            return Heard(Change(Kind.CREATED, info_in(after)), own_writes.stored(after["file"]))
        case "delete":
            mark = own_writes.deleted(event["documentKey"]["_id"])
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
            return Heard(None, own_writes.stored(after["file"]))
        return Heard(None) if any(name in after for name in (*PLACE, "etag")) else None
    if before["file"] != after["file"]:
        return Heard(Change(Kind.REPLACED, info_in(after)), own_writes.stored(after["file"]))
    if any(before[name] != after[name] for name in PLACE):
        previous = Key(*(before[name] for name in PLACE))
        mark = own_writes.moved(after["_id"], *(after[name] for name in PLACE))
        return Heard(Change(Kind.MOVED, info_in(after), previous), mark)
    if before["etag"] != after["etag"]:
        return Heard(Change(Kind.REPLACED, info_in(after)))
    return None


PROGRESS_BYTES = 1 << 20
"""What is kept of the progress of uploads; older is gone."""

NO_IMAGES = (
    "MongoDB keeps no documents as they were before a change (it is older than 6.0, or this user may not "
    "collMod, as those with the role dbAdmin may): what other processes replace, move or delete is told to "
    "WebSockets here as a resync."
)

ALONE = "MongoDB is no replica set and so has no change streams: events stay within this process."

RESUMABLE = "ResumableChangeStreamError"
"""How the database labels errors after which it can be gone on from the same place."""

_log = logging.getLogger("seekable")


def line_of(database: Database) -> "Listening | None":
    """How to hear of other processes on this database, if that can be."""
    with database.asked():
        replicated = database.is_replicated()
    if not replicated:
        _log.info(ALONE)
        return None
    return Listening(database)


class Listening:
    """`relay.Line` over MongoDB. What nobody listens to is kept in the oplog, for as long as that is."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._origin = uuid4().hex
        self._stream: DatabaseChangeStream[Stored] | None = None
        self._token: Mapping[str, Any] | None = None
        self._is_prepared = False
        self._has_progress = False

    def connect(self) -> bool:
        if not self._is_prepared:
            self._keep_images()
            self._is_prepared = True
        token, own = self._token, self._database.own
        if token is None:
            own.forget()
        own.counts = True
        try:
            with self._database.asked():
                self._stream = self._database.media.database.watch(
                    [{"$match": self._wanted()}],
                    full_document_before_change="whenAvailable",
                    resume_after=token,
                )
        except StorageError as error:
            self._note(error.__cause__)
            raise
        self._token = self._stream.resume_token
        return token is not None

    def hear(self, hearer: Hearer) -> None:
        stream = self._stream
        assert stream is not None
        try:
            event = stream.try_next()
        except (PyMongoError, BSONError) as error:
            self._note(error)
            raise told(error) from error
        if event is not None:
            self._hand_on(event, hearer)
        elif not stream.alive:
            self._token = None
            raise StorageUnavailable("The database is no longer there.")
        self._token = stream.resume_token

    def interrupt(self) -> None:
        # Its cursor is killed, so that who waits for it is answered.
        self.disconnect()

    def disconnect(self) -> None:
        stream = self._stream
        if stream is not None:
            with suppress(PyMongoError):
                stream.close()

    def close(self) -> None:
        """The connections are those of the database."""

    def tell(self, library: str, sid: str, text: str) -> None:
        with self._database.asked():
            if not self._has_progress:
                with suppress(CollectionInvalid, OperationFailure):  # it is there
                    self._database.progress.database.create_collection(
                        self._database.progress.name, capped=True, size=PROGRESS_BYTES
                    )
                self._has_progress = True
            self._database.progress.insert_one(
                {"origin": self._origin, "library": library, "sid": sid, "text": text}
            )

    def _hand_on(self, event: Stored, hearer: Hearer) -> None:
        if event["ns"].get("coll") == self._database.progress.name:
            said = event["fullDocument"]
            if said.get("origin") != self._origin:
                hearer.progressed(*(str(said.get(name)) for name in ("library", "sid", "text")))
            return
        news = heard(event)
        if news is None or (news.mark is not None and self._database.own.is_own(news.mark)):
            return
        if news.change is None:
            hearer.missed()
        else:
            hearer.changed([news.change])

    def _wanted(self) -> Stored:
        media, progress = self._database.media.name, self._database.progress.name
        news = [
            {f"updateDescription.updatedFields.{name}": {"$exists": True}}
            for name in (*PLACE, "file", "etag")
        ]
        whole = ["insert", "replace", "delete", "drop", "rename"]
        return {
            "$or": [
                {"ns.coll": media, "operationType": {"$in": whole}},
                {"ns.coll": media, "operationType": "update", "$or": news},
                {"ns.coll": progress, "operationType": "insert"},
                {"operationType": {"$in": ["dropDatabase", "invalidate"]}},
            ]
        }

    def _keep_images(self) -> None:
        """Let the database remember what a document was that was changed, for as long as its oplog, even if
        an older version made the collection."""
        media = self._database.media
        with self._database.asked():
            (found,) = media.database.list_collections(filter={"name": media.name})
        if found["options"].get("changeStreamPreAndPostImages", {}).get("enabled"):
            return
        try:
            with self._database.asked():
                media.database.command("collMod", media.name, **IMAGES)
        except StorageError as error:
            if not isinstance(error.__cause__, OperationFailure):
                raise
            _log.warning(NO_IMAGES)

    def _note(self, error: BaseException | None) -> None:
        """The place in the oplog is of no more use if the database refuses to go on from there, or what
        comes next cannot be read, of another program: it would come again and again."""
        refused = isinstance(error, OperationFailure) and not error.has_error_label(RESUMABLE)
        if refused or isinstance(error, BSONError):
            self._token = None
