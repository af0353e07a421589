"""A PostgreSQL database: a server, which may be stopped, restarted, or cut off at any time."""

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
from app.database.sql.engine import BUSY_TIMEOUT_MS, TRY_FOR_MS, Database, OutcomeUnknown
from app.database.sql.liveness import AnsweredConnection, Server
from app.settings import ConfigurationError
from app.storage.errors import OutOfSpace, StorageError, StorageUnavailable
from app.storage.types import Change

CONNECTIONS = 16
"""How many one process has, at most."""

POOL_TIMEOUT_S = 4
"""How long one of them is waited for."""

LOOKED_UP_WITHIN_S = 2
"""How long it is tried to learn what became of a COMMIT whose connection was lost."""

_LOCK = 0x5EEC_AB1E
"""The number of the advisory lock that the writer has, in all processes."""

_NOTIFY = text("SELECT pg_notify(:channel, payload) FROM unnest(CAST(:payloads AS text[])) AS payload")
_NOTES_LOCK = _LOCK + 1
"""That of who notes what is no file's and no account's."""

_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 2,
    # Of a machine that is gone without a word.
    "tcp_user_timeout": 4_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
}
"""What is asked of a connection, unless the URL says otherwise."""

_SETTINGS = {
    "timezone": "UTC",
    "jit": "off",  # pages are short, and compiling takes longer than they do
    # All that is asked for is few rows by an index, and most of it in the order of that. Without statistics,
    # as after many files came, a plan would rather read all rows and sort them.
    **dict.fromkeys(("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"), "off"),
    **dict.fromkeys(("enable_sort", "enable_incremental_sort"), "off"),
    # A writer whose machine is gone keeps others waiting for so long, in seconds and milliseconds.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "idle_in_transaction_session_timeout": "120000",
}

_REASONS = {
    "25006": "is read-only",
    "42501": "does not let this user do what is needed",
    "53300": "has too many connections",
    "55P03": "has too much to do",
    "57P01": "is shutting down",
    "57P02": "is shutting down",
    "57P03": "is starting",
}
"""By SQLSTATE."""

_FULL = "53100"
_LAST_WORDS = {"57P01", "57P02", "57P05", "25P03"}
_SILENT = "The database does not answer."


