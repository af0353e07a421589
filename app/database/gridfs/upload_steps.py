"""The steps that commit a group of small uploads, as commands and calls that a caller runs.

A group takes seven commands at most, however many files it has: find what is stored at and around the keys;
lease ids for the files, unless the stock has some; insert their chunks; insert their documents of `fs.files`;
insert or update their documents of `media`; find new path conflicts; end the leases. It waits four times for
the database: some are sent together.

On a replica set only the fifth waits until the disks of a majority have the write. The writes before it
precede it in the oplog, so they are durable with it, if one primary made them all: replies carry its term.
If the primary changed meanwhile, each file is examined before its upload is acknowledged. If this process
crashes before that, at most a document without a file remains, which a scan removes. Without a replica set
there are no terms, and each write waits.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

from bson import Int64, ObjectId
from pymongo.collection import Collection
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.write_concern import WriteConcern

from app.database.gridfs import own_writes
from app.database.gridfs.bucket import FOREIGN, file_document
from app.database.gridfs.connection import DURABLE, UNCONFIRMED, MongoDatabase, map_error
from app.database.gridfs.documents import (
    BY_KEY,
    MALFORMED,
    RawDocument,
    key_fields,
    parse_info,
    unchanged_document,
)
from app.database.gridfs.garbage_collection import (
    begin_lease,
    end_lease,
    end_lease_command,
    is_claimed,
    lease_command,
    remove_file,
    retire,
    retire_command,
)
from app.database.gridfs.lease_stock import LeasedId, LeaseStock
from app.database.gridfs.writes import (
    LOOKUP_TIMEOUT_S,
    MediaWrites,
    OccupiedPaths,
    files_in,
    path_conflicts,
)
from app.http.dates import modification_date
from app.storage.errors import PathConflict, StorageError
from app.storage.ignored_names import IgnoredNames
from app.storage.types import Committed, Expectation, Key, check_expectation

T = TypeVar("T")

Step = list[RawDocument] | Callable[[], Any]
"""Commands, to be sent in this order, or a call that blocks."""

Steps = Generator[Step, Any, T]
"""Yields steps, and receives the replies to the commands, or the result of the call.

