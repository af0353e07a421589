"""Bringing a database to the newest schema."""

from importlib.resources import files
from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from app.database.rules import NEWER
from app.database.sql.engine import Database
from app.storage.errors import StorageUnavailable


def config() -> Config:
    """Alembic's settings: where the migrations are, whether in a checkout or in an installed wheel."""
    package = Path(str(files("app")))
    inside, beside = package / "alembic", package.parent / "alembic"
    scripts = Config()
    scripts.set_main_option("script_location", str(inside if inside.is_dir() else beside).replace("%", "%%"))
    return scripts


def schema_of(connection: Connection) -> tuple[Literal["none", "due", "done", "newer"], str]:
    """Return how the schema of a database compares with that of this program, and its version."""
    version = MigrationContext.configure(connection).get_current_revision()
    scripts = ScriptDirectory.from_config(config())
    if version is None:
        return "none", ""
    if version == scripts.get_current_head():
        return "done", version
    known = {script.revision for script in scripts.walk_revisions()}
    return "due" if version in known else "newer", version


def migrate(database: Database) -> None:
    """Run what is missing, all or nothing, one process at a time.

    Raises StorageUnavailable, also for a database of a newer version of this program.
    """
    scripts = config()
    with database.writing() as session:
        state, version = schema_of(session.connection())
        if state == "newer":
            raise StorageUnavailable(f"{NEWER} Its schema is {version}.")
        scripts.attributes["connection"] = session.connection()
        command.upgrade(scripts, "head")
        session.commit()
