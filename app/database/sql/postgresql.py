"""PostgreSQL: connections to a server that may stop, restart or become unreachable at any time."""

import time
from collections.abc import Callable, Sequence
from typing import Any, cast
from uuid import uuid4

from psycopg.errors import ConnectionTimeout
from psycopg.errors import Error as PsycopgError
from sqlalchemy import (
    URL,
    Connection,
    Dialect,
    Double,
    Engine,
    ExceptionContext,
    create_engine,
    event,
    extract,
    func,
    text,
)
from sqlalchemy import (
    cast as sql_cast,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.database.change_listener import ChangeSource
from app.database.sql import change_feed
from app.database.sql.change_feed import PostgresqlChangeSource
from app.database.sql.engine import (
    BUSY_TIMEOUT_MS,
    OUTCOME_TIMEOUT_S,
    PROBE_TIMEOUT_MS,
    Database,
    OutcomeUnknown,
)
from app.database.sql.liveness import Server, WatchedConnection
from app.settings import ConfigurationError
from app.storage.errors import OutOfSpace, StorageError, StorageUnavailable
from app.storage.types import Change

MAX_CONNECTIONS = 16
"""Maximum number of connections of one process."""

POOL_TIMEOUT_S = 4
"""Seconds to wait for a free connection."""

_LOCK = 0x5EEC_AB1E
"""The number of the advisory lock of the writer, in all processes."""

_NOTIFY = text("SELECT pg_notify(:channel, payload) FROM unnest(CAST(:payloads AS text[])) AS payload")
_TRANSIENT_LOCK = _LOCK + 1
"""The number of the advisory lock of `Database.writing_transient`."""

_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 2,
    # These find a machine that is gone without closing its connections.
    "tcp_user_timeout": 4_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
}
"""Options of a connection that the URL may override."""

_SETTINGS = {
    "timezone": "UTC",
    "jit": "off",  # compiling a query takes longer than running it for a page
    # All queries read few rows by an index, most of them in its order. Without fresh statistics, as after
    # many uploads, the planner would prefer to read all rows and sort them.
    **dict.fromkeys(("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"), "off"),
    **dict.fromkeys(("enable_sort", "enable_incremental_sort"), "off"),
    # Bounds for how long a writer whose machine is gone blocks others, in seconds and in milliseconds.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "idle_in_transaction_session_timeout": "120000",
}

_REASONS = {
    "25006": "is read-only",
    "42501": "does not let this user do this",
    "53300": "has too many connections",
    "55P03": "is overloaded; try again in a few seconds",
    "57P01": "is shutting down",
    "57P02": "is shutting down",
    "57P03": "is starting",
}
"""By SQLSTATE."""

_FULL = "53100"
_CONNECTION_ENDED = {"57P01", "57P02", "57P05", "25P03"}
_NO_REPLY = "The database does not answer. Try again in a few seconds."


