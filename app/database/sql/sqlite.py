"""SQLite: connections to a database file, which other programs may lock, move or replace."""

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from sqlite3 import SQLITE_BUSY, Cursor, OperationalError
from sqlite3 import Connection as SQLiteConnection
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import URL, Connection, Engine, create_engine, event, func
from sqlalchemy.orm import Session

from app.database.sql.engine import BUSY_TIMEOUT_MS, PROBE_TIMEOUT_MS, Database
from app.storage.errors import OutOfSpace, StorageError, StorageUnavailable
from app.storage.types import Change

_REASONS = {
    "SQLITE_BUSY": "is locked by another program",
    "SQLITE_CANTOPEN": "cannot be opened",
    "SQLITE_READONLY": "cannot be written",
    "SQLITE_NOTADB": "is not an SQLite file",
    "SQLITE_CORRUPT": "is damaged",
}


_EPOCH = 2440587.5
"""The Julian date of 1970."""

# The second error concerns the shared-memory file beside the database.
_FULL = {"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"}

_REPLACED = "The file of the database was removed or replaced while it was in use. Start the server again."


class Sqlite(Database):
    """An SQLite database. `busy_timeout_ms` limits how long a writer waits for those of other processes."""

    keeps_lock = True
    on_one_machine = True
    clock = (func.julianday("now") - _EPOCH) * 86400

    def __init__(self, url: URL, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> None:
        # The connection that was used last has the most of the database in its cache. Parameters contain
        # hashes and keys.
        engine = create_engine(url, pool_size=40, pool_use_lifo=True, hide_parameters=True)
        self._file = _file_of(url)
        self._opened: tuple[int, int] | None = None
        event.listen(engine, "do_connect", self._check_file)
        event.listen(engine, "connect", partial(_configure, busy_timeout_ms))
        event.listen(engine, "connect", self._remember_file)
        # FULL, because with NORMAL a power cut loses acknowledged commits. Transient data may be lost.
        super().__init__(
            url,
            engine,
            read=("BEGIN",),
            write=("PRAGMA synchronous = FULL", "BEGIN IMMEDIATE"),
            write_transient=("PRAGMA synchronous = NORMAL", "BEGIN IMMEDIATE"),
        )

    def check_reachable(self) -> None:
        """Do nothing: there is no server."""

    def exists(self) -> bool:
        return self._file.exists()

    def create_private(self) -> None:
        # SQLite gives the files beside the database the same permissions. Do not open an existing file:
        # closing it would release the locks of this process's other connections (POSIX), and lose their
        # commits.
        with suppress(OSError):
            os.close(os.open(self._file, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def files(self) -> tuple[Path, ...]:
        return tuple(Path(f"{self._file}{suffix}") for suffix in ("", "-wal", "-shm", "-journal"))

    def _remember_file(self, _connection: SQLiteConnection, _record: Any) -> None:
        if self._opened is None:
            status = self._file.stat()
            self._opened = status.st_dev, status.st_ino

    def _check_file(self, *_: object) -> None:
        """Raise StorageUnavailable if the path leads to another file than the one that was opened first.

        Changes of a removed file would be acknowledged and lost; a new connection would create an empty file.
        """
        if self._opened is None:
            return
        try:
            status = self._file.stat()
        except OSError:
            raise StorageUnavailable(_REPLACED) from None
        if self._opened != (status.st_dev, status.st_ino):
            raise StorageUnavailable(_REPLACED)

    def _connect_and_begin(self, engine: Engine) -> Connection:
        if engine is not self.engine:  # a writer; readers may continue with the open file
            self._check_file()
        return super()._connect_and_begin(engine)

    def _check_location(self) -> None:
        self._check_file()
        try:
            if os.statvfs(self._file).f_flag & os.ST_RDONLY:
                raise StorageUnavailable(
                    "The file system of the database is read-only. Check its disk, then mount it for writing."
                )
            if not os.access(self._file, os.R_OK | os.W_OK):
                raise StorageUnavailable(
                    "The server's user may no longer write to the database. Restore the permissions "
                    "of its file."
                )
        except OSError as error:
            raise StorageUnavailable(
                f"The file of the database cannot be accessed: {error.strerror}. Check its disk."
            ) from error

    def _probe_write(self, *, commit: bool) -> None:
        # On a new connection with a shorter timeout: other programs may hold the lock forever.
        uri = f"{self._file.absolute().as_uri()}?mode=rw"
        try:
            with closing(
                sqlite3.connect(uri, uri=True, timeout=PROBE_TIMEOUT_MS / 1000, isolation_level=None)
            ) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("UPDATE volume SET id = id")
                connection.execute("COMMIT" if commit else "ROLLBACK")
        except sqlite3.Error as error:
            raise self.map_error(error) from error

    def map_error(self, error: BaseException | None) -> StorageError:
        name = getattr(error, "sqlite_errorname", "")
        if name in _FULL:
            return OutOfSpace("The disk of the database is full. Free space there, then try again.")
        primary = "_".join(name.split("_")[:2])
        reason = _REASONS.get(primary, f"reports an error: {error}")
        return StorageUnavailable(f"The database {reason}.")

    def checkpoint(self) -> None:
        """Copy the write-ahead log into the database, so that the next change overwrites it instead of
        growing it."""
        with self._map_errors(), closing(self.engine.raw_connection()) as connection:
            connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)").close()

    def notify(self, transaction: Session | Connection, changes: Sequence[Change]) -> None:
        """Do nothing: SQLite has no notifications."""

    def change_source(self) -> None:
        """Return None: SQLite has no notifications."""

    def _roll_back(self, connection: Connection) -> None:
        # SQLAlchemy considers the transaction ended even if COMMIT fails. SQLite does not: the next user of
        # the connection would still be inside it.
        connection.connection.rollback()


def _file_of(url: URL) -> Path:
    """Return the file of a database, which may be named by a URI (`file:/srv/films.db?uri=true`)."""
    name = url.database or ""
    return Path(unquote(urlsplit(name).path) if name.startswith("file:") and "uri" in url.query else name)


def _configure(busy_timeout_ms: int, connection: SQLiteConnection, _record: Any) -> None:
    connection.isolation_level = None  # otherwise the driver begins deferred transactions by itself
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
    _use_log(cursor, busy_timeout_ms)
    cursor.close()


def _use_log(cursor: Cursor, busy_timeout_ms: int) -> None:
    # SQLite does not wait for other processes in this step: retry it, for processes that start together.
    deadline = time.monotonic() + busy_timeout_ms / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except OperationalError as error:
            if error.sqlite_errorcode & 0xFF != SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
