"""Connections to an SQL database, and its errors in the storage's words."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from sqlite3 import SQLITE_BUSY, Cursor, OperationalError
from sqlite3 import Connection as SQLiteConnection
from typing import Any

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from app.storage.errors import OutOfSpace, StorageUnavailable

BUSY_TIMEOUT_MS = 30_000
"""How long a writer waits for the writers of other processes, unless somebody waits for an answer."""

_REASONS = {
    "SQLITE_BUSY": "is locked by another program",
    "SQLITE_CANTOPEN": "cannot be opened",
    "SQLITE_READONLY": "cannot be written",
    "SQLITE_NOTADB": "is no SQLite file",
    "SQLITE_CORRUPT": "is damaged",
}


# The second is said of the file beside the database that its readers and writers share.
_FULL = {"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"}


@contextmanager
def translated() -> Iterator[None]:
    """Database errors in the storage's words."""
    try:
        yield
    except DBAPIError as error:
        if getattr(error.orig, "sqlite_errorname", "") in _FULL:
            raise OutOfSpace("The disk of the database is full.") from error
        raise StorageUnavailable(f"The database {_reason(error.orig)}.") from error
    except PoolTimeout as error:
        raise StorageUnavailable("The database has too much to do.") from error


def _reason(error: BaseException | None) -> str:
    primary = "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])
    return _REASONS.get(primary, f"refuses: {error}")


class Database:
    """One SQL database. `busy_timeout_ms` is how long a writer waits for the writers of other processes."""

    def __init__(self, url: URL, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> None:
        self.engine = create_engine(url, pool_size=40)
        event.listen(self.engine, "connect", partial(_configure, busy_timeout_ms))
        event.listen(self.engine, "begin", _begin)
        self.name = url.render_as_string(hide_password=True)
        self._writers = self.engine.execution_options(begin="BEGIN IMMEDIATE")
        # SQLite lets a writer wait by sleeping and trying again, without any order. A lock of ours is
        # fair, and leaves only the writers of other processes to SQLite.
        self._writing = threading.Lock()

    def close(self) -> None:
        self.engine.dispose()

    def exists(self) -> bool:
        """Whether there is a database, which SQLite makes of nothing when it is first used."""
        return os.path.exists(self.engine.url.database or "")

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A snapshot of the database."""
        with translated(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    def checkpoint(self) -> None:
        """Bring the log into the database: the next change writes over it, and it need not grow."""
        with translated(), contextlib.closing(self.engine.raw_connection()) as connection:
            connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)").close()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._writing.acquire(timeout=BUSY_TIMEOUT_MS / 1000):
            raise StorageUnavailable("The database has too much to do.")
        try:
            yield
        finally:
            self._writing.release()

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """The one writer's view of the database; what is not committed inside is rolled back."""
        with (
            translated(),
            self._turn(),
            self._writers.connect() as connection,
            Session(connection, expire_on_commit=False) as session,
        ):
            try:
                yield session
            except BaseException:
                # SQLAlchemy takes a COMMIT for the end of the transaction even when it fails. To SQLite it
                # is not, and the next user of the connection would be inside it still.
                connection.connection.rollback()
                raise


def _configure(busy_timeout_ms: int, connection: SQLiteConnection, _record: Any) -> None:
    connection.isolation_level = None  # or the driver begins transactions by itself, and not IMMEDIATE
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
    _use_log(cursor, busy_timeout_ms)
    cursor.execute("PRAGMA synchronous = FULL")  # NORMAL loses acknowledged commits in a power cut
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


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))