class Postgresql(Database):
    """`busy_timeout_ms` is how long a writer waits for the writers of other processes.

    There is one advisory lock for all changes, not one for each path: what is found on the disk may be a file
    that was elsewhere until now, so that settling one path may take a row from any other.
    """

    keeps_lock = False
    on_one_machine = False
    clock = sql_cast(extract("epoch", func.clock_timestamp()), Double)

    def __init__(self, url: URL, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> None:
        self.origin = uuid4().hex  # of what this process tells others, which it hears, too
        self._server = Server()
        self._settings = _SETTINGS | {"lock_timeout": str(busy_timeout_ms)}
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            use_native_hstore=False,
            hide_parameters=True,  # which hold hashes and keys
        )
        event.listen(engine, "do_connect", self._connect)
        event.listen(engine, "handle_error", _note_end)
        # The writer sees what was committed before it got the lock: it takes that first, and then every
        # statement of its looks anew.
        super().__init__(
            url,
            engine,
            read=("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",),
            write=(
                "BEGIN ISOLATION LEVEL READ COMMITTED",
                f"SELECT pg_advisory_xact_lock({_LOCK})",
            ),
            note=(
                "BEGIN ISOLATION LEVEL READ COMMITTED",
                f"SELECT pg_advisory_xact_lock({_NOTES_LOCK})",
            ),
        )

    def _connect(
        self, _dialect: Dialect, _record: Any, arguments: list[Any], options: dict[str, Any]
    ) -> AnsweredConnection:
        # Transactions are begun by statements of ours. What is prepared ahead would be planned without its
        # values, and a page is only cheap if the plan knows how few rows it wants.
        wanted = {**_DEFAULTS, **options, "autocommit": True, "prepare_threshold": None}
        try:
            connection = AnsweredConnection.connect(*arguments, **wanted)
        except ConnectionTimeout:
            self._server.answers()  # so that nobody else finds out by waiting as long
            raise
        connection.server = self._server
        self._server.connected(connection.info.hostaddr or connection.info.host, connection.info.port)
        try:
            for name, value in self._settings.items():
                connection.execute("SELECT set_config(%s, %s, false)", (name, value))
            # An answer says that the change is on a disk; what is stricter stays.
            connection.execute(
                "SELECT set_config('synchronous_commit', 'on', false) "
                "WHERE current_setting('synchronous_commit') = 'off'"
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def reach(self) -> None:
        try:
            with self._begun(self.engine) as connection:
                encoding = connection.scalar(text("SHOW server_encoding"))
        except DBAPIError as error:
            words = str(error.orig).partition("\n")[0].removeprefix("connection failed: ")
            raise ConfigurationError(f"SEEKABLE_DATABASE_URL={self.name}: {words}") from error
        if encoding != "UTF8":
            raise ConfigurationError(
                f"SEEKABLE_DATABASE_URL={self.name}: The encoding of the database has to be UTF8, not "
                f"{encoding}."
            )

    def exists(self) -> bool:
        return True

    def explained(self, error: DBAPIError) -> StorageError:
        state = getattr(error.orig, "sqlstate", None)
        if state == _FULL:
            return OutOfSpace("The disk of the database is full.")
        if state is None:
            # Where it is, and for whom, is nobody's business who asks for a file.
            return StorageUnavailable(_SILENT)
        said = getattr(error.orig, "diag", None)
        refuses = f"refuses: {said.message_primary if said is not None else error.orig}"
        return StorageUnavailable(f"The database {_REASONS.get(state, refuses)}.")

    def _check_place(self) -> None:
        """A server is where it answers; the trial finds one that became a standby."""

    def _try_to_write(self, *, really: bool) -> None:
        begin = (
            "BEGIN ISOLATION LEVEL READ COMMITTED",
            f"SET LOCAL lock_timeout = {TRY_FOR_MS}",
            f"SELECT pg_advisory_xact_lock({_LOCK})",
        )
        with self._transaction(self.engine.execution_options(begin=begin)) as session:
            if session.scalar(text("SHOW transaction_read_only")) == "on":
                raise StorageUnavailable("The database is read-only.")

    def checkpoint(self) -> None:
        """It sees to its disk by itself."""

    def notify(self, session: Session, changes: Sequence[Change]) -> None:
        if changes:
            self._send(session, change_feed.change_payloads(self.origin, changes))

    def _send(self, session: Session, payloads: Sequence[str]) -> None:
        """Send notifications, which PostgreSQL delivers once the session is committed."""
        session.execute(_NOTIFY, {"channel": change_feed.CHANNEL, "payloads": list(payloads)})

    def change_source(self) -> ChangeSource:
        return PostgresqlChangeSource(self.origin, self._dial, self._send_now)

    def _send_now(self, payloads: Sequence[str]) -> None:
        with self.reading() as session:
            self._send(session, payloads)
            session.commit()

    def _dial(self) -> AnsweredConnection:
        """One more connection, which is the caller's."""
        dialect = self.engine.dialect
        arguments, options = dialect.create_connect_args(self.engine.url)
        return self._connect(dialect, None, [*arguments], {**options})

    def commit(self, session: Session, was_made: Callable[[Session], bool]) -> None:
        connection = cast(AnsweredConnection, session.connection().connection.dbapi_connection)
        backend = connection.info.backend_pid
        try:
            session.commit()
        except DBAPIError as error:
            if not error.connection_invalidated or not self._look_up(backend, was_made):
                raise

    def _look_up(self, backend: int, was_made: Callable[[Session], bool]) -> bool:
        """Whether a transaction was committed whose connection was lost."""
        deadline = time.monotonic() + LOOKED_UP_WITHIN_S
        while True:
            try:
                if self._has_ended(backend):
                    with self.reading() as session:
                        return was_made(session)
            except StorageUnavailable:  # it may be starting again
                if self._server.is_silent():
                    deadline = 0
            if time.monotonic() > deadline:
                raise OutcomeUnknown(
                    "The database was lost in the middle of the change, which may have been made or not."
                )
            time.sleep(0.05)

    def _has_ended(self, backend: int) -> bool:
        # It has the lock until all can see what it did.
        held = text("SELECT true FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = :pid")
        with self.reading() as session:
            return session.scalar(held, {"pid": backend}) is None

    def _broken_off(self, connection: Connection) -> None:
        # Else a connection that was lost would say so, and hide why this failed.
        if not connection.invalidated:
            try:
                connection.connection.rollback()
            except PsycopgError:
                connection.invalidate()

    def _begun(self, engine: Engine) -> Connection:
        if self._server.is_silent():
            raise StorageUnavailable(_SILENT)
        try:
            return super()._begun(engine)
        except DBAPIError as error:
            if not error.connection_invalidated or self._server.is_silent():
                raise
        # Connections that were idle while the server was restarted are found out by their first statement,
        # and then all are forgotten.
        return super()._begun(engine)


def _note_end(context: ExceptionContext) -> None:
    """Let what the server says last of a connection count as its end, which may show later."""
    if getattr(context.original_exception, "sqlstate", None) in _LAST_WORDS:
        context.is_disconnect = True
