"""The stores. Nothing outside this package knows SQLAlchemy or MongoEngine."""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sqlalchemy import inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from app.database.sql.engine import BUSY_TIMEOUT_MS, Database
from app.database.sql.files import FilesystemBackend
from app.database.sql.migrations import migrate
from app.database.sql.tables import Volume
from app.settings import ConfigurationError, Settings
from app.storage.contract import Storage
from app.storage.disk import Disk, is_marked
from app.storage.errors import StorageError, StorageUnavailable
from app.storage.threaded import ThreadedStorage
from app.storage.types import RESERVED, Change

PATIENCE_MS = 3_000
"""How long a command waits for the writers of other processes before it says so."""

_NO_FOLDER = {
    errno.EEXIST: "This is no folder.",
    errno.ENOTDIR: "This is no folder.",
    errno.EACCES: "This user cannot write there.",
    errno.EPERM: "This user cannot write there.",
    errno.EROFS: "Its file system is read-only.",
}
"""What is wrong with a folder of files, by the system's error."""


@dataclass(frozen=True)
class Stores:
    """What the settings opened."""

    storage: Storage


def _ignore(changes: Sequence[Change]) -> None:
    """Nobody wants to hear of it."""


@asynccontextmanager
async def open_database(
    settings: Settings,
    *,
    media_type: Callable[[str], str],
    notice: Callable[[Sequence[Change]], None] = _ignore,
) -> AsyncIterator[Stores]:
    """The stores that the settings name, closed in reverse. An SQLite database is migrated first.

    `media_type` guesses the type of a file that was not uploaded from its name; `notice` is told, by any
    thread, what other programs did to the files: all that one look found, at once.
    Raises ConfigurationError, StorageUnavailable.
    """
    with ExitStack() as stack:
        backend = await asyncio.to_thread(open_filesystem, settings, media_type, stack, notice)
        storage = ThreadedStorage(backend, chunk_size=settings.read_chunk_size)
        stack.callback(storage.close)
        yield Stores(storage)


def prepare_database(settings: Settings) -> None:
    """Bring the database that the settings name to the newest schema, and see that it can be worked with.
    Whoever started this waits for an answer, and gets one within seconds.

    Raises ConfigurationError, StorageError.
    """
    with ExitStack() as stack:
        open_filesystem(settings, str, stack, busy_timeout_ms=PATIENCE_MS)


def open_filesystem(
    settings: Settings,
    media_type: Callable[[str], str],
    stack: ExitStack,
    notice: Callable[[Sequence[Change]], None] = _ignore,
    *,
    busy_timeout_ms: int = BUSY_TIMEOUT_MS,
) -> FilesystemBackend:
    database = open_sql(settings, stack, busy_timeout_ms=busy_timeout_ms)
    _check_mounted(settings, database)
    files = open_files(settings, stack)
    # Even a look at the database needs a file beside it.
    with _said_of(database), files.with_reserve():
        migrate(database)
        volume = _claim(settings.files_dir, files, database)
        files.sweep()
    return FilesystemBackend(database, files, volume=volume, media_type=media_type, notice=notice)


def open_files(settings: Settings, stack: ExitStack) -> Disk:
    with _said_of_folder(settings):
        files = Disk(settings.files_dir)
    stack.callback(files.close)
    return files


@contextmanager
def _said_of_folder(settings: Settings) -> Iterator[None]:
    """Say what is wrong with the folder of files to the one who chose it."""
    try:
        yield
    except StorageError as error:
        cause = error.__cause__
        reason = _NO_FOLDER.get(cause.errno or 0) if isinstance(cause, OSError) else None
        raise ConfigurationError(f"SEEKABLE_FILES_DIR={settings.files_dir}: {reason or error}") from error


@contextmanager
def _said_of(database: Database) -> Iterator[None]:
    """Name the database that cannot be worked with."""
    try:
        yield
    except StorageError as error:
        raise type(error)(f"{database.name}: {error}") from error


def open_sql(settings: Settings, stack: ExitStack, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> Database:
    if settings.storage != "filesystem":
        raise ConfigurationError(f"SEEKABLE_STORAGE={settings.storage} is not in this version yet.")
    default = f"sqlite:///{(settings.files_dir / RESERVED / 'seekable.db').absolute()}"
    try:
        url = make_url(settings.database_url or default)
    except ArgumentError:
        raise ConfigurationError("SEEKABLE_DATABASE_URL is not an SQLAlchemy URL.") from None
    if url.drivername not in ("sqlite", "sqlite+pysqlite") or url.database in (None, "", ":memory:"):
        raise ConfigurationError("SEEKABLE_DATABASE_URL: this version knows sqlite:///FILE only.")
    database = Database(url, busy_timeout_ms=busy_timeout_ms)
    stack.callback(database.close)
    return database


def _check_mounted(settings: Settings, database: Database) -> None:
    """Refuse a folder without an id when the database demands one, before anything is written into it: it
    may be the empty mount point of a disk that is missing."""
    if _is_marked(settings) or not database.exists():
        return
    with _said_of(database):
        with database.reading() as session:
            known = inspect(session.connection()).has_table(Volume.__tablename__)
            demanded = known and session.scalar(select(Volume.id)) is not None
        # Another process may be making both just now; it marks the folder first.
        if demanded and not _is_marked(settings):
            raise _not_ours(settings.files_dir)


def _is_marked(settings: Settings) -> bool:
    with _said_of_folder(settings):
        return is_marked(settings.files_dir)


def _claim(folder: Path, files: Disk, database: Database) -> str:
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
            raise _not_ours(folder)
        assert found is not None
        return found


def _not_ours(folder: Path) -> StorageUnavailable:
    return StorageUnavailable(
        f"The folder of files, {folder}, is not the one that the database speaks of; perhaps its disk is not "
        "mounted."
    )
