"""Connections to an SQL database: what all kinds of them have in common."""

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
from app.database.filesystem.posix import make_private
from app.storage.errors import OutOfSpace, StorageError, StorageUnavailable
from app.storage.types import Change

BUSY_TIMEOUT_MS = 30_000
"""How long a writer waits for the writers of other processes, unless somebody waits for an answer."""

PROVEN_FOR_S = 2
"""Seconds for which one change that succeeded proves that others can."""

TRY_FOR_MS = 1_000
"""Milliseconds that a trial waits for the writers of other processes."""

STUCK_AFTER_S = 5
"""Seconds after which a change of ours that is still under way counts as stuck."""

BUSY = "The database has too much to do."


class OutcomeUnknown(StorageUnavailable):
    """The connection was lost in a COMMIT, and nobody can say what became of it."""


class Database(ABC):
    """One SQL database. It has one writer at a time, among all processes.

    `read` and `write` are the statements that begin a reader's and a writer's transaction; the latter waits
    for its turn. So does `note`, behind others of its kind, for what is no file's and no account's.
    """

    clock: ColumnElement[float]
    """What the time is to the database, in seconds since 1970."""

    on_one_machine: bool
    """Whether no process of another machine can be at work in it."""

    keeps_lock: bool
    """Whether a writer is the only one until it has ended, even if its connection is lost before."""

    def __init__(
        self,
        url: URL,
        engine: Engine,
        *,
        read: tuple[str, ...],
        write: tuple[str, ...],
        note: tuple[str, ...],
    ) -> None:
        # Without the query, in which there may be a password, too.
        self.name = url.set(query={}).render_as_string(hide_password=True)
        self.engine = engine
        event.listen(engine, "begin", partial(_begin, read))
        self._writers = engine.execution_options(begin=write)
        self._notes = engine.execution_options(begin=note)
        # Databases let a writer wait without knowing of the threads behind it. A lock of ours leaves only the
        # writers of other processes to them.
        self._writing = threading.Lock()
        self._writing_since = self._wrote_at = 0.0
        self._failed = False  # the last change, for want of a database that takes it

    def close(self) -> None:
        self.engine.dispose()

    @abstractmethod
    def reach(self) -> None:
        """See that there is a server, if it needs one, and that it lets us in. ConfigurationError."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is a database, which some make of nothing when they are first used."""

    @abstractmethod
    def explained(self, error: DBAPIError) -> StorageError:
        """An error of the database in the storage's words."""

    @abstractmethod
    def checkpoint(self) -> None:
        """Make room where the database shares its disk with the files, if it can."""

    def files(self) -> tuple[Path, ...]:
        """Return the files of the database on this machine, or where they may come to be."""
        return ()

    def keep_private(self) -> None:
        """Take all rights to its files from other users of this machine."""
        for file in self.files():
            make_private(file)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A snapshot of the database."""
        with self._translated(), self._transaction(self.engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """The one writer's view of the database; what is not committed inside is rolled back."""
        try:
            with self._translated(), self._turn(), self._transaction(self._writers) as session:
                yield session
        except StorageUnavailable:
            self._failed = True
            raise
        self._failed, self._wrote_at = False, time.monotonic()

    def check_writable(self) -> None:
        """Raise StorageUnavailable where no change can succeed; return within about a second.

        Nothing is written unless the last change failed, so that a disk may rest. A full disk is no such
        case: deleting makes room.
        """
        self._check_place()
        now = time.monotonic()
        if now - self._wrote_at < PROVEN_FOR_S:
            return
        if self._writing.locked():  # a trial would only wait behind it
            if now - self._writing_since > STUCK_AFTER_S:
                raise StorageUnavailable(f"No change has succeeded for more than {STUCK_AFTER_S} s.")
            return
        with suppress(OutOfSpace), self._translated():
            self._try_to_write(really=self._failed)
        self._failed = False

    @abstractmethod
    def _check_place(self) -> None:
        """Raise StorageUnavailable if the database is not where it was opened, or is read-only there."""

    @abstractmethod
    def _try_to_write(self, *, really: bool) -> None:
        """Begin a change, or really write; wait TRY_FOR_MS for other processes at most."""

    @contextmanager
    def noting(self) -> Iterator[Session]:
        """The same of what matters for minutes only, and is not kept waiting by the writer where it need not
        be. In SQLite a power cut may take it away."""
        turn = self._turn() if self.on_one_machine else nullcontext()
        with self._translated(), turn, self._transaction(self._notes) as session:
            yield session

    def commit(self, session: Session, was_made: Callable[[Session], bool]) -> None:
        """Commit what a writer did, after which it cannot be undone.

        `was_made` tells whether a snapshot has it, should the connection be lost meanwhile. Raises
        OutcomeUnknown if that cannot be looked up; all else means that it was not.
        """
        session.commit()

    @abstractmethod
    def notify(self, session: Session, changes: Sequence[Change]) -> None:
        """Notify other processes of these changes, in this order, if and when the session commits them."""

    @abstractmethod
    def change_source(self) -> ChangeSource | None:
        """Return the source of other processes' changes. Returns None if the database does not notify."""

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Session]:
        # The session's commit is that of the transaction, which has begun already.
        with (
            self._begun(engine) as connection,
            Session(connection, expire_on_commit=False, join_transaction_mode="control_fully") as session,
        ):
            try:
                yield session
            except BaseException:
                self._broken_off(connection)
                raise

    def _begun(self, engine: Engine) -> Connection:
        """A connection in a transaction that has begun."""
        connection = engine.connect()
        try:
            connection.begin()
        except BaseException:
            connection.close()
            raise
        return connection

    @abstractmethod
    def _broken_off(self, connection: Connection) -> None:
        """End the transaction on this connection, which failed."""

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._writing.acquire(timeout=BUSY_TIMEOUT_MS / 1000):
            raise StorageUnavailable(BUSY)
        self._writing_since = time.monotonic()
        try:
            yield
        finally:
            self._writing.release()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise self.explained(error) from error
        except PoolTimeout as error:
            raise StorageUnavailable(BUSY) from error


def _begin(read: tuple[str, ...], connection: Connection) -> None:
    for statement in connection.get_execution_options().get("begin", read):
        connection.exec_driver_sql(statement)
