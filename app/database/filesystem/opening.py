"""Opens a library in a folder, with its SQL database, and checks that the two belong together."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import inspect, select, update

from app.database.filesystem import Limits
from app.database.filesystem.backend import FilesystemBackend
from app.database.filesystem.disk import Disk, inode_volume, is_marked
from app.database.filesystem.posix import make_private, map_os_errors
from app.database.filesystem.rows import ignored_names
from app.database.filesystem.shared_state import FlockLeases, SqliteCopies
from app.database.filesystem.writable_disk import WritableDisk
from app.database.open_library import OpenLibrary, is_read_only
from app.database.sql.accounts import SqlAccounts
from app.database.sql.engine import BUSY_TIMEOUT_MS, OUTCOME_TIMEOUT_S, Database
from app.database.sql.opening import migrate, open_sql
from app.database.sql.schema import VolumeRow
from app.database.sql.shared_state import SqlLeases
from app.events.feed import ChangeFeed
from app.settings import ConfigurationError, Settings
from app.storage.errors import StorageError, StorageUnavailable
from app.storage.ignored_names import IgnoredNames
from app.storage.leases import LeaseStore
from app.storage.types import RESERVED

_NO_FOLDER = "This is not a folder."
_FOLDER_ERRORS = {
    errno.EEXIST: _NO_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EACCES: "This user cannot write there.",
    errno.EPERM: "This user cannot write there.",
    errno.EROFS: "Its file system is read-only.",
    errno.ENOENT: "There is no such folder.",
}
"""Messages about the folder of files, by system error."""


def open_folder_library(
    settings: Settings,
    stack: ExitStack,
    feed: ChangeFeed | None,
    **options: Any,
) -> OpenLibrary:
    """Open the library, its accounts and its leases. The options are those of `open_filesystem`.

    Raises ConfigurationError, StorageError.
    """
    backend = open_filesystem(settings, stack, feed, **options)
    copies = SqliteCopies(settings.files_dir / RESERVED / "copies.db")
    stack.callback(copies.close)
    return OpenLibrary(
        backend,
        SqlAccounts(backend.database, backend.with_reserve),
        _open_leases(settings, backend, stack),
        copies,
        library_id=backend.volume if backend.disk.is_lasting(backend.volume) else None,
        read_only=backend.disk.read_only,
        open_change_source=backend.database.change_source,
    )


def open_filesystem(
    settings: Settings,
    stack: ExitStack,
    feed: ChangeFeed | None = None,
    *,
    busy_timeout_ms: int = BUSY_TIMEOUT_MS,
    outcome_timeout_s: float = OUTCOME_TIMEOUT_S,
    create: bool = True,
    serving: bool = True,
    limits: Limits | None = None,
) -> FilesystemBackend:
    """Open the files and their database. Raises ConfigurationError, StorageError."""
    read_only = is_read_only(settings)
    if read_only and settings.database_url is None:
        _make_state_folder(_state_file(settings, ".db").parent)
    database = open_database(
        settings, stack, busy_timeout_ms=busy_timeout_ms, outcome_timeout_s=outcome_timeout_s
    )
    if not read_only:
        _check_mounted(settings, database)
    if not create and not read_only and not _is_marked(settings):
        raise ConfigurationError(
            f"SEEKABLE_FILES_DIR={settings.files_dir}: There is no library here; `seekable serve` creates "
            f"one."
        )
    disk = open_disk(settings, stack)
    disk.exclude(database.files())
    # With the reserve, because even a reader of an SQLite database creates a file beside it.
    with _name_in_errors(database), disk.release_reserve():
        _keep_private(database)
        migrate(database)
        volume = _pair(settings, disk, database)
        ignored = ignored_names(database, IgnoredNames(settings.ignore), serving=serving)
        disk.sweep()
        backend = FilesystemBackend(
            database,
            disk,
            volume=volume,
            chunk_size=settings.read_chunk_size,
            ignored=ignored,
            feed=feed,
            limits=limits or Limits(stable_after_s=settings.stable_after),
        )
        backend.undo_interrupted_move()
    return backend


def open_database(
    settings: Settings,
    stack: ExitStack,
    *,
    busy_timeout_ms: int = BUSY_TIMEOUT_MS,
    outcome_timeout_s: float = OUTCOME_TIMEOUT_S,
) -> Database:
    """Connect to the settings' database, without creating or migrating it. Raises ConfigurationError."""
    url = settings.database_url or f"sqlite:///{_default_file(settings)}"
    return open_sql(url, stack, busy_timeout_ms=busy_timeout_ms, outcome_timeout_s=outcome_timeout_s)


def _default_file(settings: Settings) -> Path:
    if is_read_only(settings):
        return _state_file(settings, ".db")
    return (settings.files_dir / RESERVED / "seekable.db").absolute()


def _state_file(settings: Settings, suffix: str) -> Path:
    """Return a path in the user's state folder for data of a read-only library, by its device and inode.

    Raises StorageUnavailable if the library does not exist, ConfigurationError if the state folder is in it.
    """
    files_dir = settings.files_dir
    try:
        place = inode_volume(files_dir.stat())
    except OSError as error:
        raise StorageUnavailable(f"SEEKABLE_FILES_DIR={files_dir}: {error.strerror}.") from None
    folder = _state_folder()
    if any(path.exists() and path.samefile(files_dir) for path in (folder, *folder.parents)):
        raise ConfigurationError(
            f"The database of a read-only library would be in the library itself ({folder}). Set "
            "SEEKABLE_DATABASE_URL or XDG_STATE_HOME to a place outside of it."
        )
    return folder / f"{place}{suffix}"


