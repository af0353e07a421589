"""Maintenance of the bucket: scans for foreign and removed files, hashing, verification."""

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

from mongoengine.fields import GridFSProxy
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from app.database.gridfs import own_writes
from app.database.gridfs.bucket import FOREIGN, TransferSizes
from app.database.gridfs.connection import MongoDatabase
from app.database.gridfs.documents import (
    MALFORMED,
    UNJUDGED,
    UNJUDGED_INDEX,
    Media,
    RawDocument,
    after_id,
    display_name,
    find_media,
    info_of,
    key_fields,
    key_of,
    query_media,
    unchanged_filter,
)
from app.database.gridfs.garbage_collection import retire, sweep
from app.database.gridfs.grid_reader import GridReader
from app.database.gridfs.writes import check_path_conflicts, equivalent_filenames, normalize_filename
from app.http.media_types import media_type
from app.storage.backend import batches
from app.storage.content_hash import ContentHash
from app.storage.errors import InvalidName, PathConflict, StorageUnavailable, Truncated
from app.storage.ignored_names import IgnoredNames
from app.storage.maintenance import Integrity, ScanFinding, ScanOutcome, ScanStep, Usage, VerifyStep
from app.storage.types import SHARED, Change, ChangeKind, Key

USAGE_TIMEOUT_S = 60.0
"""Seconds that the sum over all files may take."""

SCAN_BATCH = 100
"""Documents per step of a scan."""

_FILE_FIELDS = dict.fromkeys(("filename", "length", "chunkSize", "uploadDate", "metadata.library"), True)
"""Fields of a file of the bucket that a scan reads: other programs may store many more."""

_MEDIA_FIELDS = dict.fromkeys(("file", "folder", "filename"), True)
"""Fields of our documents that a scan reads."""

_NOT_LIKE_GRIDFS = "Its document in fs.files does not follow the GridFS specification."
_NOT_LIKE_OURS = "Its document in media lacks fields, or has fields of a wrong type."


class GridMaintenance:
    """`storage.maintenance.Maintenance` over a MongoDB database."""

    def __init__(self, database: MongoDatabase, ignored: IgnoredNames, sizes: TransferSizes) -> None:
        self._database = database
        self._sizes = sizes
        self._scanner = GridScanner(database, ignored)

    def usage(self, library: str | None) -> Usage:
        total: RawDocument = {"$group": {"_id": None, "files": {"$sum": 1}, "size": {"$sum": "$size"}}}
        steps = [total] if library is None else [{"$match": {"library": library}}, total]
        # An index that contains the sizes, so that no document is read.
        hint = {} if library is None else {"library": 1, "ignored": 1, "size": 1, "folder": 1, "filename": 1}
        with self._database.operation(USAGE_TIMEOUT_S):
            found = next(iter(self._database.media.aggregate(steps, hint=hint)), None)
        return Usage(found["files"], found["size"]) if found is not None else Usage(0, 0)

    def estimate_file_count(self) -> int:
        with self._database.operation():
            return self._database.media.estimated_document_count()

    def scan(self) -> Generator[ScanStep]:
        yield from sweep(self._database)
        yield from self._scanner.scan()

    def adopt_all(self, library: str) -> Generator[ScanStep]:
        """Yield nothing: other programs add files only to the shared library."""
        yield from ()

    def hash_unverified(self) -> Generator[int]:
        """Hash the files that need it, one after the other. Yields the bytes read in each step."""
        for documents in (self._documents({"unverified": True}), self._documents(UNJUDGED, UNJUDGED_INDEX)):
            for media in documents:
                content_hash = ContentHash()
                with self._skipping_unreadable():
                    for data in self._read(media):
                        content_hash.update(data)
                        yield len(data)
                    self._record(media, content_hash)
                yield 0  # so that each of many empty files is a step

    @contextmanager
    def _skipping_unreadable(self) -> Iterator[None]:
        """Suppress errors that concern one file, so that the files after it are hashed."""
        try:
            yield
        except (Truncated, *MALFORMED):
            pass
        except StorageUnavailable:
            self._database.check_responds()

    def _record(self, media: Media, found: ContentHash) -> None:
        unchanged = {"_id": media.id, "file": media.file.grid_id, "unverified": media.unverified}
        # A recorded hash is kept, so that a verification detects corrupt bytes.
        hashed = {"sha256": found.sha256, "unverified": False} if media.unverified else {}
        with self._database.operation():
            self._database.media.update_one(unchanged, {"$set": {"is_utf8": found.is_utf8, **hashed}})

    def verify(self) -> Generator[VerifyStep]:
        """Compare the bytes of each file with its document. Changes nothing."""
        for media in self._documents():
            path = display_name({"_id": media.id, "folder": media.folder, "filename": media.filename})
            digest = hashlib.sha256()
            verdict: Integrity | None
            try:
                for data in self._read(media):
                    digest.update(data)
                    yield VerifyStep(path, len(data), None)
            except Truncated:
                verdict = self._missing_or_damaged(media)
            except MALFORMED:
                verdict = Integrity.UNREADABLE
            except StorageUnavailable:
                self._database.check_responds()
                verdict = Integrity.UNREADABLE
            else:
                verdict = Integrity.of_hash(media.sha256, digest.hexdigest())
            if verdict is not None:
                yield VerifyStep(path, 0, verdict)

    def _missing_or_damaged(self, media: Media) -> Integrity | None:
        """Return None if the file was replaced or deleted meanwhile."""
        with self._database.operation():
            if self._database.media.find_one({"file": media.file.grid_id}, {"_id": True}) is None:
                return None
            file = self._database.files.find_one({"_id": media.file.grid_id}, {"_id": True})
        return Integrity.MISSING if file is None else Integrity.DAMAGED

    def _read(self, media: Media) -> Iterator[bytes]:
        file, chunk_size = media.file.grid_id, media.chunk_size
        reader = GridReader(self._database, info_of(media), file, chunk_size, self._sizes)
        for start, stop in batches(0, media.size, unit=reader.unit, max_units=reader.max_units):
            yield from reader.read(start, stop - start)

    def _documents(
        self, conditions: RawDocument | None = None, hint: list[tuple[str, int]] | None = None
    ) -> Iterator[Media]:
        """Yield the documents in the order of their ids. Each is queried only when its turn comes."""
        last = ""
        while True:
            with self._database.operation():
                selected = {"_id": {"$gt": last}, **(conditions or {})}
                query = query_media(self._database.media)(__raw__=selected)
                media: Media | None = query.order_by("id").hint(hint).first()
            if media is None:
                return
            yield media
            last = media.id


