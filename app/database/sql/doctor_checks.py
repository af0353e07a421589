"""Looks at an SQL database, and changes nothing."""

import time
from contextlib import ExitStack
from datetime import UTC, datetime

from sqlalchemy import func, inspect, select, text, update
from sqlalchemy.orm import Session

from app.database.facts import DatabaseFacts
from app.database.filesystem.permissions import is_exposed
from app.database.sql.engine import Database
from app.database.sql.opening import open_sql, schema_of
from app.database.sql.schema import Account, Volume
from app.settings import ConfigurationError, Settings
from app.storage.errors import StorageError

PATIENCE_MS = 3_000


def examine_sql(settings: Settings) -> DatabaseFacts:
    """The database of files and accounts."""
    name = "The database"
    try:
        with ExitStack() as stack:
            database = open_sql(settings, stack, busy_timeout_ms=PATIENCE_MS)
            name = database.name
            if not database.exists():
                return DatabaseFacts(name, made=False)
            _try_to_write(database)
            with database.reading() as session:
                exposed = tuple(str(file) for file in database.files() if is_exposed(file))
                return _facts(name, session, exposed, accounts=settings.access == "accounts")
    except (ConfigurationError, StorageError) as error:
        return DatabaseFacts(name, error=str(error))


def _facts(name: str, session: Session, exposed: tuple[str, ...], *, accounts: bool) -> DatabaseFacts:
    connection = session.connection()
    tables = inspect(connection).get_table_names()
    state, _ = schema_of(connection)
    counted = accounts and Account.__tablename__ in tables
    return DatabaseFacts(
        name,
        made=state != "none",
        exposed=exposed,
        alone=connection.dialect.name == "sqlite",
        migration="due" if state == "none" else state,
        skew_s=_skew(session) if connection.dialect.name == "postgresql" else 0.0,
        accounts=session.scalar(select(func.count()).select_from(Account)) if counted else None,
    )


def _skew(session: Session) -> float:
    asked = time.time()
    there = session.scalar(text("SELECT clock_timestamp()"))
    assert isinstance(there, datetime)
    return there.astimezone(UTC).timestamp() - (asked + time.time()) / 2


def _try_to_write(database: Database) -> None:
    """Begin a change, and take it back."""
    with database.writing() as session:
        if inspect(session.connection()).has_table(Volume.__tablename__):
            session.execute(update(Volume).values(id=Volume.id))
        session.rollback()