def _make_state_folder(path: Path) -> None:
    """Create the folder, for this user only. Raises StorageUnavailable."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageUnavailable(
            f"{path}, for the database of a read-only library, cannot be made: {error.strerror}. Set "
            "SEEKABLE_DATABASE_URL or XDG_STATE_HOME."
        ) from None


def _state_folder() -> Path:
    named = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification requires relative paths to be ignored.
    home = named if os.path.isabs(named) else os.path.expanduser("~/.local/state")
    if not os.path.isabs(home):
        raise ConfigurationError(
            "This user has no home folder for the database of a read-only library. Set XDG_STATE_HOME or "
            "SEEKABLE_DATABASE_URL."
        )
    return Path(home) / "seekable"


def _keep_private(database: Database) -> None:
    """Revoke the rights of other users of this machine to the files of the database."""
    database.create_private()
    for file in database.files():
        make_private(file)


def open_disk(settings: Settings, stack: ExitStack) -> Disk:
    with _folder_errors(settings):
        if is_read_only(settings):
            disk: Disk = Disk(settings.files_dir, marked=settings.database_url is not None)
        else:
            disk = WritableDisk(settings.files_dir)
    stack.callback(disk.close)
    return disk


def _open_leases(settings: Settings, backend: FilesystemBackend, stack: ExitStack) -> LeaseStore:
    if not backend.database.on_one_machine:
        return SqlLeases(backend.database)
    leases = FlockLeases(partial(_open_leases_folder, settings, backend.disk))
    stack.callback(leases.close)
    return leases


def _open_leases_folder(settings: Settings, disk: Disk) -> int:
    """Return a descriptor of the folder for the lock files. The caller closes it."""
    if not disk.read_only:
        return disk.open_reserved_folder("leases")
    path = _state_file(settings, ".leases")
    _make_state_folder(path)
    with map_os_errors():
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def check_different_folders(settings: Settings, other: Settings) -> None:
    """Raise ConfigurationError if both folders are the same, or one contains the other: files of one library
    would appear in the other."""
    one, two = settings.files_dir, other.files_dir
    if _is_within(one, two) or _is_within(two, one):
        raise ConfigurationError(f"{one} and {two} are the same folder, or one is in the other.")


def _is_within(folder: Path, other: Path) -> bool:
    real = Path(os.path.realpath(folder))
    return os.path.exists(other) and any(
        os.path.exists(path) and os.path.samefile(path, other) for path in (real, *real.parents)
    )


class _FolderError(StorageUnavailable):
    """An error of the folder, which the message names."""


@contextmanager
def _folder_errors(settings: Settings) -> Iterator[None]:
    """Name the folder in errors.

    A file in its place is a wrong setting. All other errors may end without a change of the settings: until
    its disk is mounted, a folder is missing, empty, or another user's.
    """
    try:
        yield
    except StorageError as error:
        cause = error.__cause__
        reason = _FOLDER_ERRORS.get(cause.errno or 0) if isinstance(cause, OSError) else None
        if isinstance(cause, PermissionError) and is_read_only(settings):
            reason = "This user cannot read it."
        elif isinstance(cause, PermissionError) and settings.files_dir.is_dir():
            reason = (
                f"{reason} To serve it as it is, use `seekable serve --read-only`, or set "
                "SEEKABLE_READ_ONLY=true."
            )
        kind = ConfigurationError if reason == _NO_FOLDER else _FolderError
        raise kind(f"SEEKABLE_FILES_DIR={settings.files_dir}: {reason or error}") from error


@contextmanager
def _name_in_errors(database: Database) -> Iterator[None]:
    try:
        yield
    except _FolderError:
        raise
    except StorageError as error:
        raise type(error)(f"{database.name}: {error}") from error


def _check_mounted(settings: Settings, database: Database) -> None:
    """Refuse a folder without an id if the database requires one, before anything is written into it: it may
    be the empty mount point of a missing disk."""
    if _is_marked(settings) or not database.exists():
        return
    with _name_in_errors(database):
        with database.reading() as session:
            has_table = inspect(session.connection()).has_table(VolumeRow.__tablename__)
            required = has_table and session.scalar(select(VolumeRow.id)) is not None
        # Another process may be creating both at this moment; it marks the folder first.
        if required and not _is_marked(settings):
            raise _wrong_folder(settings.files_dir)


def _is_marked(settings: Settings) -> bool:
    with _folder_errors(settings):
        return is_marked(settings.files_dir)


def _pair(settings: Settings, disk: Disk, database: Database) -> str:
    """Return the id that folder and database share; give them one if they are new.

    Raises StorageUnavailable for a folder with another id: it stands where the real one should be mounted,
    and every row would seem to have lost its file.
    """
    with database.writing() as session:
        required = session.scalar(select(VolumeRow.id))
        volume = disk.volume()
        if required is None:
            if volume is None:
                volume = uuid4().hex
                with _folder_errors(settings):
                    disk.mark(volume)  # first: the id of a folder is adopted, that of a database is required
            session.add(VolumeRow(id=volume))
        elif not disk.is_volume(required):
            raise _wrong_folder(settings.files_dir)
        else:
            volume = required
            session.execute(update(VolumeRow).values(id=volume))  # proves that the database is writable
        session.commit()
        return volume


def _wrong_folder(folder: Path) -> StorageUnavailable:
    return StorageUnavailable(
        f"The folder of files, {folder}, is not the one that the database belongs to. Check that its disk is "
        "mounted."
    )
