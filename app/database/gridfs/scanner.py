"""Looks through the bucket for files that other programs put there or removed, and for what crashes left."""

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

from mongoengine.fields import GridFSProxy
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from app.database.gridfs import own_writes, upload_leases
from app.database.gridfs.connection import Database
from app.database.gridfs.documents import (
    NOT_LIKE_OURS,
    Media,
    Stored,
    as_it_is,
    behind,
    find,
    info_of,
    media_in,
    name_of,
    place,
)
from app.database.gridfs.staging import NOT_OURS, remove_slice
from app.database.gridfs.writes import check_room, path_of, spellings
from app.http.media_types import media_type
from app.storage.errors import InvalidName, PathConflict, StorageUnavailable
from app.storage.ignored_names import IgnoredNames
from app.storage.maintenance import ScanFinding, ScanOutcome, ScanStep
from app.storage.types import SHARED, Change, ChangeKind, Key

AT_ONCE = 100
"""Files that are looked at in one step."""

_FIELDS = dict.fromkeys(("filename", "length", "chunkSize", "uploadDate", "metadata.library"), True)
"""What is asked of a file of the bucket, with which other programs may keep much more."""

_PLACE = dict.fromkeys(("file", "folder", "filename"), True)
"""What is asked of our documents."""

_NOT_LIKE_GRIDFS = "Its document is not like those of GridFS."
_NOT_OURS = "Its document is not like those of this program."


