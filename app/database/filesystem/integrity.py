"""Maintenance of the folder: scans, hashing of new files, verification of all files."""

import ctypes
import hashlib
import os
import platform
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache

from sqlalchemy import TextClause, delete, func, select, text
from sqlalchemy.orm import Session

from app.database.filesystem import Limits
from app.database.filesystem.diff import Reconciling
from app.database.filesystem.disk import Disk, map_read_errors
from app.database.filesystem.file_identity import FileStat
from app.database.filesystem.posix import pread
from app.database.filesystem.rows import looks_alike, path_of, stat_of
from app.database.filesystem.scanner import Scanner
from app.database.sql.engine import Database
from app.database.sql.schema import HASH_FIRST, UNJUDGED, DepartedRow, MediaRow, key_of
from app.storage.content_hash import ContentHash
from app.storage.errors import StorageUnavailable, Unreadable
from app.storage.ignored_names import IGNORE_NOTHING
from app.storage.maintenance import Integrity, ScanStep, Usage, VerifyStep

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}.get(platform.machine())
_THIS_THREAD = (1, 0)  # IOPRIO_WHO_PROCESS, which means a thread; 0 is the caller
_IDLE, _DEFAULT = 3 << 13, 0

DEPARTED_KEPT_FOR = timedelta(days=30)
"""Time for which the row of a missing file is kept, in case the file returns."""

STEP = 1 << 20
"""Bytes per read."""

TRIES = 3
"""Attempts to hash a file that moves meanwhile."""

MAX_FAILED = 100
"""While fewer files have failed, urgent files are hashed before each next one."""

_FIRST = text(f"({HASH_FIRST})")

_NO_FAULT = (None, Integrity.SOUND, Integrity.UNKNOWN)


@contextmanager
def idle_io() -> Iterator[None]:
    """Give reads of this thread the idle I/O class (ioprio_set(2); schedulers bfq and mq-deadline).

    Does nothing if the system lacks the call.
    """
    _set_io_priority(_IDLE)
    try:
        yield
    finally:
        _set_io_priority(_DEFAULT)


def _set_io_priority(priority: int) -> None:
    if sys.platform == "linux" and _IOPRIO_SET is not None:
        with suppress(OSError):
            _libc().syscall(_IOPRIO_SET, *_THIS_THREAD, priority)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


