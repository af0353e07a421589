"""Opens a folder of files and the SQL database that speaks of it, and sees that they belong together."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

from sqlalchemy import URL, inspect, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from app.database.rules import ignore
from app.database.sql.copies import SqliteCopies
from app.database.sql.engine import BUSY_TIMEOUT_MS, Database
from app.database.sql.files import FilesystemBackend
from app.database.sql.ignoring import ignored_names
from app.database.sql.leases import SqlLeases
from app.database.sql.locks import LockedFiles
from app.database.sql.migrations import migrate
from app.database.sql.sqlite import Sqlite
from app.database.sql.state import is_read_only, make_state_folder, state_file
from app.database.sql.tables import Volume
from app.settings import ConfigurationError, Settings
from app.storage.disk import Disk, is_marked
from app.storage.errors import StorageError, StorageUnavailable
from app.storage.folders import translated
from app.storage.ignored import Ignored
from app.storage.leases import LeaseStore
from app.storage.read_only_disk import ReadOnlyDisk
from app.storage.types import RESERVED, Change

_SQLITE = {"sqlite", "sqlite+pysqlite"}
_POSTGRESQL = {"postgresql+psycopg", "postgresql", "postgres"}  # the last as many hosts of databases write it
"""What URLs begin with."""

_NO_FOLDER = {
    errno.EEXIST: "This is no folder.",
    errno.ENOTDIR: "This is no folder.",
    errno.EACCES: "This user cannot write there.",
    errno.EPERM: "This user cannot write there.",
    errno.EROFS: "Its file system is read-only.",
    errno.ENOENT: "There is no such folder.",
}
"""What is wrong with a folder of files, by the system's error."""


def open_filesystem(
    settings: Settings,
    media_type: Callable[[str], str],
    stack: ExitStack,
    notice: Callable[[Sequence[Change]], None] = ignore,
    *,
    busy_timeout_ms: int = BUSY_TIMEOUT_MS,
    create: bool = True,
    serving: bool = True,
) -> FilesystemBackend:
    read_only = is_read_only(settings)
    if read_only and settings.database_url is None:
        make_state_folder(state_file(settings, ".db").parent)
    database = open_sql(settings, stack, busy_timeout_ms=busy_timeout_ms)
    if not read_only:
        _check_mounted(settings, database)
    if not create and not read_only and not _is_marked(settings):
        raise ConfigurationError(
            f"SEEKABLE_FILES_DIR={settings.files_dir}: There is no library here; `seekable serve` makes one."
        )
    files = open_files(settings, stack)
    files.keep_shut(database.files())
    # Even a look at the database needs a file beside it.
    with _said_of(database), files.with_reserve():
        database.keep_private()
        migrate(database)
        volume = _claim(settings.files_dir, files, database)
        ignored = ignored_names(database, Ignored(settings.ignore), serving=serving)
        files.sweep()
        backend = FilesystemBackend(
            database,
            files,
            volume=volume,
            chunk_size=settings.read_chunk_size,
            media_type=media_type,
            ignored=ignored,
            notice=notice,
        )
        backend.undo_cut_move()
    return backend


def open_leases(settings: Settings, files: FilesystemBackend, stack: ExitStack) -> LeaseStore:
    """Those of a library that is open."""
    if not files.database.on_one_machine:
        return SqlLeases(files.database)
    locks = LockedFiles(partial(_folder_of_leases, settings, files.disk))
    stack.callback(locks.close)
    return locks


def open_copies(settings: Settings, stack: ExitStack) -> SqliteCopies:
    copies = SqliteCopies(settings.files_dir / RESERVED / "copies.db")
    stack.callback(copies.close)
    return copies


def _folder_of_leases(settings: Settings, disk: Disk) -> int:
    """A descriptor of the folder that holds the locks of leases, which the caller closes."""
    if not isinstance(disk, ReadOnlyDisk):
        return disk.folder_of_ours("leases")
    path = state_file(settings, ".leases")
    make_state_folder(path)
    with translated():
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def check_folders_apart(settings: Settings, other: Settings) -> None:
    """Raise ConfigurationError if one folder of files is in the other, or the same: what is put into one
    would come to be in the other."""
    one, two = settings.files_dir, other.files_dir
    if _is_within(one, two) or _is_within(two, one):
        raise ConfigurationError(f"{one} and {two} are the same folder, or one is in the other.")


def _is_within(folder: Path, other: Path) -> bool:
    there = Path(os.path.realpath(folder))
    return os.path.exists(other) and any(
        os.path.exists(at) and os.path.samefile(at, other) for at in (there, *there.parents)
    )


def open_files(settings: Settings, stack: ExitStack) -> Disk:
    with _said_of_folder(settings):
        if is_read_only(settings):
            files: Disk = ReadOnlyDisk(settings.files_dir, marked=settings.database_url is not None)
        else:
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
        if isinstance(cause, PermissionError) and settings.files_dir.is_dir():
            reason = f"{reason} To serve it as it is, set SEEKABLE_READ_ONLY=true."
        raise ConfigurationError(f"SEEKABLE_FILES_DIR={settings.files_dir}: {reason or error}") from error


@contextmanager
def _said_of(database: Database) -> Iterator[None]:
    """Name the database that cannot be worked with."""
    try:
        yield
    except StorageError as error:
        raise type(error)(f"{database.name}: {error}") from error


def open_sql(settings: Settings, stack: ExitStack, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> Database:
    try:
        url = make_url(settings.database_url or f"sqlite:///{_default_file(settings)}")
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise ConfigurationError("SEEKABLE_DATABASE_URL is not an SQLAlchemy URL.") from None
    database = _database(url, busy_timeout_ms)
    stack.callback(database.close)
    database.reach()
    return database


def _default_file(settings: Settings) -> Path:
    if is_read_only(settings):
        return state_file(settings, ".db")
    return (settings.files_dir / RESERVED / "seekable.db").absolute()


def _database(url: URL, busy_timeout_ms: int) -> Database:
    if url.drivername in _SQLITE and url.database not in (None, "", ":memory:"):
        return Sqlite(url, busy_timeout_ms=busy_timeout_ms)
    if url.drivername in _POSTGRESQL and url.database:
        # Here, because who has SQLite need not have psycopg in memory.
        from app.database.sql.postgresql import Postgresql  # noqa: PLC0415

        return Postgresql(url, busy_timeout_ms=busy_timeout_ms)
    raise ConfigurationError(
        "SEEKABLE_DATABASE_URL is neither sqlite:///FILE nor postgresql+psycopg://USER:PASSWORD@HOST/DATABASE."
    )


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
        elif not files.is_volume(known):
            raise _not_ours(folder)
        else:
            found = known
            session.execute(update(Volume).values(id=found))  # to see whether it can be written
        session.commit()
        return found


def _not_ours(folder: Path) -> StorageUnavailable:
    return StorageUnavailable(
        f"The folder of files, {folder}, is not the one that the database speaks of; perhaps its disk is not "
        "mounted."
    )