class Scanner:
    """Makes documents say what the bucket holds."""

    def __init__(
        self,
        database: Database,
        *,
        ignored: IgnoredNames,
    ) -> None:
        self._database = database
        self._ignored = ignored

    def scan(self) -> Generator[ScanStep]:
        for documents in self._batches(self._database.media, _PLACE):
            yield ScanStep(len(documents), tuple(self._missed(documents)))
        for files in self._batches(self._database.files, _FIELDS):
            yield ScanStep(0, tuple(self._found(files)))

    def _batches(self, collection: Collection[Stored], projection: Stored) -> Iterator[list[Stored]]:
        """The documents of a collection, as they are when their turn comes."""
        last: Stored = {}
        while True:
            with self._database.asked():
                batch = list(collection.find(last, projection).sort("_id").limit(AT_ONCE))
            if not batch:
                return
            yield batch
            last = behind(batch[-1]["_id"])

    # What is gone

    def _missed(self, documents: Sequence[Stored]) -> Iterator[ScanFinding]:
        """Forget files that somebody removed from the bucket."""
        odd = [document for document in documents if not _is_ours(document)]
        yield from (ScanFinding(name_of(document), ScanOutcome.UNREADABLE, _NOT_OURS) for document in odd)
        documents = [document for document in documents if document not in odd]
        with self._database.asked():
            wanted = [document["file"] for document in documents]
            files = self._database.files.find({"_id": {"$in": wanted}}, {"_id": True})
            there = [file["_id"] for file in files]  # a list, because an id may be a document
        for document in documents:
            if document["file"] not in there:
                finding = self._or_unreadable(name_of(document), partial(self._forget, document), _NOT_OURS)
                if finding is not None:
                    yield finding

    def _publish(self, change: Change) -> None:
        self._database.feed.publish_threadsafe([change], unverified=True)

    def _or_unreadable(
        self, name: str, step: Callable[[], ScanFinding | None], not_like_those: str
    ) -> ScanFinding | None:
        """Take a step about one document. What is wrong with that document does not end the scan."""
        try:
            return step()
        except (InvalidName, PathConflict) as error:
            return ScanFinding(name, ScanOutcome.SKIPPED, str(error))
        except NOT_LIKE_OURS:
            return ScanFinding(name, ScanOutcome.UNREADABLE, not_like_those)
        except StorageUnavailable as error:
            self._database.check_answers()
            return ScanFinding(name, ScanOutcome.UNREADABLE, str(error))

    def _forget(self, document: Stored) -> ScanFinding | None:
        same = {"_id": document["_id"], "file": document["file"]}
        with self._database.asked():
            media = media_in(self._database.media)(id=document["_id"]).first()
            if media is None:
                return None
            info = info_of(media)
            # What is left of a file without its document, nobody can read.
            upload_leases.retire(self._database, document["file"])
            forgotten = self._database.own_writes.run(
                own_writes.deleted(document["_id"]),
                lambda: self._database.media.delete_one(same).deleted_count,
            )
        if not forgotten:
            return None
        self._publish(Change(ChangeKind.DELETED, info))
        return ScanFinding(info.key.path, ScanOutcome.DELETED)

    # What is new

    def _found(self, files: Sequence[Stored]) -> Iterator[ScanFinding]:
        """Take in files of the bucket that no document names, and nobody is writing or has let go."""
        unknown = [file["_id"] for file in files]
        with self._database.asked():
            # After the documents: one that goes meanwhile had its file entered here before. And the documents
            # once more: an upload is entered until one names it. And the bucket: what is swept is gone there
            # before it is here.
            for ids in (self._named, self._entered, self._named):
                known = ids(unknown)
                unknown = [file for file in unknown if file not in known]
            there = [
                file["_id"] for file in self._database.files.find({"_id": {"$in": unknown}}, {"_id": True})
            ]
        for file in files:
            if file["_id"] in there:
                finding = self._or_unreadable(
                    str(file.get("filename")), partial(self._take_in, file), _NOT_LIKE_GRIDFS
                )
                if finding is not None:
                    yield finding

    def _named(self, files: Sequence[Any]) -> list[Any]:
        found = self._database.media.find({"file": {"$in": files}}, {"file": True})
        return [media["file"] for media in found]

    def _entered(self, files: Sequence[Any]) -> list[Any]:
        found = self._database.uploads.find({"_id": {"$in": files}}, {"_id": True})
        return [entry["_id"] for entry in found]

    def _take_in(self, file: Stored) -> ScanFinding | None:
        name = file.get("filename")
        # What was uploaded here and has lost its document belongs to whom it did.
        metadata = file.get("metadata")
        library = metadata.get("library", SHARED) if isinstance(metadata, dict) else SHARED
        if not isinstance(library, str):
            raise InvalidName("Its library is no text.")
        key = Key.at(library, path_of(name) if isinstance(name, str) else "")
        if self._ignored.matches(key):
            return None
        new = self._document(file, key)
        with self._database.asked():
            return self._adopt(file, key, new)

    def _document(self, file: Stored, key: Key) -> Media:
        size, chunk_size = int(file["length"]), int(file["chunkSize"])
        if not (0 <= size < 1 << 63 and 1 <= chunk_size < 1 << 31):
            raise ValueError
        # Not in the future, which Last-Modified must not be (RFC 9110 8.8.2.1).
        date = min(file["uploadDate"], datetime.now(UTC))
        media = Media(
            id=uuid4().hex,
            file=GridFSProxy(file["_id"]),
            size=size,
            chunk_size=chunk_size,
            content_type=media_type(None, key.filename),
            etag=_etag(file),
            sha256=None,
            unverified=True,
            is_utf8=None,
            created_at=date,
            updated_at=date,
            **place(key, self._ignored),
        )
        media.validate()
        return media

    def _adopt(self, file: Stored, key: Key, new: Media) -> ScanFinding | None:
        """None if somebody else was faster."""
        named = {"filename": {"$in": spellings(file["filename"])}}
        newer = {**named, "uploadDate": {"$gt": file["uploadDate"]}}
        if self._database.files.find_one({**newer, **NOT_OURS}, {"_id": True}) is not None:
            return ScanFinding(key.path, ScanOutcome.SKIPPED, "A newer file of this name is there.")
        old, media, mark = (
            find(self._database.media, key),
            self._database.media,
            own_writes.stored(file["_id"]),
        )
        if old is None:
            check_room(media, key)
            with suppress(DuplicateKeyError):
                self._database.own_writes.run(mark, lambda: media.insert_one(new.to_mongo().to_dict()))
                self._publish(Change(ChangeKind.CREATED, info_of(new)))
                return ScanFinding(key.path, ScanOutcome.CREATED)
            return None
        before = self._database.files.find_one({"_id": old.file.grid_id, **NOT_OURS})
        if before is None:
            return ScanFinding(key.path, ScanOutcome.SKIPPED, "Another file of this name was uploaded.")
        if before["uploadDate"] >= file["uploadDate"]:
            return ScanFinding(key.path, ScanOutcome.SKIPPED, "Another file of this name is there.")
        new.id, new.created_at = old.id, old.created_at
        # The older one is not ours to remove.
        update = {"$set": new.to_mongo().to_dict()}
        if not self._database.own_writes.run(
            mark, lambda: media.update_one(as_it_is(old), update).matched_count
        ):
            return None
        self._publish(Change(ChangeKind.REPLACED, info_of(new)))
        return ScanFinding(key.path, ScanOutcome.REPLACED)


def _is_ours(document: Stored) -> bool:
    return isinstance(document["_id"], str) and "file" in document


def _etag(file: Stored) -> str:
    """Of bytes whose hash is not known. A file of the bucket never changes; another has another id."""
    return hashlib.sha256(f"{file['_id']!r} {file['length']} {file['uploadDate']}".encode()).hexdigest()[:32]


def sweep(database: Database) -> Generator[ScanStep]:
    """Remove the files that are ours to remove."""
    for file in upload_leases.expired(database):
        claimed = upload_leases.claim(database, file)
        if claimed:
            while remove_slice(database, file):
                yield ScanStep(0, ())
            with database.asked():
                upload_leases.swept(database, file)
        yield ScanStep(0, (), swept=int(claimed))