class GridScanner:
    """Makes the documents match the files of the bucket."""

    def __init__(self, database: MongoDatabase, ignored: IgnoredNames) -> None:
        self._database = database
        self._ignored = ignored

    def scan(self) -> Generator[ScanStep]:
        for documents in self._batches(self._database.media, _MEDIA_FIELDS):
            yield ScanStep(len(documents), tuple(self.remove_missing(documents)))
        for files in self._batches(self._database.files, _FILE_FIELDS):
            yield ScanStep(0, tuple(self.adopt_new(files)))

    def _batches(
        self, collection: Collection[RawDocument], projection: RawDocument
    ) -> Iterator[list[RawDocument]]:
        """Yield the documents of a collection. Each batch is queried only when its turn comes."""
        last: RawDocument = {}
        while True:
            with self._database.operation():
                batch = list(collection.find(last, projection).sort("_id").limit(SCAN_BATCH))
            if not batch:
                return
            yield batch
            last = after_id(batch[-1]["_id"])

    def _publish(self, change: Change) -> None:
        self._database.feed.publish_threadsafe([change], unverified=True)

    def _try(self, name: str, step: Callable[[], ScanFinding | None], malformed: str) -> ScanFinding | None:
        """Run a step about one document. An error that concerns this document becomes a finding."""
        try:
            return step()
        except (InvalidName, PathConflict) as error:
            return ScanFinding(name, ScanOutcome.SKIPPED, str(error))
        except MALFORMED:
            return ScanFinding(name, ScanOutcome.UNREADABLE, malformed)
        except StorageUnavailable as error:
            self._database.check_responds()
            return ScanFinding(name, ScanOutcome.UNREADABLE, str(error))

    def remove_missing(self, documents: Sequence[RawDocument]) -> Iterator[ScanFinding]:
        """Delete the documents of files that another program removed from the bucket."""
        malformed = [document for document in documents if not _has_file(document)]
        for document in malformed:
            yield ScanFinding(display_name(document), ScanOutcome.UNREADABLE, _NOT_LIKE_OURS)
        documents = [document for document in documents if document not in malformed]
        with self._database.operation():
            ids = [document["file"] for document in documents]
            files = self._database.files.find({"_id": {"$in": ids}}, {"_id": True})
            existing = [file["_id"] for file in files]  # a list, because an id may be a document
        for document in documents:
            if document["file"] not in existing:
                step = partial(self._remove, document)
                finding = self._try(display_name(document), step, _NOT_LIKE_OURS)
                if finding is not None:
                    yield finding

    def _remove(self, document: RawDocument) -> ScanFinding | None:
        unchanged = {"_id": document["_id"], "file": document["file"]}
        with self._database.operation():
            media = query_media(self._database.media)(id=document["_id"]).first()
            if media is None:
                return None
            info = info_of(media)
            # Without its document of fs.files, no client can read the remaining chunks.
            retire(self._database, document["file"])
            deleted = self._database.own_writes.run(
                own_writes.deleted(document["_id"]),
                lambda: self._database.media.delete_one(unchanged).deleted_count,
            )
        if not deleted:
            return None
        self._publish(Change(ChangeKind.DELETED, info))
        return ScanFinding(info.key.path, ScanOutcome.DELETED)

    def adopt_new(self, files: Sequence[RawDocument]) -> Iterator[ScanFinding]:
        """Add documents for files of the bucket that have none and no entry for garbage collection."""
        unknown = [file["_id"] for file in files]
        with self._database.operation():
            # The entries after the documents: a change that deletes a document has entered its file before.
            # The documents again: an upload has an entry until a document refers to it. The bucket last: a
            # sweep removes a file from the bucket before its entry.
            for ids in (self._referenced, self._entered, self._referenced):
                known = ids(unknown)
                unknown = [file for file in unknown if file not in known]  # an id may be a document
            existing = self._database.files.find({"_id": {"$in": unknown}}, {"_id": True})
            unknown = [file["_id"] for file in existing]
        for file in files:
            if file["_id"] in unknown:
                step = partial(self._adopt, file)
                finding = self._try(str(file.get("filename")), step, _NOT_LIKE_GRIDFS)
                if finding is not None:
                    yield finding

    def _referenced(self, files: Sequence[Any]) -> list[Any]:
        found = self._database.media.find({"file": {"$in": files}}, {"file": True})
        return [media["file"] for media in found]

    def _entered(self, files: Sequence[Any]) -> list[Any]:
        found = self._database.uploads.find({"_id": {"$in": files}}, {"_id": True})
        return [entry["_id"] for entry in found]

    def _adopt(self, file: RawDocument) -> ScanFinding | None:
        """Add a document for the file. Returns None if its name is ignored or the file is taken by now."""
        name = file.get("filename")
        # An upload whose document is lost returns to its library.
        metadata = file.get("metadata")
        library = metadata.get("library", SHARED) if isinstance(metadata, dict) else SHARED
        if not isinstance(library, str):
            raise InvalidName("Its metadata.library is not a string.")
        key = Key.at(library, normalize_filename(name) if isinstance(name, str) else "")
        if self._ignored.matches(key):
            return None
        new = self._document(file, key)
        with self._database.operation():
            if self._has_newer(file):
                return ScanFinding(key.path, ScanOutcome.SKIPPED, "A newer file with this name exists.")
            old = find_media(self._database.media, key)
            return self._insert(file, key, new) if old is None else self._replace(file, old, new)

    def _document(self, file: RawDocument, key: Key) -> Media:
        size, chunk_size = int(file["length"]), int(file["chunkSize"])
        if not (0 <= size < 1 << 63 and 1 <= chunk_size < 1 << 31):
            raise ValueError
        # Not in the future, which Last-Modified must not be (RFC 9110 §8.8.2.1).
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
            **key_fields(key, self._ignored),
        )
        media.validate()
        return media

    def _has_newer(self, file: RawDocument) -> bool:
        same_path = {"filename": {"$in": equivalent_filenames(file["filename"])}}
        newer = {**same_path, "uploadDate": {"$gt": file["uploadDate"]}, **FOREIGN}
        return self._database.files.find_one(newer, {"_id": True}) is not None

    def _insert(self, file: RawDocument, key: Key, new: Media) -> ScanFinding | None:
        media = self._database.media
        check_path_conflicts(media, key)
        with suppress(DuplicateKeyError):  # a concurrent change was faster
            self._database.own_writes.run(
                own_writes.stored(file["_id"]), lambda: media.insert_one(new.to_mongo().to_dict())
            )
            self._publish(Change(ChangeKind.CREATED, info_of(new)))
            return ScanFinding(key.path, ScanOutcome.CREATED)
        return None

    def _replace(self, file: RawDocument, old: Media, new: Media) -> ScanFinding | None:
        path = key_of(new).path
        before = self._database.files.find_one({"_id": old.file.grid_id, **FOREIGN})
        if before is None:
            return ScanFinding(path, ScanOutcome.SKIPPED, "An uploaded file with this name exists.")
        if before["uploadDate"] >= file["uploadDate"]:
            return ScanFinding(path, ScanOutcome.SKIPPED, "Another file with this name exists.")
        new.id, new.created_at = old.id, old.created_at
        update = {"$set": new.to_mongo().to_dict()}
        # The old file is kept in the bucket: it belongs to another program.
        if not self._database.own_writes.run(
            own_writes.stored(file["_id"]),
            lambda: self._database.media.update_one(unchanged_filter(old), update).matched_count,
        ):
            return None
        self._publish(Change(ChangeKind.REPLACED, info_of(new)))
        return ScanFinding(path, ScanOutcome.REPLACED)


def _has_file(document: RawDocument) -> bool:
    return isinstance(document["_id"], str) and "file" in document


def _etag(file: RawDocument) -> str:
    """Return the etag of a file that is not hashed yet. A file of the bucket never changes."""
    return hashlib.sha256(f"{file['_id']!r} {file['length']} {file['uploadDate']}".encode()).hexdigest()[:32]
