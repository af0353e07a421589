"""Maintenance of the bucket: scans, hashes of files that have none yet, verification of all files."""

import hashlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager

from app.database.gridfs.connection import Database
from app.database.gridfs.documents import (
    NOT_LIKE_OURS,
    UNJUDGED,
    UNJUDGED_INDEX,
    Media,
    Stored,
    info_of,
    media_in,
    name_of,
)
from app.database.gridfs.reader import GridReader
from app.database.gridfs.scanner import Scanner, sweep
from app.storage.backend import batches
from app.storage.content_hash import ContentHash
from app.storage.errors import StorageUnavailable, Truncated
from app.storage.maintenance import Integrity, ScanStep, Usage, VerifyStep

COUNTING_S = 60.0


class GridMaintenance:
    """`storage.maintenance.Maintenance` over a MongoDB database."""

    def __init__(self, database: Database, scanner: Scanner) -> None:
        self._database = database
        self._scanner = scanner

    def usage(self, library: str | None) -> Usage:
        total: Stored = {"$group": {"_id": None, "files": {"$sum": 1}, "size": {"$sum": "$size"}}}
        steps = [total] if library is None else [{"$match": {"library": library}}, total]
        # An index that has the sizes, so that no document is read.
        hint = {} if library is None else {"library": 1, "ignored": 1, "size": 1, "folder": 1, "filename": 1}
        with self._database.asked(COUNTING_S):
            found = next(iter(self._database.media.aggregate(steps, hint=hint)), None)
        return Usage(found["files"], found["size"]) if found is not None else Usage(0, 0)

    def estimate_file_count(self) -> int:
        with self._database.asked():
            return self._database.media.estimated_document_count()

    def scan(self) -> Generator[ScanStep]:
        yield from sweep(self._database)
        yield from self._scanner.scan()

    def adopt_all(self, library: str) -> Generator[ScanStep]:
        """Yield nothing: other programs put files into the shared library alone."""
        yield from ()

    def hash_unverified(self) -> Generator[int]:
        """Hash the files that need it, one after the other. Each step is the bytes that it read."""
        for documents in (self._documents({"unverified": True}), self._documents(UNJUDGED, UNJUDGED_INDEX)):
            for media in documents:
                fingerprint = ContentHash()
                with self._one_at_fault():  # it stays as it is
                    for data in self._read(media):
                        fingerprint.update(data)
                        yield len(data)
                    self._record(media, fingerprint)
                yield 0  # of many files that are empty, each is a step too

    @contextmanager
    def _one_at_fault(self) -> Iterator[None]:
        """Leave a file that cannot be read, so that those behind it have their turn."""
        try:
            yield
        except (Truncated, *NOT_LIKE_OURS):
            pass
        except StorageUnavailable:
            self._database.check_answers()

    def _record(self, media: Media, found: ContentHash) -> None:
        same = {"_id": media.id, "file": media.file.grid_id, "unverified": media.unverified}
        # A known hash stays, so that a verification finds bytes that rotted.
        hashed = {"sha256": found.sha256, "unverified": False} if media.unverified else {}
        with self._database.asked():
            self._database.media.update_one(same, {"$set": {"is_utf8": found.is_utf8, **hashed}})

    def verify(self) -> Generator[VerifyStep]:
        """Hold every file against its document. Changes nothing."""
        for media in self._documents():
            path = name_of({"_id": media.id, "folder": media.folder, "filename": media.filename})
            digest = hashlib.sha256()
            verdict: Integrity | None
            try:
                for data in self._read(media):
                    digest.update(data)
                    yield VerifyStep(path, len(data), None)
            except Truncated:
                verdict = self._missing_or_damaged(media)
            except NOT_LIKE_OURS:
                verdict = Integrity.UNREADABLE
            except StorageUnavailable:
                self._database.check_answers()
                verdict = Integrity.UNREADABLE
            else:
                verdict = Integrity.of_hash(media.sha256, digest.hexdigest())
            if verdict is not None:
                yield VerifyStep(path, 0, verdict)

    def _missing_or_damaged(self, media: Media) -> Integrity | None:
        """None when the file was replaced or deleted meanwhile."""
        with self._database.asked():
            if self._database.media.find_one({"file": media.file.grid_id}, {"_id": True}) is None:
                return None
            there = self._database.files.find_one({"_id": media.file.grid_id}, {"_id": True})
        return Integrity.MISSING if there is None else Integrity.DAMAGED

    def _read(self, media: Media) -> Iterator[bytes]:
        reader = GridReader(self._database, info_of(media), media.file.grid_id, media.chunk_size)
        for start, stop in batches(0, media.size, unit=reader.unit, max_units=reader.max_units):
            yield from reader.read(start, stop - start)

    def _documents(
        self, conditions: Stored | None = None, hint: list[tuple[str, int]] | None = None
    ) -> Iterator[Media]:
        """The documents, in the order of their ids, as they are when their turn comes."""
        last = ""
        while True:
            with self._database.asked():
                query = media_in(self._database.media)(__raw__={"_id": {"$gt": last}, **(conditions or {})})
                media: Media | None = query.order_by("id").hint(hint).first()
            if media is None:
                return
            yield media
            last = media.id
