"""An SQLite database: a file."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from sqlite3 import SQLITE_BUSY, Cursor, OperationalError
from sqlite3 import Connection as SQLiteConnection
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import URL, Connection, Engine, create_engine, event, func
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.database.sql.engine import BUSY_TIMEOUT_MS, TRY_FOR_MS, Database
from app.storage.errors import OutOfSpace, StorageError, StorageUnavailable
from app.storage.types import Change

_REASONS = {
    "SQLITE_BUSY": "is locked by another program",
    "SQLITE_CANTOPEN": "cannot be opened",
    "SQLITE_READONLY": "cannot be written",
    "SQLITE_NOTADB": "is no SQLite file",
    "SQLITE_CORRUPT": "is damaged",
}


_EPOCH = 2440587.5
"""The Julian date of 1970."""

# The second is said of the file beside the database that its readers and writers share.
_FULL = {"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"}

_REPLACED = "The file of the database was removed or replaced while it was in use; start the server again."


class Sqlite(Database):
    """`busy_timeout_ms` is how long a writer waits for the writers of other processes."""

    keeps_lock = True
    on_one_machine = True
    clock = (func.julianday("now") - _EPOCH) * 86400

    def __init__(self, url: URL, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> None:
        engine = create_engine(url, pool_size=40, hide_parameters=True)  # which hold hashes and keys
        self._file = _file_of(url)
        self._opened: tuple[int, int] | None = None
        event.listen(engine, "do_connect", self._check_file)
        event.listen(engine, "connect", partial(_configure, busy_timeout_ms))
        event.listen(engine, "connect", self._note_file)
        # FULL, because NORMAL loses acknowledged commits in a power cut: nothing but notes.
        super().__init__(
            url,
            engine,
            read=("BEGIN",),
            write=("PRAGMA synchronous = FULL", "BEGIN IMMEDIATE"),
            note=("PRAGMA synchronous = NORMAL", "BEGIN IMMEDIATE"),
        )

    def reach(self) -> None:
        """It needs no server."""

    def exists(self) -> bool:
        return self._file.exists()

    def keep_private(self) -> None:
        # SQLite gives the files beside it the rights that this one has. One that is there is not opened: to
        # close it would drop the locks that other connections of this process have on it (POSIX), and their
        # commits would get lost.
        with contextlib.suppress(OSError):
            os.close(os.open(self._file, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        super().keep_private()

    def files(self) -> tuple[Path, ...]:
        return tuple(Path(f"{self._file}{suffix}") for suffix in ("", "-wal", "-shm", "-journal"))

    def _note_file(self, _connection: SQLiteConnection, _record: Any) -> None:
        if self._opened is None:
            status = self._file.stat()
            self._opened = status.st_dev, status.st_ino

    def _check_file(self, *_: object) -> None:
        """Raise StorageUnavailable if the path leads to another file than the one that was opened first.

        A change of a removed file would be acknowledged and lost; a new connection would make an empty one.
        """
        if self._opened is None:
            return
        try:
            status = self._file.stat()
        except OSError:
            raise StorageUnavailable(_REPLACED) from None
        if self._opened != (status.st_dev, status.st_ino):
            raise StorageUnavailable(_REPLACED)

    def _begun(self, engine: Engine) -> Connection:
        if engine is not self.engine:  # a change; readers may go on with what they have open
            self._check_file()
        return super()._begun(engine)

    def _check_place(self) -> None:
        self._check_file()
        try:
            if os.statvfs(self._file).f_flag & os.ST_RDONLY:
                raise StorageUnavailable("The file system of the database is read-only.")
            if not os.access(self._file, os.R_OK | os.W_OK):
                raise StorageUnavailable("The database cannot be written by this user any more.")
        except OSError as error:
            raise StorageUnavailable(f"The database cannot be reached: {error.strerror}.") from error

    def _try_to_write(self, *, really: bool) -> None:
        # A connection of its own, with less patience: other programs may hold the lock for good.
        uri = f"{self._file.absolute().as_uri()}?mode=rw"
        try:
            with contextlib.closing(
                sqlite3.connect(uri, uri=True, timeout=TRY_FOR_MS / 1000, isolation_level=None)
            ) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("UPDATE volume SET id = id")
                connection.execute("COMMIT" if really else "ROLLBACK")
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def explained(self, error: DBAPIError) -> StorageError:
        return self._explained(error.orig)

    def _explained(self, error: BaseException | None) -> StorageError:
        name = getattr(error, "sqlite_errorname", "")
        if name in _FULL:
            return OutOfSpace("The disk of the database is full.")
        primary = "_".join(name.split("_")[:2])
        reason = _REASONS.get(primary, f"refuses: {error}")
        return StorageUnavailable(f"The database {reason}.")

    def checkpoint(self) -> None:
        """Bring the log into the database: the next change writes over it, and it need not grow."""
        with self._translated(), contextlib.closing(self.engine.raw_connection()) as connection:
            connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)").close()

    def notify(self, session: Session, changes: Sequence[Change]) -> None:
        """Do nothing: SQLite has no notifications."""

    def change_source(self) -> None:
        """Return None: SQLite has no notifications."""

    def _broken_off(self, connection: Connection) -> None:
        # SQLAlchemy takes a COMMIT for the end of the transaction even when it fails. To SQLite it is not,
        # and the next user of the connection would be inside it still.
        connection.connection.rollback()


def _file_of(url: URL) -> Path:
    """Return the file of a database, which may be named by a URI (`file:/srv/films.db?uri=true`)."""
    name = url.database or ""
    return Path(unquote(urlsplit(name).path) if name.startswith("file:") and "uri" in url.query else name)


def _configure(busy_timeout_ms: int, connection: SQLiteConnection, _record: Any) -> None:
    connection.isolation_level = None  # or the driver begins transactions by itself, and not IMMEDIATE
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
    _use_log(cursor, busy_timeout_ms)
    cursor.close()


def _use_log(cursor: Cursor, busy_timeout_ms: int) -> None:
    # The one step that SQLite does not wait for when others take it, too: processes that start at once.
    deadline = time.monotonic() + busy_timeout_ms / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except OperationalError as error:
            if error.sqlite_errorcode & 0xFF != SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