Each command may be repeated if its reply was lost. The step raises StorageError if one cannot be sent, or has
an error as its reply; errors of single writes are in the replies.
"""


@dataclass(eq=False, slots=True)
class GroupedUpload:
    """A small file, and the result of its commit: `committed`, `error`, or neither if it must go alone."""

    key: Key
    data: bytes
    sha256: str
    content_type: str
    expect: Expectation
    is_utf8: bool | None
    committed: Committed | None = None
    error: BaseException | None = None
    file: ObjectId = field(default_factory=ObjectId)
    old: RawDocument | None = None
    """The document of the version that it replaces."""
    document: RawDocument = field(default_factory=dict)
    turn: threading.Event = field(default_factory=threading.Event)
    """Set when the upload has its result, or when its thread has to commit the next group."""
    has_ended: bool = False

    @property
    def unchanged(self) -> RawDocument:
        return unchanged_document(self.document)


class UploadGroup:
    """The commit of one group. Each step may end some uploads, and passes on the others."""

    def __init__(
        self,
        database: MongoDatabase,
        writes: MediaWrites,
        ignored: IgnoredNames,
        stock: LeaseStock,
        chunk_size: int,
        uploads: Sequence[GroupedUpload],
    ) -> None:
        self._database = database
        self._writes = writes
        self._ignored = ignored
        self._stock = stock
        self._chunk_size = chunk_size
        self._uploads = uploads
        self._has_terms = database.has_terms()
        self._term: Any = None
        self._concern = UNCONFIRMED if self._has_terms else DURABLE
        self._leases: list[LeasedId] = []
        self._has_same_term = False  # for the documents, as for the files

    def steps(self) -> Steps[None]:
        try:
            uploads = yield from self._plan()
            is_stored = bool(uploads) and (yield from self._store_files(uploads))
        except StorageError as error:
            if has_timed_out(error):
                raise
            is_stored = False
        if not is_stored:  # each tries again alone, and a sweep removes the remains
            if self._leases:
                yield self._lease_again
            return
        uploads = yield from self._refer(uploads)
        uploads = yield from self._confirm(uploads)
        for upload in uploads:
            upload.committed = Committed(parse_info(upload.document), upload.old is None)

    def _lease_again(self) -> None:
        """Lease the files that may be stored, if the primary has changed and the leases are lost."""
        with suppress(StorageError), self._database.operation():
            for leased in self._leases:
                begin_lease(self._database, leased.file)

    def _plan(self) -> Steps[list[GroupedUpload]]:
        """Find the versions that the uploads replace. Return those that the group can store, with leases."""
        uploads = self._uploads
        names: dict[tuple[str, str], set[str]] = defaultdict(set)
        for upload in uploads:
            names[upload.key.library, upload.key.folder].add(upload.key.filename)
        filters = [*files_in(names), *path_conflicts(upload.key for upload in uploads)]
        most = len(uploads) + 1
        commands = [_find(self._database.media, {"$or": filters}, limit=most, hint=dict(BY_KEY))]
        leases = self._stock.take(len(uploads))
        ordered = self._stock.order(len(uploads) - len(leases)) if len(leases) < len(uploads) else []
        if ordered:
            lease = lease_command(self._database, [leased.file for leased in ordered])
            commands.append(self._write(lease))
        found, *written = yield commands
        for reply in written:
            _check(reply)
            for leased in ordered:
                leased.term = _term(reply)
        leases += ordered
        for upload, leased in zip(uploads, leases, strict=False):
            upload.file = leased.file
        planned = yield from self._compare(_documents(found), most)
        files = {upload.file for upload in planned}
        self._leases = [leased for leased in leases if leased.file in files]
        self._stock.give([leased for leased in leases if leased.file not in files])
        return planned

    def _compare(self, found: list[RawDocument], most: int) -> Steps[list[GroupedUpload]]:
        """Compare the uploads with the documents found. Return those that the group can store."""
        try:
            stored = {Key(each["library"], each["folder"], each["filename"]): each for each in found}
        except MALFORMED:
            return []
        if len(found) == most:  # there may be more conflicts
            return []
        planned = []
        paths = OccupiedPaths(stored)
        for upload in self._uploads:
            if not paths.conflicts_with(upload.key):
                upload.old = stored.get(upload.key)
                if self._expects(upload):
                    planned.append(upload)
        return (yield from self._without_foreign(planned))

    def _expects(self, upload: GroupedUpload) -> bool:
        """Compare the version that an upload replaces. Return whether the group can store it."""
        now = datetime.now(UTC)
        now = now.replace(microsecond=now.microsecond // 1000 * 1000)  # as MongoDB stores it
        identity, created_at, updated_at = uuid4().hex, now, now
        try:
            if upload.old is not None:
                unchanged_document(upload.old)
                old = parse_info(upload.old)
                identity, created_at = old.id, old.created_at
                updated_at = modification_date(now, old.updated_at, now)
        except MALFORMED:
            return False
        try:
            etag = None if upload.old is None else str(upload.old["etag"])
            check_expectation(upload.key, etag, upload.expect)
        except StorageError as error:
            upload.error = error
            return False
        upload.document = {
            "_id": identity,
            **key_fields(upload.key, self._ignored),
            "file": upload.file,
            "size": Int64(len(upload.data)),
            "chunk_size": self._chunk_size,
            "content_type": upload.content_type,
            "etag": upload.sha256,
            "sha256": upload.sha256,
            "unverified": False,
            "created_at": created_at,
            "updated_at": updated_at,
            "is_utf8": upload.is_utf8,
        }
        return True

    def _without_foreign(self, uploads: list[GroupedUpload]) -> Steps[list[GroupedUpload]]:
        """Return the uploads that replace no file of another program: its older versions need care."""
        old = [upload.old["file"] for upload in uploads if upload.old is not None]
        if not old:
            return uploads
        query = {"_id": {"$in": old}, **FOREIGN}
        [reply] = yield [_find(self._database.files, query, limit=len(old), projection={"_id": True})]
        foreign = [file["_id"] for file in _documents(reply)]
        return [upload for upload in uploads if upload.old is None or upload.old["file"] not in foreign]

    def _store_files(self, uploads: Sequence[GroupedUpload]) -> Steps[bool]:
        """Store the files of the bucket, and schedule the removal of those that they replace.

        Returns False if the primary has changed: then it is unknown which of them, and which leases, are
        stored.
        """
        database = self._database
        commands: list[RawDocument] = []
        if old := [upload.old["file"] for upload in uploads if upload.old is not None]:
            commands.append(self._write(retire_command(database, old)))
        if chunks := [chunk for upload in uploads for chunk in self._chunks(upload)]:
            commands.append(self._write(_insert(database.chunks, chunks)))
        files = [self._file(upload) for upload in uploads]
        commands.append(self._write(_insert(database.files, files)))
        replies = yield commands
        for reply in replies:
            _check(reply)
        self._term = _term(replies[-1])
        return self._are_same_term(replies) and all(each.term == self._term for each in self._leases)

    def _chunks(self, upload: GroupedUpload) -> Iterator[RawDocument]:
        for n, start in enumerate(range(0, len(upload.data), self._chunk_size)):
            data = upload.data[start : start + self._chunk_size]
            yield {"_id": ObjectId(), "files_id": upload.file, "n": n, "data": data}

    def _file(self, upload: GroupedUpload) -> RawDocument:
        return file_document(
            upload.file,
            upload.key,
            size=len(upload.data),
            chunk_size=self._chunk_size,
            content_type=upload.content_type,
            sha256=upload.sha256,
        )

    def _refer(self, uploads: list[GroupedUpload]) -> Steps[list[GroupedUpload]]:
        """Make documents refer to the files. Return the uploads of which that is known to have succeeded.

        The others lost a race, and go alone; if the outcome stays unknown, they fail.
        """
        marks = {upload: own_writes.stored(upload.file) for upload in uploads}
        with self._database.own_writes.in_progress(marks.values()) as made:
            referred = yield from self._write_documents(uploads)
            made.update(marks[upload] for upload in referred)
        if lost := [upload for upload in uploads if upload not in referred and upload.error is None]:
            yield partial(self._remove, lost)
        return referred

    def _write_documents(self, uploads: list[GroupedUpload]) -> Steps[list[GroupedUpload]]:
        media, error = self._database.media, None
        commands: list[RawDocument] = []
        if new := [upload.document for upload in uploads if upload.old is None]:
            commands.append(self._write(_insert(media, new), DURABLE))
        if updates := [_update(upload.old, upload.document) for upload in uploads if upload.old is not None]:
            update = {"update": media.name, "updates": updates, "ordered": False}
            commands.append(self._write(update, DURABLE))
        try:
            replies = yield commands
            self._has_same_term = self._are_same_term(replies)
            for reply in replies:
                _check(reply, refusals=False)
            if sum(reply["n"] for reply in replies) == len(uploads):
                return uploads
        except StorageError as failure:
            error = failure
        files = yield partial(self._find_files, uploads, error)
        for upload in uploads:
            if upload.file not in files:
                upload.error = error
        return [upload for upload in uploads if upload.file in files]

    def _find_files(self, uploads: list[GroupedUpload], error: StorageError | None) -> set[Any]:
        """Return the files to which documents refer. Raises the error, if given, if that stays unknown."""
        try:
            with self._database.operation(LOOKUP_TIMEOUT_S, fail_fast=False):
                query = {"file": {"$in": [upload.file for upload in uploads]}}
                return {found["file"] for found in self._database.media.find(query, {"file": True})}
        except StorageError:
            if error is None:
                raise
            raise error from error.__cause__

    def _remove(self, uploads: list[GroupedUpload]) -> None:
        for upload in uploads:
            remove_file(self._database, upload.file)

    def _confirm(self, uploads: list[GroupedUpload]) -> Steps[list[GroupedUpload]]:
        """End the leases. Return the uploads that are proven to be stored, and have no path conflict.

        A sweep that has claimed a file prevents the end of its lease.
        """
        if not uploads:
            return []
        commands = []
        new = [upload for upload in uploads if upload.old is None]
        if new:
            query = {"$or": path_conflicts(upload.key for upload in new)}
            hint = dict(BY_KEY)
            commands.append(_find(self._database.media, query, limit=1, hint=hint, projection={"_id": True}))
        end = end_lease_command(self._database, [upload.file for upload in uploads])
        *found, ended = yield [*commands, self._write(end, UNCONFIRMED)]
        _check(ended)
        is_proven = ended["n"] == len(uploads) and self._has_same_term and self._are_same_term([ended])
        if any(_documents(reply) for reply in found):
            yield partial(self._withdraw, new)
            uploads = [upload for upload in uploads if upload.error is None]
        if is_proven:
            return uploads
        yield partial(self._examine, uploads)
        return [upload for upload in uploads if upload.error is None]

    def _withdraw(self, uploads: list[GroupedUpload]) -> None:
        """Withdraw new files whose paths conflict with others that were added meanwhile."""
        for upload in uploads:
            try:
                with self._database.operation():
                    begin_lease(self._database, upload.file)
                self._writes.withdraw_if_conflicting(upload.key, upload.unchanged)
                with self._database.operation():
                    end_lease(self._database, upload.file)
            except StorageError as error:
                upload.error = error
                if isinstance(error, PathConflict):
                    remove_file(self._database, upload.file)

    def _examine(self, uploads: list[GroupedUpload]) -> None:
        """Examine whether each file is stored. Undo the change of its document if it is not."""
        for upload in uploads:
            self._is_whole(upload)

    def _is_whole(self, upload: GroupedUpload) -> bool:
        """Examine whether the file is stored. Undo the change of its document if it is not."""
        database, file = self._database, upload.file
        try:
            with database.operation():
                # A sweep that has ended has removed the file, so the order matters.
                whole = (
                    not is_claimed(database, file)
                    and database.files.find_one({"_id": file}, {"_id": True}) is not None
                    and database.chunks.count_documents({"files_id": file}) == len([*self._chunks(upload)])
                )
                if whole:
                    if upload.old is not None:
                        retire(database, upload.old["file"])
                    end_lease(database, file)
            if not whole:
                self._writes.give_up(upload.unchanged, upload.old)
        except StorageError as error:
            upload.error = error
        return upload.error is None

    def _write(self, command: RawDocument, concern: WriteConcern | None = None) -> RawDocument:
        return {**command, "writeConcern": (concern or self._concern).document}

    def _are_same_term(self, replies: Sequence[RawDocument]) -> bool:
        """Return whether the primary that stored the files made all these writes."""
        if self._term is None and self._has_terms:
            return False
        return all(_term(reply) == self._term for reply in replies)


def _find(
    collection: Collection[RawDocument], query: RawDocument, *, limit: int, **options: Any
) -> RawDocument:
    return {
        "find": collection.name,
        "filter": query,
        **options,
        "limit": limit,
        "batchSize": limit,
        "singleBatch": True,
        "readConcern": {"level": "majority"},
    }


def _documents(reply: RawDocument) -> list[RawDocument]:
    documents: list[RawDocument] = reply["cursor"]["firstBatch"]
    return documents


def _insert(collection: Collection[RawDocument], documents: list[RawDocument]) -> RawDocument:
    return {"insert": collection.name, "documents": documents, "ordered": False}


def _update(old: RawDocument, new: RawDocument) -> RawDocument:
    return {"q": unchanged_document(old), "u": {"$set": new}}


def _check(reply: RawDocument, *, refusals: bool = True) -> None:
    """Raise the storage error for an error of single writes, the `refusals`, or of the write concern."""
    errors = [*(reply.get("writeErrors", ()) if refusals else ()), reply.get("writeConcernError")]
    for error in errors:
        if error is not None:
            failure = OperationFailure(error.get("errmsg", ""), error.get("code"), error)
            raise map_error(failure) from failure


def _term(reply: RawDocument) -> Any:
    """Return the term of the primary that made a write; None without a replica set."""
    position = reply.get("opTime")
    return position.get("t") if isinstance(position, dict) else None


def has_timed_out(error: BaseException | None) -> bool:
    """Return whether a step failed because the database did not answer in time."""
    cause = None if error is None else error.__cause__
    return isinstance(cause, TimeoutError) or (isinstance(cause, PyMongoError) and cause.timeout)
