"""An SQLite database: a file."""

import contextlib
import os
import time
from collections.abc import Sequence
from functools import partial
from sqlite3 import SQLITE_BUSY, Cursor, OperationalError
from sqlite3 import Connection as SQLiteConnection
from typing import Any

from sqlalchemy import URL, Connection, create_engine, event, func
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.database.sql.engine import BUSY_TIMEOUT_MS, Database
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


class Sqlite(Database):
    """`busy_timeout_ms` is how long a writer waits for the writers of other processes."""

    keeps_lock = True
    on_one_machine = True
    clock = (func.julianday("now") - _EPOCH) * 86400

    def __init__(self, url: URL, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> None:
        engine = create_engine(url, pool_size=40, hide_parameters=True)  # which hold hashes and keys
        event.listen(engine, "connect", partial(_configure, busy_timeout_ms))
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
        return os.path.exists(self.engine.url.database or "")

    def explained(self, error: DBAPIError) -> StorageError:
        if getattr(error.orig, "sqlite_errorname", "") in _FULL:
            return OutOfSpace("The disk of the database is full.")
        primary = "_".join(getattr(error.orig, "sqlite_errorname", "").split("_")[:2])
        reason = _REASONS.get(primary, f"refuses: {error.orig}")
        return StorageUnavailable(f"The database {reason}.")

    def checkpoint(self) -> None:
        """Bring the log into the database: the next change writes over it, and it need not grow."""
        with self._translated(), contextlib.closing(self.engine.raw_connection()) as connection:
            connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)").close()

    def tell(self, session: Session, changes: Sequence[Change]) -> None:
        """A file tells nobody."""

    def line(self) -> None:
        """Nor can anybody hear of others by it."""

    def _broken_off(self, connection: Connection) -> None:
        # SQLAlchemy takes a COMMIT for the end of the transaction even when it fails. To SQLite it is not,
        # and the next user of the connection would be inside it still.
        connection.connection.rollback()


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
