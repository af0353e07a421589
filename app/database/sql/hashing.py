"""Reading stored files to hash them: those whose hash is not known yet, or all, to find what rots."""

import hashlib
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import func, select

from app.database.sql.engine import Database
from app.database.sql.rows import path_of, signature_of
from app.database.sql.settling import Settling
from app.database.sql.tables import Media
from app.storage import disk
from app.storage.disk import Disk
from app.storage.errors import StorageUnavailable
from app.storage.staging import Signature
from app.storage.upkeep import Usage, Verdict, Verified

STEP = 1 << 20
"""Bytes that are read in one go."""

TRIES = 3  # to verify a file that is replaced meanwhile


class Hasher:
    """Reads files in steps; a generator of it may be left at any of them. `settling` begins a transaction."""

    def __init__(
        self, database: Database, files: Disk, settling: Callable[[], AbstractContextManager[Settling]]
    ) -> None:
        self._database = database
        self._disk = files
        self._settling = settling

    def usage(self) -> Usage:
        with self._database.reading() as session:
            files, size = session.execute(select(func.count(), func.sum(Media.size))).one()
        return Usage(files, size or 0)

    def hash_unverified(self) -> Generator[int]:
        """Hash the files that need it, one after the other. Each step is the bytes that it read."""
        for row in self._rows(Media.unverified):
            try:
                with self._opened(row) as descriptor:
                    if descriptor is None or Signature.of(os.fstat(descriptor)) != signature_of(row):
                        continue  # settled when it is looked at next
                    digest = hashlib.sha256()
                    for data in _read(descriptor, row.size):
                        digest.update(data)
                        yield len(data)
                    if Signature.of(os.fstat(descriptor)) == signature_of(row):
                        self._record(row, digest.hexdigest())
            except StorageUnavailable:
                continue  # it stays unverified

    def verify(self) -> Generator[Verified]:
        """Hold every file against its row. Changes nothing."""
        for first in self._rows():
            row: Media | None = first
            for _ in range(TRIES):
                assert row is not None
                verdict = yield from self._verify(row)
                if verdict in (Verdict.SOUND, Verdict.UNKNOWN):
                    break
                now = self._again(row)
                if now is None or now.etag == row.etag:
                    break
                row = now  # it was replaced or moved while it was read
            if self._again(first) is not None:
                yield Verified(_shown(first), 0, verdict)

    def _verify(self, row: Media) -> Generator[Verified, None, Verdict]:
        digest = hashlib.sha256()
        try:
            with self._opened(row) as descriptor:
                if descriptor is None:
                    return Verdict.MISSING
                before = Signature.of(os.fstat(descriptor))
                if (before.size, before.mtime_ns) != (row.size, row.mtime_ns):
                    return Verdict.CHANGED
                for data in _read(descriptor, row.size):
                    digest.update(data)
                    yield Verified(_shown(row), len(data), None)
                if Signature.of(os.fstat(descriptor)) != before:
                    return Verdict.CHANGED
        except StorageUnavailable:
            return Verdict.UNREADABLE
        if row.sha256 is None:
            return Verdict.UNKNOWN
        return Verdict.SOUND if digest.hexdigest() == row.sha256 else Verdict.DAMAGED

    def _record(self, row: Media, sha256: str) -> None:
        with self._settling() as settling:
            now = settling.session.get(Media, row.id)
            if now is not None and now.unverified and signature_of(now) == signature_of(row):
                settling.hashed(now, sha256)
            settling.commit()

    def _rows(self, *conditions: object) -> Iterator[Media]:
        """The rows, in the order of their ids, as they are when their turn comes."""
        last = ""
        while True:
            query = select(Media).where(Media.id > last, *conditions).order_by(Media.id).limit(1)  # type: ignore[arg-type]
            with self._database.reading() as session:
                row = session.scalar(query)
            if row is None:
                return
            yield row
            last = row.id

    def _again(self, row: Media) -> Media | None:
        with self._database.reading() as session:
            return session.get(Media, row.id)

    @contextmanager
    def _opened(self, row: Media) -> Iterator[int | None]:
        descriptor = self._disk.open(path_of(row))
        try:
            if descriptor is not None and hasattr(os, "posix_fadvise"):
                # What is read once, and by nobody else, need not push out what is being watched.
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_NOREUSE)
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)


def _read(descriptor: int, size: int) -> Iterator[bytes]:
    position = 0
    while position < size:
        data = disk.read(descriptor, position, min(STEP, size - position))
        if not data:
            return
        yield data
        position += len(data)


def _shown(row: Media) -> str:
    return f"{row.folder}/{row.filename}" if row.folder else row.filename