class Postgresql(Database):
    """A PostgreSQL database. `busy_timeout_ms` limits how long a writer waits for those of other processes.

    One advisory lock guards all changes, rather than one for each path: a file on the disk may have been
    moved there, so reconciling one path may take the row of any other.
    """

    keeps_lock = False
    on_one_machine = False
    clock = sql_cast(extract("epoch", func.clock_timestamp()), Double)

    def __init__(
        self,
        url: URL,
        *,
        busy_timeout_ms: int = BUSY_TIMEOUT_MS,
        outcome_timeout_s: float = OUTCOME_TIMEOUT_S,
    ) -> None:
        self._outcome_timeout_s = outcome_timeout_s
        self.origin = uuid4().hex  # identifies this process's own notifications, which it receives, too
        self._server = Server()
        self._settings = _SETTINGS | {"lock_timeout": str(busy_timeout_ms)}
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=MAX_CONNECTIONS,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            use_native_hstore=False,
            hide_parameters=True,  # they contain hashes and keys
        )
        event.listen(engine, "do_connect", self._connect)
        event.listen(engine, "handle_error", _note_disconnect)
        # READ COMMITTED, so that a writer that waited for the write lock sees the changes that were committed
        # meanwhile. A stricter level would show it a snapshot from before the wait.
        super().__init__(
            url,
            engine,
            read=("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",),
            write=(
                "BEGIN ISOLATION LEVEL READ COMMITTED",
                f"SELECT pg_advisory_xact_lock({_LOCK})",
            ),
            write_transient=(
                "BEGIN ISOLATION LEVEL READ COMMITTED",
                f"SELECT pg_advisory_xact_lock({_TRANSIENT_LOCK})",
            ),
        )

    def _connect(
        self, _dialect: Dialect, _record: Any, arguments: list[Any], options: dict[str, Any]
    ) -> WatchedConnection:
        # Autocommit, because our own statements begin transactions. No prepared statements, because they are
        # planned without their values: the plan of a page is cheap only if it knows the limit.
        wanted = {**_DEFAULTS, **options, "autocommit": True, "prepare_threshold": None}
        try:
            connection = WatchedConnection.connect(*arguments, **wanted)
        except ConnectionTimeout:
            # The probe records its result, so that other threads do not wait for the same timeout.
            self._server.is_responding()
            raise
        connection.server = self._server
        self._server.note_connected(connection.info.hostaddr or connection.info.host, connection.info.port)
        try:
            for name, value in self._settings.items():
                connection.execute("SELECT set_config(%s, %s, false)", (name, value))
            # A commit must be on a disk when it is acknowledged. Stricter settings stay.
            connection.execute(
                "SELECT set_config('synchronous_commit', 'on', false) "
                "WHERE current_setting('synchronous_commit') = 'off'"
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def check_reachable(self) -> None:
        try:
            with self._connect_and_begin(self.engine) as connection:
                encoding = connection.scalar(text("SHOW server_encoding"))
        except DBAPIError as error:
            reason = str(error.orig).partition("\n")[0].removeprefix("connection failed: ")
            raise StorageUnavailable(f"SEEKABLE_DATABASE_URL={self.name}: {reason.rstrip('.')}.") from error
        if encoding != "UTF8":
            raise ConfigurationError(
                f"SEEKABLE_DATABASE_URL={self.name}: The encoding of the database is {encoding}. Create it "
                "with the encoding UTF8."
            )

    def exists(self) -> bool:
        return True

    def map_error(self, error: BaseException | None) -> StorageError:
        state = getattr(error, "sqlstate", None)
        if state == _FULL:
            return OutOfSpace("The disk of the database is full. Free space there, then try again.")
        if state is None:
            # Without the driver's message: clients must not see the address and the user.
            return StorageUnavailable(_NO_REPLY)
        diagnostics = getattr(error, "diag", None)
        message = error if diagnostics is None else diagnostics.message_primary
        return StorageUnavailable(f"The database {_REASONS.get(state, f'reports an error: {message}')}.")

    def _check_location(self) -> None:
        """Do nothing: the write probe finds a server that became a standby."""

    def _probe_write(self, *, commit: bool) -> None:
        begin = (
            "BEGIN ISOLATION LEVEL READ COMMITTED",
            f"SET LOCAL lock_timeout = {PROBE_TIMEOUT_MS}",
            f"SELECT pg_advisory_xact_lock({_LOCK})",
        )
        with self._transaction(self.engine.execution_options(begin=begin)) as session:
            if session.scalar(text("SHOW transaction_read_only")) == "on":
                raise StorageUnavailable(
                    "The database is read-only. Name a primary server in SEEKABLE_DATABASE_URL."
                )

    def create_private(self) -> None:
        """Do nothing: the database is on the server."""

    def checkpoint(self) -> None:
        """Do nothing: the server manages its disk."""

    def notify(self, transaction: Session | Connection, changes: Sequence[Change]) -> None:
        if changes:
            self._send(transaction, change_feed.change_payloads(self.origin, changes))

    def _send(self, transaction: Session | Connection, payloads: Sequence[str]) -> None:
        """Send notifications, which PostgreSQL delivers once the transaction is committed."""
        transaction.execute(_NOTIFY, {"channel": change_feed.CHANNEL, "payloads": list(payloads)})

    def change_source(self) -> ChangeSource:
        return PostgresqlChangeSource(self.origin, self._dial, self._send_now)

    def _send_now(self, payloads: Sequence[str]) -> None:
        with self.reading() as session:
            self._send(session, payloads)
            session.commit()

    def _dial(self) -> WatchedConnection:
        """Return a new connection outside the pool. The caller closes it."""
        dialect = self.engine.dialect
        arguments, options = dialect.create_connect_args(self.engine.url)
        return self._connect(dialect, None, [*arguments], {**options})

    def commit(self, transaction: Session | Connection, was_committed: Callable[[Session], bool]) -> None:
        connection = transaction.connection() if isinstance(transaction, Session) else transaction
        backend = cast(WatchedConnection, connection.connection.dbapi_connection).info.backend_pid
        try:
            transaction.commit()
        except DBAPIError as error:
            if not error.connection_invalidated or not self._look_up(backend, was_committed):
                raise

    def _look_up(self, backend: int, was_committed: Callable[[Session], bool]) -> bool:
        """Return whether the transaction of a lost connection was committed."""
        deadline = time.monotonic() + self._outcome_timeout_s
        while True:
            try:
                if self._has_ended(backend):
                    with self.reading() as session:
                        return was_committed(session)
            except StorageUnavailable:  # the server may be restarting
                if self._server.is_unresponsive():
                    deadline = 0
            if time.monotonic() > deadline:
                raise OutcomeUnknown(
                    "The connection to the database was lost during the change. Check whether it was made."
                )
            time.sleep(0.05)

    def _has_ended(self, backend: int) -> bool:
        # The backend holds the lock until its commit is visible.
        held = text("SELECT true FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = :pid")
        with self.reading() as session:
            return session.scalar(held, {"pid": backend}) is None

    def _roll_back(self, connection: Connection) -> None:
        # A rollback on a lost connection would raise, and hide the first error.
        if not connection.invalidated:
            try:
                connection.connection.rollback()
            except PsycopgError:
                connection.invalidate()

    def _connect_and_begin(self, engine: Engine) -> Connection:
        if self._server.is_unresponsive():
            raise StorageUnavailable(_NO_REPLY)
        try:
            return super()._connect_and_begin(engine)
        except DBAPIError as error:
            if not error.connection_invalidated or self._server.is_unresponsive():
                raise
        # The first statement on a connection that was idle during a restart of the server fails, and
        # SQLAlchemy then discards all idle connections: try again.
        return super()._connect_and_begin(engine)


def _note_disconnect(context: ExceptionContext) -> None:
    """Treat errors with which the server closes a connection as its end, which may be detected later."""
    if getattr(context.original_exception, "sqlstate", None) in _CONNECTION_ENDED:
        context.is_disconnect = True
