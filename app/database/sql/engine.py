"""Transactions on an SQL database: one writer at a time, and readers with snapshots."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

from sqlalchemy import URL, ColumnElement, Connection, Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from app.database.change_listener import ChangeSource
from app.storage.errors import OutOfSpace, StorageError, StorageUnavailable
from app.storage.types import Change

BUSY_TIMEOUT_MS = 30_000
"""Milliseconds that a writer of a server waits for the writers of other processes."""

OUTCOME_TIMEOUT_S = 2
"""Seconds to determine the outcome of a COMMIT whose connection was lost."""

PROBE_TIMEOUT_MS = 1_000
"""Milliseconds that a write probe waits for the writers of other processes."""

STUCK_AFTER_S = 5
"""Seconds after which a change of this process that is still in progress counts as stuck."""

OVERLOADED = "The database is overloaded; try again in a few seconds."


class OutcomeUnknown(StorageUnavailable):
    """The connection was lost during a COMMIT, and its outcome could not be determined."""


class Database(ABC):
    """One SQL database. It has one writer at a time, among all processes.

    `read`, `write` and `write_transient` are the statements that begin each kind of transaction. The writers
    of each kind wait for each other. Transient data, such as leases, matters for minutes only.
    """

    clock: ColumnElement[float]
    """The time of the database, in seconds since 1970."""

    on_one_machine: bool
    """Whether all processes that use it are on one machine."""

    keeps_lock: bool
    """Whether a writer holds its lock until it has ended, even if its connection is lost before."""

    proven_for_s: float = 2
    """Seconds for which a successful change proves that the database is writable."""

    def __init__(
        self,
        url: URL,
        engine: Engine,
        *,
        read: tuple[str, ...],
        write: tuple[str, ...],
        write_transient: tuple[str, ...],
    ) -> None:
        # Without the query, which may contain a password, too.
        self.name = url.set(query={}).render_as_string(hide_password=True)
        self.engine = engine
        self._driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error
        event.listen(engine, "begin", partial(_begin, read))
        self._writers = engine.execution_options(begin=write)
        self._transient_writers = engine.execution_options(begin=write_transient)
        # Threads of this process wait for this lock, so that the database has at most one of its writers
        # waiting.
        self._writing = threading.Lock()
        self._writing_since = self._wrote_at = 0.0
        self._failed = False  # whether the database refused the last change

    def close(self) -> None:
        self.engine.dispose()

    @abstractmethod
    def check_reachable(self) -> None:
        """Check that the server is reachable and accepts our credentials.

        Raises StorageUnavailable, or ConfigurationError if another database is needed.
        """

    @abstractmethod
    def exists(self) -> bool:
        """Return whether the database exists. SQLite creates it at the first use."""

    @abstractmethod
    def map_error(self, error: BaseException | None) -> StorageError:
        """Return the storage error for an error of the driver."""

    @abstractmethod
    def checkpoint(self) -> None:
        """Keep the write-ahead log from growing, on a database that shares its disk with the files."""

    def files(self) -> tuple[Path, ...]:
        """Return the paths of the database on this machine, whether they exist or not."""
        return ()

    @abstractmethod
    def create_private(self) -> None:
        """Create the file of an embedded database, unless it exists, without rights for other users."""

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session that reads a snapshot of the database."""
        with self._map_errors(), self._transaction(self.engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Yield the session of the only writer. Without a commit inside, its changes are rolled back."""
        with self.turn(), self._recording_success(), self._transaction(self._writers) as session:
            yield session

    @contextmanager
    def writing_plainly(self) -> Iterator[Connection]:
        """Yield the connection of the only writer, like `writing`, to a caller that has the turn.

        Without a Session, and also for statements on the driver's connection, which cost a fraction.
        """
        with self._recording_success(), self._connect_and_begin(self._writers) as connection:
            try:
                yield connection
            except BaseException:
                self._roll_back(connection)
                raise

    @contextmanager
    def _recording_success(self) -> Iterator[None]:
        try:
            with self._map_errors():
                yield
        except StorageUnavailable:
            self._failed = True
            raise
        self._failed, self._wrote_at = False, time.monotonic()

    def check_writable(self) -> None:
        """Raise StorageUnavailable if no change can succeed. Takes about a second at most.

        Writes only if the last change failed, so that an idle disk can spin down. A full disk is no error
        here: deleting frees space.
        """
        self._check_location()
        now = time.monotonic()
        if now - self._wrote_at < self.proven_for_s:
            return
        if self._writing.locked():  # a probe would wait for it
            if now - self._writing_since > STUCK_AFTER_S:
                raise StorageUnavailable(
                    f"The database has completed no write for more than {STUCK_AFTER_S} s. Check that it "
                    "is not locked, full or overloaded."
                )
            return
        with suppress(OutOfSpace), self._map_errors():
            self._probe_write(commit=self._failed)
        self._failed = False

    @abstractmethod
    def _check_location(self) -> None:
        """Raise StorageUnavailable if the database was moved or replaced, or became read-only."""

    @abstractmethod
    def _probe_write(self, *, commit: bool) -> None:
        """Begin a change, and commit it or roll it back. Waits at most PROBE_TIMEOUT_MS for others."""

    @contextmanager
    def writing_transient(self) -> Iterator[Session]:
        """Yield a session for transient data. On PostgreSQL it does not wait for the
        writer; on SQLite a power cut may lose its commits."""
        turn = self.turn() if self.on_one_machine else nullcontext()
        with self._map_errors(), turn, self._transaction(self._transient_writers) as session:
            yield session

    def commit(self, transaction: Session | Connection, was_committed: Callable[[Session], bool]) -> None:
        """Commit the writer's changes.

        If the connection is lost, `was_committed` looks them up in a later snapshot. Raises OutcomeUnknown if
        that fails; after any other error nothing was committed.
        """
        transaction.commit()

    @abstractmethod
    def notify(self, transaction: Session | Connection, changes: Sequence[Change]) -> None:
        """Notify other processes of these changes, in this order, if and when they are committed."""

    @abstractmethod
    def change_source(self) -> ChangeSource | None:
        """Return the source of other processes' changes. Returns None if the database does not notify."""

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Session]:
        # The session commits the transaction of the connection, which has begun already.
        with (
            self._connect_and_begin(engine) as connection,
            Session(connection, expire_on_commit=False, join_transaction_mode="control_fully") as session,
        ):
            try:
                yield session
            except BaseException:
                self._roll_back(connection)
                raise

    def _connect_and_begin(self, engine: Engine) -> Connection:
        """Return a connection in a new transaction."""
        connection = engine.connect()
        try:
            connection.begin()
        except BaseException:
            connection.close()
            raise
        return connection

    @abstractmethod
    def _roll_back(self, connection: Connection) -> None:
        """Roll back the failed transaction of this connection."""

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Exclude the other writers of this process. Raises StorageUnavailable if that takes too long."""
        if not self._writing.acquire(timeout=BUSY_TIMEOUT_MS / 1000):
            raise StorageUnavailable(OVERLOADED)
        self._writing_since = time.monotonic()
        try:
            yield
        finally:
            self._writing.release()

    @contextmanager
    def _map_errors(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise self.map_error(error.orig) from error
        except self._driver_error as error:  # of a statement on the driver's connection
            raise self.map_error(error) from error
        except PoolTimeout as error:
            raise StorageUnavailable(OVERLOADED) from error


def _begin(read: tuple[str, ...], connection: Connection) -> None:
    for statement in connection.get_execution_options().get("begin", read):
        connection.exec_driver_sql(statement)
