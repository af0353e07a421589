"""The files of a library that are copies, recorded in an SQLite file of their own.

Only `seekable copy` reads or writes it. If it is lost, copies count as files of other programs until the next
run finds that they are still equal.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from threading import Lock

from app.storage.contract import CopyRecord
from app.storage.errors import StorageUnavailable

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
