"""Opens a folder of files and the SQL database that speaks of it, and sees that they belong together."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Literal
from uuid import uuid4

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, inspect, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from app.database import NEWER_SCHEMA
from app.database.filesystem import Limits
from app.database.filesystem.backend import FilesystemBackend
from app.database.filesystem.copy_records import SqliteCopies
from app.database.filesystem.disk import Disk, inode_volume, is_marked, is_on_read_only_file_system
from app.database.filesystem.flock_leases import FlockLeases
from app.database.filesystem.posix import map_os_errors
from app.database.filesystem.rows import ignored_names
from app.database.filesystem.writable_disk import WritableDisk
from app.database.sql.engine import BUSY_TIMEOUT_MS, Database
from app.database.sql.schema import Volume
from app.database.sql.shared_state import SqlLeases
from app.database.sql.sqlite import Sqlite
from app.events.feed import ChangeFeed
from app.settings import ConfigurationError, Settings
from app.storage.errors import StorageError, StorageUnavailable
from app.storage.ignored_names import IgnoredNames
from app.storage.leases import LeaseStore
from app.storage.types import RESERVED


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
            raise StorageUnavailable(f"{NEWER_SCHEMA} Its schema is {version}.")
        scripts.attributes["connection"] = session.connection()
        command.upgrade(scripts, "head")
        session.commit()


def is_read_only(settings: Settings) -> bool:
    """Return whether no file of this folder can be changed, by its file system or by the settings."""
    return settings.read_only or is_on_read_only_file_system(settings.files_dir)


def state_file(settings: Settings, suffix: str) -> Path:
    """Return the path of what belongs to a folder of files, by the folder's device and inode.

    Raises ConfigurationError if the folder is not there, or the state folder is in it.
    """
    files_dir = settings.files_dir
    try:
        place = inode_volume(files_dir.stat())
    except OSError as error:
        raise ConfigurationError(f"SEEKABLE_FILES_DIR={files_dir}: {error.strerror}.") from None
    folder = _state_folder()
    if any(at.exists() and at.samefile(files_dir) for at in (folder, *folder.parents)):
        raise ConfigurationError(
            f"The database of a read-only library would be in the library itself ({folder}). Set "
            "SEEKABLE_DATABASE_URL or XDG_STATE_HOME to a place outside of it."
        )
    return folder / f"{place}{suffix}"


def make_state_folder(path: Path) -> None:
    """Make the folder, for this user alone. Raises ConfigurationError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{path}, for the database of a read-only library, cannot be made: {error.strerror}. Set "
            "SEEKABLE_DATABASE_URL or XDG_STATE_HOME."
        ) from None


def _state_folder() -> Path:
    named = os.environ.get("XDG_STATE_HOME", "")
    # A relative path does not count, as the specification has it.
    home = named if os.path.isabs(named) else os.path.expanduser("~/.local/state")
    if not os.path.isabs(home):
        raise ConfigurationError(
            "This user has no home folder for the database of a read-only library. Set XDG_STATE_HOME or "
            "SEEKABLE_DATABASE_URL."
        )
    return Path(home) / "seekable"


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
    stack: ExitStack,
    feed: ChangeFeed | None = None,
    *,
    busy_timeout_ms: int = BUSY_TIMEOUT_MS,
    create: bool = True,
    serving: bool = True,
    limits: Limits | None = None,
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
    files.exclude(database.files())
    # Even a look at the database needs a file beside it.
    with _said_of(database), files.release_reserve():
        database.keep_private()
        migrate(database)
        volume = _claim(settings.files_dir, files, database)
        ignored = ignored_names(database, IgnoredNames(settings.ignore), serving=serving)
        files.sweep()
        backend = FilesystemBackend(
            database,
            files,
            volume=volume,
            chunk_size=settings.read_chunk_size,
            ignored=ignored,
            feed=feed,
            limits=limits or Limits(stable_after_s=settings.stable_after),
        )
        backend.undo_interrupted_move()
    return backend


def open_leases(settings: Settings, files: FilesystemBackend, stack: ExitStack) -> LeaseStore:
    """Those of a library that is open."""
    if not files.database.on_one_machine:
        return SqlLeases(files.database)
    locks = FlockLeases(partial(_folder_of_leases, settings, files.disk))
    stack.callback(locks.close)
    return locks


def open_copies(settings: Settings, stack: ExitStack) -> SqliteCopies:
    copies = SqliteCopies(settings.files_dir / RESERVED / "copies.db")
    stack.callback(copies.close)
    return copies


def _folder_of_leases(settings: Settings, disk: Disk) -> int:
    """A descriptor of the folder that holds the locks of leases, which the caller closes."""
    if not disk.read_only:
        return disk.open_reserved_folder("leases")
    path = state_file(settings, ".leases")
    make_state_folder(path)
    with map_os_errors():
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
            files: Disk = Disk(settings.files_dir, marked=settings.database_url is not None)
        else:
            files = WritableDisk(settings.files_dir)
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
