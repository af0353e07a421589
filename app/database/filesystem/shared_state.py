"""State that processes of one machine share beside SQLite: leases as locks of the kernel, and copy records.

Leases write nothing to a disk, which may sleep, and the kernel releases them when their process dies.
"""

import fcntl
import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Lock

from app.database.filesystem.posix import map_os_errors
from app.storage.contract import CopyRecord
from app.storage.errors import StorageUnavailable

_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class _Held:
    holder: str
    until: float
    file: str
    descriptor: int


class FlockLeases:
    """`storage.leases.LeaseStore` over locked files in a folder.

    `open_folder` returns a descriptor of the folder. It is called for the first lease only, because a command
    that needs none may be run by another user, and must not create the folder.
    """

    def __init__(self, open_folder: Callable[[], int]) -> None:
        self._open_folder = open_folder
        self._folder = -1
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            for held in self._held.values():
                os.close(held.descriptor)
            self._held.clear()
            if self._folder >= 0:
                os.close(self._folder)

    def acquire(self, name: str, holder: str, for_s: float) -> bool:
        now = time.monotonic()
        with self._lock:
            held = self._held.get(name)
            if held is not None and held.holder != holder and now < held.until:
                return False
            file = hashlib.sha256(name.encode()).hexdigest()[:32]
            descriptor = self._lock_file(file) if held is None else held.descriptor
            if descriptor is None:
                return False
            self._held[name] = _Held(holder, now + for_s, file, descriptor)
            return True

    def release(self, name: str, holder: str) -> None:
        with self._lock:
            held = self._held.get(name)
            if held is not None and held.holder == holder:
                del self._held[name]
                with map_os_errors():
                    try:
                        os.unlink(held.file, dir_fd=self._folder)  # before another process can lock it
                    finally:
                        os.close(held.descriptor)

    def _lock_file(self, file: str) -> int | None:
        """Return a descriptor of the locked file; None if another process has locked it."""
        if self._folder < 0:
            self._folder = self._open_folder()
        with map_os_errors(), ExitStack() as stack:
            descriptor = os.open(file, _OPEN, 0o666, dir_fd=self._folder)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                inode = os.stat(file, dir_fd=self._folder, follow_symlinks=False).st_ino
            except (BlockingIOError, FileNotFoundError):
                return None
            if inode != os.fstat(descriptor).st_ino:  # it was released between the open and the lock
                return None
            stack.pop_all()
        return descriptor


_TABLE = """
CREATE TABLE IF NOT EXISTS copies (
    id TEXT PRIMARY KEY, path TEXT, etag TEXT, updated_at TEXT, source TEXT, origin TEXT
) WITHOUT ROWID
"""


class SqliteCopies:
    """`storage.contract.CopyRecords` over a file, which is created when a copy is recorded."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def find(self, ids: Sequence[str]) -> Mapping[str, CopyRecord]:
        with self._connected(create=False) as connection:
            if connection is None:
                return {}
            marks = ",".join("?" * len(ids))
            found = connection.execute(
                f"SELECT id, path, etag, updated_at, source, origin FROM copies WHERE id IN ({marks})",
                [*ids],
            ).fetchall()
        return {
            copy: CopyRecord(copy, path, etag, datetime.fromisoformat(updated_at), source, origin)
            for copy, path, etag, updated_at, source, origin in found
        }

    def save(self, copy: CopyRecord) -> None:
        values = (copy.id, copy.path, copy.etag, copy.updated_at.isoformat(), copy.source, copy.origin)
        with self._connected(create=True) as connection:
            assert connection is not None
            connection.execute("INSERT OR REPLACE INTO copies VALUES (?, ?, ?, ?, ?, ?)", values)

    def remove(self, copy: str) -> None:
        with self._connected(create=False) as connection:
            if connection is not None:
                connection.execute("DELETE FROM copies WHERE id = ?", [copy])

    @contextmanager
    def _connected(self, *, create: bool) -> Iterator[sqlite3.Connection | None]:
        """Yield the connection; None if there is no file, unless it is to be created."""
        with self._lock:
            try:
                if self._connection is None and (create or self._path.exists()):
                    self._connection = self._open()
                yield self._connection
            except (sqlite3.Error, OSError) as error:
                raise StorageUnavailable(f"{self._path}: {error}.") from error

    def _open(self) -> sqlite3.Connection:
        """Open the file; replace it if it is corrupt, for example by a backup during a change."""
        connection = self._connect()
        try:
            connection.execute(_TABLE)
            sound = connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        except sqlite3.OperationalError:  # for example, it is locked, or the disk is full
            connection.close()
            raise
        except sqlite3.DatabaseError:
            sound = False
        if sound:
            return connection
        connection.close()
        self._path.unlink()
        connection = self._connect()
        connection.execute(_TABLE)
        return connection

    def _connect(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        return sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
