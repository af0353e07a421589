"""The stores. Nothing outside this package knows SQLAlchemy or MongoEngine."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from app.database.sql.engine import Database
from app.database.sql.files import FilesystemBackend
from app.database.sql.migrations import migrate
from app.database.sql.tables import Volume
from app.settings import ConfigurationError, Settings
from app.storage.contract import Storage
from app.storage.disk import Disk
from app.storage.errors import StorageError, StorageUnavailable
from app.storage.threaded import ThreadedStorage
from app.storage.types import RESERVED


@dataclass(frozen=True)
class Stores:
    """What the settings opened."""

    storage: Storage


@asynccontextmanager
async def open_database(settings: Settings, *, media_type: Callable[[str], str]) -> AsyncIterator[Stores]:
    """The stores that the settings name, closed in reverse. An SQLite database is migrated first.

    Raises ConfigurationError, StorageUnavailable.
    """
    with ExitStack() as stack:
        backend = await asyncio.to_thread(open_filesystem, settings, media_type, stack)
        storage = ThreadedStorage(backend, chunk_size=settings.read_chunk_size)
        stack.callback(storage.close)
        yield Stores(storage)


def prepare_database(settings: Settings) -> None:
    """Bring the database that the settings name to the newest schema, and see that it can be worked with.

    Raises ConfigurationError, StorageUnavailable.
    """
    with ExitStack() as stack:
        open_filesystem(settings, str, stack)


def open_filesystem(
    settings: Settings, media_type: Callable[[str], str], stack: ExitStack
) -> FilesystemBackend:
    files = open_files(settings, stack)
    database = open_sql(settings, stack)
    with files.with_reserve():  # even a look at the database needs a file beside it
        migrate(database)
        volume = _claim(files, database)
        files.sweep()
    return FilesystemBackend(database, files, volume=volume, media_type=media_type)


def open_files(settings: Settings, stack: ExitStack) -> Disk:
    if settings.storage != "filesystem":
        raise ConfigurationError(f"SEEKABLE_STORAGE={settings.storage} is not in this version yet.")
    try:
        files = Disk(settings.files_dir)
    except StorageError as error:
        raise ConfigurationError(f"SEEKABLE_FILES_DIR={settings.files_dir}: {error}") from error
    stack.callback(files.close)
    return files


def open_sql(settings: Settings, stack: ExitStack) -> Database:
    default = f"sqlite:///{(settings.files_dir / RESERVED / 'seekable.db').absolute()}"
    try:
        url = make_url(settings.database_url or default)
    except ArgumentError:
        raise ConfigurationError("SEEKABLE_DATABASE_URL is not an SQLAlchemy URL.") from None
    if url.drivername not in ("sqlite", "sqlite+pysqlite") or url.database in (None, "", ":memory:"):
        raise ConfigurationError("SEEKABLE_DATABASE_URL: this version knows sqlite:///FILE only.")
    database = Database(url)
    stack.callback(database.close)
    return database


def _claim(files: Disk, database: Database) -> str:
    """The id that folder and database share. A folder without the database's id stands where the real one
    should be mounted, and every row would seem to have lost its file."""
    with database.writing() as session:
        known = session.scalar(select(Volume.id))
        found = files.volume()
        if known is None:
            if found is None:
                found = uuid4().hex
                files.mark(found)  # first: the id of a folder is adopted, that of a database is demanded
            session.add(Volume(id=found))
            session.commit()
        elif known != found:
            raise StorageUnavailable("The folder of files is not the one that the database speaks of.")
        assert found is not None
        return found
