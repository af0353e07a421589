"""The stores. Nothing outside this package knows SQLAlchemy or MongoEngine."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from app.accounts.store import AccountStore
from app.database.change_listener import ChangeListener, ChangeSource
from app.events.feed import ChangeFeed
from app.settings import Settings
from app.storage.async_storage import Observer, ThreadedStorage
from app.storage.backend import Backend
from app.storage.contract import CopyRecords, Storage
from app.storage.leases import Leases, LeaseStore

if TYPE_CHECKING:
    from app.database.filesystem.backend import FilesystemBackend

NEWER_SCHEMA = "The database was made by a newer Seekable. Install that version, or a later one."
"""The message about a database whose schema this version does not know."""

PATIENCE_MS = 3_000
"""How long a command waits for the writers of other processes before it says so."""


@dataclass(frozen=True)
class Stores:
    """What the settings opened."""

    storage: Storage
    accounts: AccountStore | None
    """With access `accounts` only: nobody else needs to have rights to a place for them."""
    leases: Leases
    listener: ChangeListener | None
    """Receives changes of other processes; None without a feed, or if the database does not notify."""
    library_id: str | None
    """What tells this library from all others, wherever it is reached; None if nothing does."""
    copies: CopyRecords


@asynccontextmanager
async def open_database(
    settings: Settings,
    *,
    feed: ChangeFeed | None = None,
    observer: Observer | None = None,
    serving: bool = True,
    backend_options: Mapping[str, Any] | None = None,
) -> AsyncIterator[Stores]:
    """The stores that the settings name, closed in reverse. An SQLite database is migrated first.

    `feed` receives the changes that other programs and, until this is closed, other processes make.
    `observer` receives the durations of all operations. Only a process that is `serving` decides by its
    settings which names are ignored: others use the patterns of the last server. `backend_options` are
    keyword arguments of the function that opens the backend; tests choose small sizes with them.
    Raises ConfigurationError, StorageUnavailable.
    """
    with ExitStack() as stack:
        opening = partial(_open, settings, stack, feed, serving=serving, backend_options=backend_options)
        opened = await asyncio.to_thread(opening)
        leases = Leases(opened.leases)
        stack.callback(leases.close)
        storage = ThreadedStorage(opened.backend, read_only=opened.read_only, observer=observer)
        stack.callback(storage.close)
        yield Stores(storage, opened.accounts, leases, opened.listener, opened.library_id, opened.copies)


@contextmanager
def open_accounts(settings: Settings, *, create: bool) -> Iterator[AccountStore]:
    """The accounts alone, whatever the access. Unless to create, an SQL database has to be there already.
    Raises ConfigurationError, StorageError."""
    with ExitStack() as stack:
        if settings.storage == "gridfs":
            from app.database.gridfs.opening import open_users  # noqa: PLC0415

            yield open_users(settings, stack)
        else:
            opened = _open_filesystem(settings, stack, None, patient=False, create=create, serving=False)
            yield opened[1]


def is_read_only(settings: Settings) -> bool:
    """Return whether no file can be changed, by the settings or by the file system of the folder."""
    if settings.storage == "gridfs":
        return settings.read_only
    from app.database.sql.opening import is_read_only  # noqa: PLC0415

    return is_read_only(settings)


def place_of(settings: Settings, library: str) -> str:
    """Where the files of a library are, to be shown."""
    if settings.storage == "gridfs":
        return f"{settings.location} {json.dumps({'library': library})}"
    from app.database.filesystem.rows import root_of  # noqa: PLC0415

    return str(settings.files_dir.absolute().joinpath(*root_of(library)))


def check_apart(settings: Settings, other: Settings) -> None:
    """Raise ConfigurationError if both name the same library, as far as can be told before it is opened, or
    if one is inside the other."""
    if settings.storage == other.storage == "filesystem":
        from app.database.sql.opening import check_folders_apart  # noqa: PLC0415

        check_folders_apart(settings, other)
    elif settings.storage == other.storage:
        from app.database.gridfs.connection import check_different_databases  # noqa: PLC0415

        check_different_databases(settings, other)


def prepare_database(settings: Settings, *, create: bool = True) -> None:
    """Bring the database that the settings name to the newest schema, and see that it can be worked with.
    Whoever started this waits for an answer, and gets one within seconds. Unless to create, there has to be a
    library already.

    Raises ConfigurationError, StorageError.
    """
    with ExitStack() as stack:
        _open(settings, stack, None, patient=False, create=create, serving=False)


@dataclass(frozen=True)
class _Opened:
    """What is underneath the stores."""

    backend: Backend
    accounts: AccountStore | None
    leases: LeaseStore
    listener: ChangeListener | None
    library_id: str | None
    copies: CopyRecords
    read_only: bool


def _open(
    settings: Settings,
    stack: ExitStack,
    feed: ChangeFeed | None,
    *,
    patient: bool = True,
    create: bool = True,
    serving: bool,
    backend_options: Mapping[str, Any] | None = None,
) -> _Opened:
    wanted = settings.access == "accounts"
    if settings.storage == "gridfs":
        # Here, because who keeps files in a folder need not have MongoEngine in memory.
        from app.database.gridfs.change_feed import open_change_source  # noqa: PLC0415
        from app.database.gridfs.opening import library_id, open_gridfs, open_users  # noqa: PLC0415
        from app.database.gridfs.shared_state import MongoCopyRecords, MongoLeases  # noqa: PLC0415

        grid = open_gridfs(settings, stack, feed, create=create, serving=serving, **(backend_options or {}))
        listener = _listen(feed, lambda: open_change_source(grid.database), stack)
        users = open_users(settings, stack) if wanted else None
        return _Opened(
            grid,
            users,
            MongoLeases(grid.database),
            listener,
            library_id=library_id(grid.database),
            copies=MongoCopyRecords(grid.database),
            read_only=settings.read_only,
        )
    from app.database.sql.opening import open_copies, open_leases  # noqa: PLC0415

    files, accounts = _open_filesystem(
        settings, stack, feed, patient=patient, create=create, serving=serving, **(backend_options or {})
    )
    listener = _listen(feed, files.database.change_source, stack)
    return _Opened(
        files,
        accounts if wanted else None,
        open_leases(settings, files, stack),
        listener,
        library_id=files.volume if files.disk.is_lasting(files.volume) else None,
        copies=open_copies(settings, stack),
        read_only=files.disk.read_only,
    )


def _listen(
    feed: ChangeFeed | None, open_source: Callable[[], ChangeSource | None], stack: ExitStack
) -> ChangeListener | None:
    source = None if feed is None else open_source()
    if feed is None or source is None:
        return None
    listener = ChangeListener(source, feed)
    stack.callback(listener.close)
    return listener


def _open_filesystem(
    settings: Settings,
    stack: ExitStack,
    feed: ChangeFeed | None,
    *,
    patient: bool,
    create: bool,
    serving: bool,
    **options: Any,
) -> tuple["FilesystemBackend", AccountStore]:
    # The other way round, SQLAlchemy and Alembic.
    from app.database.sql.accounts import SqlAccounts  # noqa: PLC0415
    from app.database.sql.engine import BUSY_TIMEOUT_MS  # noqa: PLC0415
    from app.database.sql.opening import open_filesystem  # noqa: PLC0415

    busy_timeout_ms = BUSY_TIMEOUT_MS if patient else PATIENCE_MS
    files = open_filesystem(
        settings,
        stack,
        feed,
        busy_timeout_ms=busy_timeout_ms,
        create=create,
        serving=serving,
        **options,
    )
    # One database for both, since it has one writer at a time.
    return files, SqlAccounts(files.database, files.with_reserve)
