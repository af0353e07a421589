"""Open files, and a cache of recent rows, so that most opens need neither the database nor a thread.

No process announces reliably that a cached row is outdated: other processes cannot, and an announcement of
this one may arrive before a slow reader caches its older row. So a row is used only with proof that it is
still true:

- The file at its path is opened again, and fstat(2) shows the inode for which the row was read, with the same
  ctime. Every change of a file (bytes, names, permissions or times) changes its ctime, which no program can
  set. Every change takes its file step before it commits, so a file that was replaced, moved or deleted fails
  here, whichever program did it.
- The ctime was old when the row was read: within one tick of its file system's clock, a file may change again
  under the same ctime.
- The row was verified: hashing a file that another program added may change its ETag, but touches no file.

The version is therefore always right: the ETag and the modification date belong to these bytes. Values that
no file reveals, such as an id that was edited in the database, are read again every few seconds.
"""

import os
import threading
import time
from dataclasses import dataclass
from typing import NamedTuple

from cachetools import LRUCache

from app.database.filesystem import Limits
from app.database.filesystem.disk import Disk
from app.database.filesystem.posix import DiskPath, pread
from app.database.filesystem.rows import path_of
from app.database.sql.schema import MediaRow, info_of
from app.storage.types import Address, FileInfo

_RWF_NOWAIT = getattr(os, "RWF_NOWAIT", 0)  # Linux only
_PRELOAD_BATCH = 256 << 10
_READ_AHEAD = 128 << 10
"""Bytes that the kernel reads ahead at once: of a shorter range the last page stands for all."""

_DISCARDED = [bytearray(1)]

NAMED_FOR_S = 0.1
"""Seconds for which a path counts as the name of an open file: so long a renamed folder may go unnoticed."""


class DiskReader:
    """An open file, and its row when it was opened.

    `cached` is the row by which it was opened without blocking: such a file is on a local disk, so that
    closing it needs no network.
    """

    max_units = 1

    def __init__(
        self,
        info: FileInfo,
        descriptor: int,
        chunk_size: int,
        *,
        disk: Disk | None = None,
        cached: "CachedRow | None" = None,
    ) -> None:
        self.info = info
        self._descriptor = descriptor
        self._disk = disk
        self._cached = cached
        self._named_until = 0.0
        self._ctime_ns = -1 if cached is None else cached.fields.ctime_ns
        self.unit = chunk_size

    @property
    def provable_until(self) -> float:
        return 0.0 if self._cached is None else self._cached.expires_at

    def is_ready(self, start: int, stop: int, now: float) -> bool:
        # Thousands of times a second: as few calls as possible.
        descriptor = self._descriptor
        try:
            # Every change, rename or deletion of the file itself changes its ctime.
            if os.fstat(descriptor).st_ctime_ns != self._ctime_ns:
                return False
            if now >= self._named_until:
                if not self._is_named():
                    return False
                self._named_until = now + NAMED_FOR_S
            if start < stop:
                os.preadv(descriptor, _DISCARDED, stop - 1, _RWF_NOWAIT)
                if stop - start > _READ_AHEAD:
                    os.preadv(descriptor, _DISCARDED, start, _RWF_NOWAIT)
        except OSError:  # the path names no file; or as in `is_cached`
            return False
        return True

    def _is_named(self) -> bool:
        """Return whether the path still leads to the file. Raises OSError if it leads nowhere."""
        if self._disk is None or self._cached is None:
            return False
        return stat_fields(self._disk.status_of_opened(self._cached.path)) == self._cached.fields

    def fileno(self) -> int:
        return self._descriptor

    def read(self, start: int, size: int) -> list[bytes]:
        return [pread(self._descriptor, start, size)]

    @property
    def reads_async(self) -> bool:
        return False

    async def read_async(self, start: int, size: int) -> None:
        """Return None: reading a disk needs a thread."""

    def recycle(self, piece: memoryview) -> None:
        """Do nothing: only `read_async` has memory of its own."""

    def read_nowait(self, start: int, size: int) -> bytes | None:
        if not _RWF_NOWAIT:
            return None
        buffer = bytearray(size)
        try:
            complete = os.preadv(self._descriptor, [buffer], start, _RWF_NOWAIT) == size
        except OSError:  # EAGAIN: not cached; EOPNOTSUPP: unknown (tmpfs). `read` raises all others.
            return None
        return bytes(buffer) if complete else None

    def is_cached(self, start: int, stop: int) -> bool:
        # The first and the last byte stand for all of them.
        if not _RWF_NOWAIT:
            return False
        try:
            for position in {start, stop - 1}:
                os.preadv(self._descriptor, _DISCARDED, position, _RWF_NOWAIT)
        except OSError:  # as above, with `preload`
            return False
        return True

    def preload(self, start: int, stop: int) -> None:
        for position in range(start, stop, _PRELOAD_BATCH):
            pread(self._descriptor, position, min(_PRELOAD_BATCH, stop - position))

    def close(self) -> None:
        os.close(self._descriptor)

    def close_nowait(self) -> bool:
        # The last close of a big deleted file blocks until its blocks are freed. (A deletion between these
        # two calls is rare enough.)
        if self._cached is None or not self._has_name():
            return False
        os.close(self._descriptor)
        return True

    def _has_name(self) -> bool:
        try:
            return os.fstat(self._descriptor).st_nlink > 0
        except OSError:
            return False


class StatFields(NamedTuple):
    """The fields of stat(2) that stay the same while nothing happens to a file."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def stat_fields(status: os.stat_result) -> StatFields:
    return StatFields(
        status.st_dev,  # one folder may contain several file systems that are no mounts (Btrfs)
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _still_matches(descriptor: int, fields: StatFields) -> bool:
    try:
        return stat_fields(os.fstat(descriptor)) == fields
    except OSError:  # the ordinary open meets the same error and raises it
        return False


@dataclass(frozen=True, slots=True)
class CachedRow:
    """The content of a row, and the file for which it was read."""

    info: FileInfo
    path: DiskPath
    fields: StatFields
    expires_at: float


class OpenCache:
    """The most recently used rows, each of about 2 KiB. Thread-safe."""

    def __init__(self, disk: Disk, chunk_size: int, limits: Limits) -> None:
        self._disk = disk
        self._chunk_size = chunk_size
        self._limits = limits
        # No TTLCache: it takes four times as long, in every request.
        self._rows: LRUCache[Address, CachedRow] = LRUCache(limits.max_cached_rows)
        self._lock = threading.Lock()

    def put(self, address: Address, row: MediaRow, status: os.stat_result, read_at_ns: int) -> None:
        """Cache a row that describes an open file.

        The query for the row began at `read_at_ns` (nanoseconds of the clock); `status` is that of the file,
        opened afterwards. Not cached if the file changed shortly before, because its next change may have the
        same ctime.
        """
        if row.unverified or status.st_ctime_ns > read_at_ns - self._limits.cache_after_s * 1e9:
            return
        expires_at = time.monotonic() + self._limits.cache_for_s
        cached = CachedRow(info_of(row), path_of(row), stat_fields(status), expires_at)
        with self._lock:
            self._rows[address] = cached

    def open(self, address: Address) -> DiskReader | None:
        """Open the file without blocking. Returns None if its row is not cached, or not proved."""
        with self._lock:
            row = self._rows.get(address)
        if row is None or time.monotonic() > row.expires_at:
            return None
        descriptor = self._disk.open_cached(row.path)
        if descriptor is None:
            return None
        if not _still_matches(descriptor, row.fields):
            os.close(descriptor)
            return None
        return DiskReader(row.info, descriptor, self._chunk_size, disk=self._disk, cached=row)
