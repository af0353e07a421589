"""Rows that were true of their files a moment ago, so that most opens ask no database and need no thread.

Nobody says when such a row is out of date. Other processes cannot, and what this one says might come before
a slow reader notes what it found earlier. So a row is used only with a proof that it is still true, which
no change can get around:

- The file at its path is opened anew, and fstat says that it is the very inode for which the row was read,
  and that nothing happened to it since. All that happens to a file (to its bytes, names, rights or times)
  changes its ctime, which nobody can set. (The signature in the row is less: a file may get its old size and
  time back.) A file that is replaced, moved or deleted, by whoever, fails here: every change takes its file
  step before it is committed.
- The ctime was old when the row was read. The clock of a file system ticks slowly, so that a file which
  has just changed may change again under the same ctime.
- The row was verified. To hash a file that was put there by hand may give it another ETag, and touches no
  file.

So the version is always the right one: the ETag and the time of the last change belong to these bytes. What
is left is what no file tells, such as an id that somebody edited in the database by hand, or that went with
a folder which was away for a month. For that the database is asked again every few seconds.
"""

import os
import threading
import time
from dataclasses import dataclass

from cachetools import LRUCache

from app.database.filesystem import page_cache
from app.database.filesystem.disk import Disk
from app.database.filesystem.posix import DiskPath
from app.database.filesystem.rows import info_of, path_of
from app.database.sql.schema import Media
from app.storage.types import Address, FileInfo


class DiskReader:
    """An open file and what its row said when it was opened. `is_near`: nobody else has to be asked when it
    is closed."""

    def __init__(self, info: FileInfo, descriptor: int, chunk_size: int, *, is_near: bool = False) -> None:
        self.info = info
        self._descriptor = descriptor
        self._is_near = is_near
        self.unit = chunk_size
        self.max_units = 1

    def fileno(self) -> int:
        return self._descriptor

    def read(self, start: int, size: int) -> list[bytes]:
        return [page_cache.read(self._descriptor, start, size)]

    def read_nowait(self, start: int, size: int) -> bytes | None:
        return page_cache.read_nowait(self._descriptor, start, size)

    def is_cached(self, start: int, stop: int) -> bool:
        return page_cache.is_cached(self._descriptor, start, stop)

    def preload(self, start: int, stop: int) -> None:
        page_cache.preload(self._descriptor, start, stop)

    def close(self) -> None:
        os.close(self._descriptor)

    def _has_name(self) -> bool:
        try:
            return os.fstat(self._descriptor).st_nlink > 0
        except OSError:
            return False

    def close_nowait(self) -> bool:
        # The last to close a big file that was deleted waits until its blocks are freed. (If it is deleted
        # between these two calls, this one waits, for once.)
        if not self._is_near or not self._has_name():
            return False
        os.close(self._descriptor)
        return True


MOST = 4096
"""Rows that are kept, of about 2 KiB each."""

QUIET_NS = 2_000_000_000
"""How long nothing has to have happened to a file: longer than any tick, which is a second on some disks."""

AGE_S = 10
"""How long the database is not asked again."""

Proof = tuple[int, int, int, int, int]
"""What stays the same for as long as nothing happens to a file."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a row said, and of which file."""

    info: FileInfo
    path: DiskPath
    proof: Proof
    until: float


def proof_of(status: os.stat_result) -> Proof:
    return (
        status.st_dev,  # one folder may hold several file systems that are not mounted there (Btrfs)
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _proves(descriptor: int, proof: Proof) -> bool:
    try:
        return proof_of(os.fstat(descriptor)) == proof
    except OSError:  # which another open will meet too, and say
        return False


class OpenCache:
    """The rows that were used last. Used by many threads at once."""

    def __init__(self, files: Disk, chunk_size: int, *, max_rows: int = MOST) -> None:
        self._disk = files
        self._chunk_size = chunk_size
        # No TTLCache: it takes four times as long, in every request.
        self._known: LRUCache[Address, Known] = LRUCache(max_rows)
        self._lock = threading.Lock()

    def note(self, address: Address, row: Media, status: os.stat_result, looked_ns: int) -> None:
        """The row is true of an open file of this status. `looked_ns` is when, or before, it was read."""
        if row.unverified or status.st_ctime_ns > looked_ns - QUIET_NS:
            return
        known = Known(info_of(row), path_of(row), proof_of(status), time.monotonic() + AGE_S)
        with self._lock:
            self._known[address] = known

    def open(self, address: Address) -> DiskReader | None:
        """The file, if the row that is known of it is proved to be true, without waiting for anything."""
        with self._lock:
            known = self._known.get(address)
        if known is None or time.monotonic() > known.until:
            return None
        descriptor = self._disk.open_cached(known.path)
        if descriptor is None:
            return None
        if not _proves(descriptor, known.proof):
            os.close(descriptor)
            return None
        return DiskReader(known.info, descriptor, self._chunk_size, is_near=True)