class FilesystemMaintenance:
    """`storage.maintenance.Maintenance` over a folder and its database."""

    def __init__(
        self, database: Database, disk: Disk, reconciling: Reconciling, scanner: Scanner, limits: Limits
    ) -> None:
        self._database = database
        self._disk = disk
        self._reconciling = reconciling
        self._scanner = scanner
        self._limits = limits

    def usage(self, library: str | None) -> Usage:
        query = select(func.count(), func.sum(MediaRow.size))
        if library is not None:
            query = query.where(MediaRow.library == library)
        with self._database.reading() as session:
            files, size = session.execute(query).one()
        return Usage(files, int(size or 0))  # PostgreSQL sums integers to a Decimal

    def estimate_file_count(self) -> int:
        return self._scanner.estimate_file_count()

    def scan(self) -> Generator[ScanStep]:
        yield ScanStep(0, (), swept=self._disk.sweep())
        with self._database.writing() as session:
            expired = datetime.now(UTC) - DEPARTED_KEPT_FOR
            session.execute(delete(DepartedRow).where(DepartedRow.departed_at < expired))
            session.commit()
        yield from self._scanner.scan()

    def adopt_all(self, library: str) -> Generator[ScanStep]:
        scanner = Scanner(self._database, self._disk, self._reconciling, IGNORE_NOTHING, self._limits)
        return scanner.scan_library(library)

    def hash_unverified(self) -> Generator[int]:
        failed: set[str] = set()
        yield from self._hash_all(self._rows(_FIRST), failed)
        for condition in ("media.unverified", UNJUDGED):
            for row in self._rows(text(condition)):
                yield from self._hash_all([row], failed)
                if len(failed) < MAX_FAILED:
                    # Clients may be waiting for others that were added meanwhile.
                    yield from self._hash_all(self._rows(_FIRST), failed)

    def _hash_all(self, rows: Iterable[MediaRow], failed: set[str]) -> Generator[int]:
        for listed in rows:
            if listed.id not in failed and not (yield from self._hash_and_record(listed)):
                failed.add(listed.id)

    def _hash_and_record(self, listed: MediaRow) -> Generator[int, None, bool]:
        """Return whether the hash was recorded. A file that moves meanwhile is read again."""
        for _ in range(TRIES):
            result = None
            with suppress(Unreadable):  # the row stays as it is
                result = yield from self._hash(listed)
            yield 0  # a step even if the file is empty or skipped
            if result is not None and self._record(*result):
                return True
        return False

    def _hash(self, listed: MediaRow) -> Generator[int, None, tuple[MediaRow, ContentHash] | None]:
        """Return the row and the hash; None if row and file disagree, which the next scan reconciles."""
        with self._opened(listed) as (row, descriptor):
            if row is None or descriptor is None:
                return None
            # Otherwise bytes that change after they were read could keep this hash.
            time.sleep(stat_of(row).ambiguous_for_s(time.time_ns()))
            before = _stat(descriptor)
            if not stat_of(row).agrees_with(before):
                return None
            content_hash = ContentHash()
            for data in _read(descriptor, row.size):
                content_hash.update(data)
                yield len(data)
            return (row, content_hash) if _stat(descriptor) == before else None

    def verify(self) -> Generator[VerifyStep]:
        for row in self._rows():
            integrity = yield from self._verify(row, locked=False)
            if integrity not in _NO_FAULT:
                # A change in progress takes its file step before it commits: look again under the write lock.
                integrity = yield from self._verify(row, locked=True)
            if integrity is not None:
                yield VerifyStep(key_of(row).path, 0, integrity)

    def _verify(self, listed: MediaRow, *, locked: bool) -> Generator[VerifyStep, None, Integrity | None]:
        """Return the integrity of the file; None if it was deleted through the server."""
        digest = hashlib.sha256()
        try:
            with self._opened(listed, locked=locked) as (row, descriptor):
                if row is None:
                    return None
                if descriptor is None:
                    return Integrity.MISSING
                before = _stat(descriptor)
                if not looks_alike(row, before):
                    return Integrity.CHANGED
                for data in _read(descriptor, row.size):
                    digest.update(data)
                    yield VerifyStep(key_of(listed).path, len(data), None)
                if not looks_alike(row, _stat(descriptor)):
                    return Integrity.CHANGED
        except Unreadable:
            return Integrity.UNREADABLE
        return Integrity.of_hash(row.sha256 or row.other_sha256, digest.hexdigest())

    def _record(self, row: MediaRow, found: ContentHash) -> bool:
        """Record the hash unless the row has changed. Return whether it was recorded."""
        with self._reconciling() as reconciler:
            now = reconciler.session.get(MediaRow, row.id)
            if now is None or stat_of(now) != stat_of(row):
                return False
            if now.unverified:
                reconciler.record_hash(now, found.sha256, is_utf8=found.is_utf8)
            elif now.is_utf8 is None:  # the hash stays, so that a verification can detect damage
                now.is_utf8 = found.is_utf8
            reconciler.commit()
        return True

    def _rows(self, *conditions: TextClause) -> Iterator[MediaRow]:
        """Yield the rows in the order of their ids, each read when its turn comes."""
        last = ""
        while True:
            query = select(MediaRow).where(MediaRow.id > last, *conditions).order_by(MediaRow.id).limit(1)
            with self._database.reading() as session:
                row = session.scalar(query)
            if row is None:
                return
            yield row
            last = row.id

    @contextmanager
    def _session(self, *, locked: bool) -> Iterator[Session]:
        if locked:
            with self._reconciling() as reconciler:
                yield reconciler.session
        else:
            with self._database.reading() as session:
                yield session

    @contextmanager
    def _opened(
        self, listed: MediaRow, *, locked: bool = False
    ) -> Iterator[tuple[MediaRow | None, int | None]]:
        """Yield the present row and a descriptor of its file, both read under the write lock if `locked`."""
        with self._session(locked=locked) as session:
            row = session.get(MediaRow, listed.id)
            with _map_unavailable():
                opened = None if row is None else self._disk.open(path_of(row))
        descriptor = None if opened is None else opened[0]
        try:
            if descriptor is not None and hasattr(os, "posix_fadvise"):
                # Bytes that are read once need not evict those of films that clients watch.
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_NOREUSE)
            yield row, descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)


@contextmanager
def _map_unavailable() -> Iterator[None]:
    """Raise Unreadable for a file that cannot be read, so that StorageUnavailable means the database."""
    try:
        yield
    except StorageUnavailable as error:
        raise Unreadable(str(error)) from error


def _stat(descriptor: int) -> FileStat:
    """Return the status of an open file. Raises Unreadable."""
    with map_read_errors():
        return FileStat.of(os.fstat(descriptor))


def _read(descriptor: int, size: int) -> Iterator[bytes]:
    position = 0
    while position < size:
        with _map_unavailable(), idle_io():
            data = pread(descriptor, position, min(STEP, size - position))
        if not data:
            return
        yield data
        position += len(data)
