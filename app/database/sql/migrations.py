"""Bringing a database to the newest schema."""

from importlib.resources import files
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError

from app.database.sql.engine import Database
from app.storage.errors import StorageUnavailable


def config() -> Config:
    """Alembic's settings: where the migrations are, whether in a checkout or in an installed wheel."""
    package = Path(str(files("app")))
    inside, beside = package / "alembic", package.parent / "alembic"
    scripts = Config()
    scripts.set_main_option("script_location", str(inside if inside.is_dir() else beside).replace("%", "%%"))
    return scripts


def migrate(database: Database) -> None:
    """Run what is missing, all or nothing, one process at a time.

    Raises StorageUnavailable, also for a database of a newer version of this program.
    """
    scripts = config()
    with database.writing() as session:
        scripts.attributes["connection"] = session.connection()
        try:
            command.upgrade(scripts, "head")
        except CommandError as error:
            raise StorageUnavailable(f"The database cannot be migrated: {error}") from error
        session.commit()
