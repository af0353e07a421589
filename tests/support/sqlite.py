"""SQLite databases with empty tables: copying one is faster than running the migrations."""

from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from app.database.filesystem.opening import open_database, open_disk
from app.database.sql.opening import migrate
from app.settings import Settings


def begin_library(files: Path) -> None:
    """Create the database of a new library, unless its folder already exists."""
    folder = files / ".seekable"
    if not folder.exists():
        folder.mkdir(0o700, parents=True)
        begin_database(folder / "seekable.db")


def begin_database(file: Path) -> None:
    """Create a database with empty tables."""
    file.write_bytes(_migrated())


@cache
def _migrated() -> bytes:
    with TemporaryDirectory() as folder:
        settings = Settings(_env_file=None, files_dir=Path(folder))
        with ExitStack() as stack:
            database = open_database(settings, stack)
            open_disk(settings, stack)
            migrate(database)
        return (settings.files_dir / ".seekable" / "seekable.db").read_bytes()
