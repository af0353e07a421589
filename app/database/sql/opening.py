"""Opens SQL databases and migrates their schema.

Alembic is imported only to migrate: it takes a fifth of the time of a start, and 11 MiB.
"""

from contextlib import ExitStack
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sqlalchemy import URL, Connection, column, inspect, select, table
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from app.database.open_library import NEWER_SCHEMA
from app.database.sql.engine import BUSY_TIMEOUT_MS, OUTCOME_TIMEOUT_S, Database
from app.database.sql.schema import HEAD
from app.database.sql.sqlite import Sqlite
from app.settings import ConfigurationError
from app.storage.errors import StorageUnavailable

if TYPE_CHECKING:
    from alembic.config import Config

_VERSION = table("alembic_version", column("version_num"))
"""The table in which Alembic stores the revision of the schema."""

_SQLITE = {"sqlite", "sqlite+pysqlite"}
_POSTGRESQL = {"postgresql+psycopg", "postgresql", "postgres"}  # many database hosts write the last form


def open_sql(
    address: str,
    stack: ExitStack,
    *,
    busy_timeout_ms: int = BUSY_TIMEOUT_MS,
    outcome_timeout_s: float = OUTCOME_TIMEOUT_S,
) -> Database:
    """Connect to the database at an SQLAlchemy URL, without creating or migrating it.

    Raises ConfigurationError, StorageUnavailable.
    """
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):  # ValueError: the port is not a number
        raise ConfigurationError("SEEKABLE_DATABASE_URL is not an SQLAlchemy URL.") from None
    database = _database(url, busy_timeout_ms, outcome_timeout_s)
    stack.callback(database.close)
    database.check_reachable()
    return database


def _database(url: URL, busy_timeout_ms: int, outcome_timeout_s: float) -> Database:
    if url.drivername in _SQLITE and url.database not in (None, "", ":memory:"):
        return Sqlite(url, busy_timeout_ms=busy_timeout_ms)
    if url.drivername in _POSTGRESQL and url.database:
        _load_driver()
        # Imported here, so that a server on SQLite does not load psycopg.
        from app.database.sql.postgresql import Postgresql  # noqa: PLC0415

        return Postgresql(url, busy_timeout_ms=busy_timeout_ms, outcome_timeout_s=outcome_timeout_s)
    raise ConfigurationError(
        "SEEKABLE_DATABASE_URL is neither sqlite:///FILE nor "
        "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE."
    )


def _load_driver() -> None:
    """Import psycopg. Raises ConfigurationError if it, or the C library that it needs, is not installed."""
    try:
        import_module("psycopg")
    except ImportError:
        raise ConfigurationError(
            "SEEKABLE_DATABASE_URL names PostgreSQL, and its driver is not installed. In a checkout of "
            "Seekable, run uvx --from '.[postgresql]' seekable serve or make run EXTRAS=postgresql, or "
            "install the extra with pip install '.[postgresql]' (pipx install --force '.[postgresql]')."
        ) from None


def alembic_config() -> "Config":
    """Return the Alembic configuration. Finds the migrations in a checkout and in an installed wheel."""
    from alembic.config import Config  # noqa: PLC0415

    package = Path(str(files("app")))
    inside, beside = package / "alembic", package.parent / "alembic"
    config = Config()
    config.set_main_option("script_location", str(inside if inside.is_dir() else beside).replace("%", "%%"))
    return config


def schema_state(connection: Connection) -> tuple[Literal["none", "due", "done", "newer"], str]:
    """Return how the schema of a database compares with that of this program, and its version."""
    if not inspect(connection).has_table(_VERSION.name):
        return "none", ""
    version = connection.scalar(select(_VERSION.c.version_num))
    if version is None:
        return "none", ""
    if version == HEAD:
        return "done", version
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    known = {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}
    return "due" if version in known else "newer", version


def migrate(database: Database) -> None:
    """Run the missing migrations in one transaction, one process at a time.

    Raises StorageUnavailable, also if a newer version of this program made the database.
    """
    with database.writing() as session:
        state, version = schema_state(session.connection())
        if state == "newer":
            raise StorageUnavailable(f"{NEWER_SCHEMA} Its schema is {version}.")
        if state == "done":
            return
        from alembic import command  # noqa: PLC0415

        config = alembic_config()
        config.attributes["connection"] = session.connection()
        command.upgrade(config, "head")
        session.commit()
