"""Small uploads, of which those that wait at the same time are written together.

A group takes seven commands, however many files it has: find what is stored at and around the keys; lease
the files; insert their chunks; insert their documents of `fs.files`; insert or update their documents of
`media`; find new path conflicts; end the leases.

On a replica set only the fifth waits until the disks of a majority have the write. The writes before it
precede it in the oplog, so they are durable with it, if one primary made them all: replies carry its term.
If the primary changed meanwhile, each file is examined before its upload is acknowledged. If this process
crashes before that, at most a document without a file remains, which a scan removes. Without a replica set
there are no terms, and each write waits.
"""

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from bson import Int64, ObjectId
from pymongo import InsertOne, UpdateOne
from pymongo.errors import AutoReconnect, BulkWriteError, OperationFailure, PyMongoError
from pymongo.write_concern import WriteConcern

from app.database.gridfs import own_writes
from app.database.gridfs.bucket import FOREIGN, file_document
from app.database.gridfs.connection import DURABLE, UNCONFIRMED, MongoDatabase
from app.database.gridfs.documents import (
    BY_KEY,
    MALFORMED,
    RawDocument,
    key_fields,
    parse_info,
    unchanged_document,
)
from app.database.gridfs.garbage_collection import (
    end_lease,
    end_lease_command,
    is_claimed,
    lease_command,
    remove_file,
    retire,
)
from app.database.gridfs.writes import (
    LOOKUP_TIMEOUT_S,
    MediaWrites,
    files_in,
    find_path_conflict,
    is_path_conflict,
    path_conflicts,
)
from app.http.dates import modification_date
from app.storage.errors import PathConflict, StorageError
from app.storage.ignored_names import IgnoredNames
from app.storage.types import Committed, Expectation, Key, check_expectation

MAX_GROUP_BYTES = 2 << 20
"""Bytes of all files of a group, unless it has only one."""


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
    error: Exception | None = None
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


def choose_group(waiting: Sequence[GroupedUpload]) -> list[GroupedUpload]:
    """Return the first upload and those that can be committed with it: of no equal or conflicting path."""
    group: list[GroupedUpload] = []
    size = 0
    for upload in waiting:
        size += len(upload.data)
        if group and size > MAX_GROUP_BYTES:
            break
        if not any(upload.key == other.key or is_path_conflict(upload.key, other.key) for other in group):
            group.append(upload)
    return group


class UploadGroups:
    """Commits small uploads. Thread-safe.

    The thread that finds no other at work commits all uploads that wait, then hands over to one of those that
    arrived meanwhile.
    """

    def __init__(
        self, database: MongoDatabase, writes: MediaWrites, ignored: IgnoredNames, chunk_size: int
    ) -> None:
        self._database = database
        self._writes = writes
        self._ignored = ignored
        self._chunk_size = chunk_size
        self._lock = threading.Lock()  # guards the following
        self._waiting: list[GroupedUpload] = []
        self._is_busy = False

    def commit(self, upload: GroupedUpload) -> Committed | None:
        """Return when the upload is durable; None if it must be committed alone, from its beginning.

        Raises AlreadyExists, VersionMismatch, PathConflict, StorageUnavailable, OutOfSpace.
        """
        with self._lock:
            self._waiting.append(upload)
            is_first, self._is_busy = not self._is_busy, True
        if not is_first:
            upload.turn.wait()
        if not upload.has_ended:
            self._commit_waiting()
        if upload.error is not None:
            raise copy(upload.error) from upload.error  # other threads may raise the same one
        return upload.committed

    def _commit_waiting(self) -> None:
        with self._lock:
            group = choose_group(self._waiting)
            self._waiting = [upload for upload in self._waiting if upload not in group]
        try:
            _Group(self._database, self._writes, self._ignored, self._chunk_size, group).commit()
        except Exception as error:
            for upload in group:
                if upload.committed is None and upload.error is None:
                    upload.error = error
        finally:
            with self._lock:
                successor = next(iter(self._waiting), None)
                self._is_busy = successor is not None
            if successor is not None:
                successor.turn.set()
            for upload in group:
                upload.has_ended = True
                upload.turn.set()


