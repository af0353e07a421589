"""Maintenance of the folder: scans, hashes of files that have none yet, verification of all files."""

import contextlib
import ctypes
import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache

from sqlalchemy import TextClause, delete, func, select, text
from sqlalchemy.orm import Session

from app.database.filesystem import page_cache
from app.database.filesystem.directory_entries import looking
from app.database.filesystem.disk import Disk
from app.database.filesystem.file_identity import FileStat
from app.database.filesystem.reconcile import Reconciler
from app.database.filesystem.rows import key_of, looks_alike, path_of, stat_of
from app.database.filesystem.scanner import Scanner
from app.database.sql.engine import Database
from app.database.sql.schema import HASH_FIRST, UNJUDGED, Departed, Media
from app.storage.content_hash import ContentHash
from app.storage.errors import StorageUnavailable, Unreadable
from app.storage.ignored_names import IGNORE_NOTHING
from app.storage.maintenance import Integrity, ScanStep, Usage, VerifyStep

_CALL = {"x86_64": 251, "aarch64": 30}.get(platform.machine())
_THIS_THREAD = (1, 0)  # IOPRIO_WHO_PROCESS, which means a thread; 0 is the caller
_IDLE, _DEFAULT = 3 << 13, 0


@contextmanager
def idle_io() -> Iterator[None]:
    """Give the reads of this thread the class IDLE, on schedulers that have it (bfq, mq-deadline).

    Does nothing where the system has no such call.
    """
    _set(_IDLE)
    try:
        yield
    finally:
        _set(_DEFAULT)


def _set(priority: int) -> None:
    if sys.platform == "linux" and _CALL is not None:
        with contextlib.suppress(OSError):
            _libc().syscall(_CALL, *_THIS_THREAD, priority)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


DEPARTED_LASTS = timedelta(days=30)
"""How long the record of a file that disappeared is kept, in case the file returns."""

STEP = 1 << 20
"""Bytes that are read in one go."""

TRIES = 3

MAX_FAILED = 100
"""Files that could not be hashed, up to which it is worth looking past them for others to be hashed first."""

_FIRST = text(f"({HASH_FIRST})")

_NO_FAULT = (None, Integrity.SOUND, Integrity.UNKNOWN)