class _Group:
    """The uploads of one group. Each step may end some of them, and passes on the others."""

    def __init__(
        self,
        database: MongoDatabase,
        writes: MediaWrites,
        ignored: IgnoredNames,
        chunk_size: int,
        uploads: Sequence[GroupedUpload],
    ) -> None:
        self._database = database
        self._writes = writes
        self._ignored = ignored
        self._chunk_size = chunk_size
        self._uploads = uploads
        self._has_terms = database.has_terms()
        self._term: Any = None
        self._concern = UNCONFIRMED if self._has_terms else DURABLE

    def commit(self) -> None:
        uploads = self._plan(self._uploads)
        if not uploads:
            return
        try:
            if not self._store_files(uploads):
                return
        except StorageError as error:
            if _has_timed_out(error):
                raise
            return  # each tries again alone, and a sweep removes the remains
        uploads = self._check_paths(self._refer(uploads))
        if uploads and not self._end_leases(uploads):
            uploads = [upload for upload in uploads if self._is_whole(upload)]
        for upload in uploads:
            upload.committed = Committed(parse_info(upload.document), upload.old is None)

    def _plan(self, uploads: Sequence[GroupedUpload]) -> list[GroupedUpload]:
        """Find the versions that the uploads replace. Return those that the group can store."""
        names: dict[tuple[str, str], set[str]] = defaultdict(set)
        for upload in uploads:
            names[upload.key.library, upload.key.folder].add(upload.key.filename)
        filters = [*files_in(names), *path_conflicts(upload.key for upload in uploads)]
        most = len(uploads) + 1
        with self._database.operation():
            query = self._database.media.find({"$or": filters}, hint=BY_KEY, limit=most, batch_size=most)
            found = query.to_list()
        try:
            stored = {Key(each["library"], each["folder"], each["filename"]): each for each in found}
        except MALFORMED:
            return []
        if len(found) == most:  # there may be more conflicts
            return []
        planned = []
        for upload in uploads:
            if not any(is_path_conflict(upload.key, other) for other in stored):
                upload.old = stored.get(upload.key)
                if self._expects(upload):
                    planned.append(upload)
        return self._without_foreign(planned)

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

    def _without_foreign(self, uploads: list[GroupedUpload]) -> list[GroupedUpload]:
        """Return the uploads that replace no file of another program: its older versions need care."""
        old = [upload.old["file"] for upload in uploads if upload.old is not None]
        if not old:
            return uploads
        with self._database.operation():
            query = {"_id": {"$in": old}, **FOREIGN}
            foreign = [file["_id"] for file in self._database.files.find(query, {"_id": True})]
        return [upload for upload in uploads if upload.old is None or upload.old["file"] not in foreign]

    def _store_files(self, uploads: Sequence[GroupedUpload]) -> bool:
        """Store the leases and the files of the bucket.

        Returns False if the primary has changed: then it is unknown which of them are stored.
        """
        database = self._database
        old = [upload.old["file"] for upload in uploads if upload.old is not None]
        leased = self._run(lease_command(database, [upload.file for upload in uploads], old), self._concern)
        if chunks := [chunk for upload in uploads for chunk in self._chunks(upload)]:
            with database.operation():
                database.chunks.with_options(write_concern=self._concern).insert_many(chunks, ordered=False)
        files = [self._file(upload) for upload in uploads]
        insert = {"insert": database.files.name, "documents": files, "ordered": False}
        self._term = _term(leased)
        return self._is_same_term(self._run(insert, self._concern))

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

    def _refer(self, uploads: list[GroupedUpload]) -> list[GroupedUpload]:
        """Make documents refer to the files. Return the uploads of which that is known to have succeeded.

        The others lost a race, and go alone; if the outcome stays unknown, they fail.
        """
        marks = {upload: own_writes.stored(upload.file) for upload in uploads}
        with self._database.own_writes.in_progress(marks.values()) as made:
            referred = self._write_documents(uploads)
            made.update(marks[upload] for upload in referred)
        for upload in uploads:
            if upload not in referred and upload.error is None:
                remove_file(self._database, upload.file)
        return referred

    def _write_documents(self, uploads: list[GroupedUpload]) -> list[GroupedUpload]:
        media, error = self._database.media, None
        requests = [
            InsertOne(upload.document)
            if upload.old is None
            else UpdateOne(unchanged_document(upload.old), {"$set": upload.document})
            for upload in uploads
        ]
        try:
            with self._database.operation():
                result = media.bulk_write(requests, ordered=False)
            if result.inserted_count + result.matched_count == len(uploads):
                return uploads
        except StorageError as failure:
            error = None if _is_refusal(failure) else failure
        try:
            with self._database.operation(LOOKUP_TIMEOUT_S, fail_fast=False):
                query = {"file": {"$in": [upload.file for upload in uploads]}}
                files = {found["file"] for found in media.find(query, {"file": True})}
        except StorageError as failure:
            raise error or failure from None
        for upload in uploads:
            if upload.file not in files:
                upload.error = error
        return [upload for upload in uploads if upload.file in files]

    def _check_paths(self, uploads: list[GroupedUpload]) -> list[GroupedUpload]:
        """Withdraw new files whose paths conflict with others that were added meanwhile. Return the rest."""
        new = [upload for upload in uploads if upload.old is None]
        if new:
            with self._database.operation():
                conflict = find_path_conflict(self._database.media, [upload.key for upload in new])
            if conflict is not None:
                for upload in new:
                    try:
                        self._writes.withdraw_if_conflicting(upload.key, upload.unchanged)
                    except StorageError as error:
                        upload.error = error
                        if isinstance(error, PathConflict):
                            remove_file(self._database, upload.file)
        return [upload for upload in uploads if upload.error is None]

    def _end_leases(self, uploads: Sequence[GroupedUpload]) -> bool:
        """End the leases. Return whether all files are proven to be stored, and no sweep has claimed one."""
        ended = self._run(end_lease_command(self._database, [upload.file for upload in uploads]), UNCONFIRMED)
        return ended["n"] == len(uploads) and self._is_same_term(ended)

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

    def _run(self, command: RawDocument, concern: WriteConcern) -> RawDocument:
        """Run a command that may be repeated, and return its reply, of which a collection shows only a part.

        Raises OutOfSpace, StorageUnavailable.
        """
        command = {**command, "writeConcern": concern.document}
        with self._database.operation():
            try:
                reply = self._database.media.database.command(command)
            except AutoReconnect:  # a collection's own methods try a second time as well
                reply = self._database.media.database.command(command)
            for error in (*reply.get("writeErrors", ()), reply.get("writeConcernError")):
                if error is not None:
                    raise OperationFailure(error.get("errmsg", ""), error.get("code"), error)
        return reply

    def _is_same_term(self, reply: RawDocument) -> bool:
        return _term(reply) == self._term and (self._term is not None or not self._has_terms)


def _term(reply: RawDocument) -> Any:
    """Return the term of the primary that made a write; None without a replica set."""
    position = reply.get("opTime")
    return position.get("t") if isinstance(position, dict) else None


def _has_timed_out(error: StorageError) -> bool:
    return isinstance(error.__cause__, PyMongoError) and error.__cause__.timeout


def _is_refusal(error: StorageError) -> bool:
    """Return whether the database refused some of several writes, and the others are durable."""
    cause = error.__cause__
    return isinstance(cause, BulkWriteError) and not cause.details.get("writeConcernErrors")