class FilesystemMaintenance:
    """`storage.maintenance.Maintenance` over a folder and its database. `reconciler` begins a transaction."""

    def __init__(
        self,
        database: Database,
        files: Disk,
        reconciler: Callable[[], AbstractContextManager[Reconciler]],
        scanner: Scanner,
    ) -> None:
        self._database = database
        self._disk = files
        self._reconciling = reconciler
        self._scanner = scanner

    def usage(self, library: str | None) -> Usage:
        query = select(func.count(), func.sum(Media.size))
        if library is not None:
            query = query.where(Media.library == library)
        with self._database.reading() as session:
            files, size = session.execute(query).one()
        return Usage(files, int(size or 0))  # PostgreSQL adds up integers to a Decimal

    def estimate_file_count(self) -> int:
        return self._scanner.estimate_file_count()

    def scan(self) -> Generator[ScanStep]:
        yield ScanStep(0, (), swept=self._disk.sweep())
        with self._database.writing() as session:
            expired = datetime.now(UTC) - DEPARTED_LASTS
            session.execute(delete(Departed).where(Departed.departed_at < expired))
            session.commit()
        yield from self._scanner.scan()

    def adopt_all(self, library: str) -> Generator[ScanStep]:
        return Scanner(self._database, self._disk, self._reconciling, IGNORE_NOTHING).scan_library(library)

    def hash_unverified(self) -> Generator[int]:
        """Hash the files that need it, one after the other. Each step is the bytes that it read."""
        failed: set[str] = set()
        yield from self._hash_all(self._rows(_FIRST), failed)
        for condition in ("media.unverified", UNJUDGED):
            for row in self._rows(text(condition)):
                yield from self._hash_all([row], failed)
                if len(failed) < MAX_FAILED:
                    # Others that clients wait for may have come meanwhile.
                    yield from self._hash_all(self._rows(_FIRST), failed)

    def _hash_all(self, rows: Iterable[Media], failed: set[str]) -> Generator[int]:
        for listed in rows:
            if listed.id not in failed and not (yield from self._hash_and_record(listed)):
                failed.add(listed.id)

    def _hash_and_record(self, listed: Media) -> Generator[int, None, bool]:
        """Return whether the hash was recorded. A file that was moved meanwhile is read again."""
        for _ in range(TRIES):
            read = None
            with contextlib.suppress(Unreadable):  # it stays as it is
                read = yield from self._hash(listed)
            yield 0  # of many files that are empty, or wait, each is a step too
            if read is not None and self._record(*read):
                return True
        return False

    def _hash(self, listed: Media) -> Generator[int, None, tuple[Media, ContentHash] | None]:
        """None when row and file do not agree: that is settled when the file is looked at next."""
        with self._opened(listed) as (row, descriptor):
            if row is None or descriptor is None:
                return None
            # Or bytes that change after they were read would have this hash.
            time.sleep(stat_of(row).ambiguous_for_s(time.time_ns()))
            before = _signature(descriptor)
            if not stat_of(row).agrees_with(before):
                return None
            fingerprint = ContentHash()
            for data in _read(descriptor, row.size):
                fingerprint.update(data)
                yield len(data)
            return (row, fingerprint) if _signature(descriptor) == before else None

    def verify(self) -> Generator[VerifyStep]:
        """Hold every file against its row. Changes nothing."""
        for row in self._rows():
            verdict = yield from self._verify(row, alone=False)
            if verdict not in _NO_FAULT:
                # A change may be under way, which takes its file step before it is committed. Nothing is
                # while the row and the file are found alone.
                verdict = yield from self._verify(row, alone=True)
            if verdict is not None:
                yield VerifyStep(key_of(row).path, 0, verdict)

    def _verify(self, listed: Media, *, alone: bool) -> Generator[VerifyStep, None, Integrity | None]:
        """None when the file was deleted, and not by hand."""
        digest = hashlib.sha256()
        try:
            with self._opened(listed, alone=alone) as (row, descriptor):
                if row is None:
                    return None
                if descriptor is None:
                    return Integrity.MISSING
                before = _signature(descriptor)
                if not looks_alike(row, before):
                    return Integrity.CHANGED
                for data in _read(descriptor, row.size):
                    digest.update(data)
                    yield VerifyStep(key_of(listed).path, len(data), None)
                if not looks_alike(row, _signature(descriptor)):
                    return Integrity.CHANGED
        except Unreadable:
            return Integrity.UNREADABLE
        return Integrity.of_hash(row.sha256 or row.other_sha256, digest.hexdigest())

    def _record(self, row: Media, found: ContentHash) -> bool:
        """Record the hash, if the row still speaks of the same bytes. Return whether it does."""
        with self._reconciling() as reconciler:
            now = reconciler.session.get(Media, row.id)
            if now is None or stat_of(now) != stat_of(row):
                return False
            if now.unverified:
                reconciler.hashed(now, found.sha256, is_utf8=found.is_utf8)
            elif now.is_utf8 is None:  # its hash stays, so that a verification finds bytes that rotted
                now.is_utf8 = found.is_utf8
            reconciler.commit()
        return True

    def _rows(self, *conditions: TextClause) -> Iterator[Media]:
        """The rows, in the order of their ids, as they are when their turn comes."""
        last = ""
        while True:
            query = select(Media).where(Media.id > last, *conditions).order_by(Media.id).limit(1)
            with self._database.reading() as session:
                row = session.scalar(query)
            if row is None:
                return
            yield row
            last = row.id

    @contextmanager
    def _looking(self, *, alone: bool) -> Iterator[Session]:
        if alone:
            with self._reconciling() as reconciler:
                yield reconciler.session
        else:
            with self._database.reading() as session:
                yield session

    @contextmanager
    def _opened(self, listed: Media, *, alone: bool = False) -> Iterator[tuple[Media | None, int | None]]:
        """The row as it is now, and its open file; alone, as they are while nobody changes them."""
        with self._looking(alone=alone) as session:
            row = session.get(Media, listed.id)
            with _unreadable():
                descriptor = None if row is None else self._disk.open(path_of(row))
        try:
            if descriptor is not None and hasattr(os, "posix_fadvise"):
                # What is read once, and by nobody else, need not push out what is being watched.
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_NOREUSE)
            yield row, descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)


@contextmanager
def _unreadable() -> Iterator[None]:
    """Tells a file that cannot be read from a database that does not answer."""
    try:
        yield
    except StorageUnavailable as error:
        raise Unreadable(str(error)) from error


def _signature(descriptor: int) -> FileStat:
    """Raises Unreadable."""
    with looking():
        return FileStat.of(os.fstat(descriptor))


def _read(descriptor: int, size: int) -> Iterator[bytes]:
    position = 0
    while position < size:
        with _unreadable(), idle_io():
            data = page_cache.read(descriptor, position, min(STEP, size - position))
        if not data:
            return
        yield data
        position += len(data)
