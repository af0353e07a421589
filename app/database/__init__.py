"""The stores. Nothing outside this package knows SQLAlchemy or MongoEngine."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from app.accounts.store import AccountStore
from app.database.relay import Hearer, Hearing, Line
from app.database.rules import ignore
from app.settings import Settings
from app.storage.async_storage import Observer, ThreadedStorage
from app.storage.backend import Backend
from app.storage.contract import Storage
from app.storage.copy_notes import CopyLedger
from app.storage.leases import Leases, LeaseStore
from app.storage.types import Change

if TYPE_CHECKING:
    from app.database.filesystem.backend import FilesystemBackend

PATIENCE_MS = 3_000
"""How long a command waits for the writers of other processes before it says so."""


@dataclass(frozen=True)
class Stores:
    """What the settings opened."""

    storage: Storage
    accounts: AccountStore | None
    """With access `accounts` only: nobody else needs to have rights to a place for them."""
    leases: Leases
    hearing: Hearing | None
    """To other processes, if they are to be heard of and the database tells of them."""
    library_id: str | None
    """What tells this library from all others, wherever it is reached; None if nothing does."""
    copies: CopyLedger


@asynccontextmanager
async def open_database(
    settings: Settings,
    *,
    media_type: Callable[[str], str],
    notice: Callable[[Sequence[Change]], None] = ignore,
    observer: Observer | None = None,
    hearer: Hearer | None = None,
    serving: bool = True,
) -> AsyncIterator[Stores]:
    """The stores that the settings name, closed in reverse. An SQLite database is migrated first.

    `media_type` guesses the type of a file that was not uploaded from its name; `notice` is told, by any
    thread, what other programs did to the files: all that one look found, at once. `observer` receives
    the durations of all operations. `hearer` hears of other processes, until this is closed. Which names
    are ignored only a process that is `serving` decides by its settings: others go by those of the last one.
    Raises ConfigurationError, StorageUnavailable.
    """
    with ExitStack() as stack:
        opening = partial(_open, settings, media_type, stack, notice, hearer=hearer, serving=serving)
        opened = await asyncio.to_thread(opening)
        leases = Leases(opened.leases)
        stack.callback(leases.close)
        storage = ThreadedStorage(opened.backend, read_only=opened.read_only, observer=observer)
        stack.callback(storage.close)
        yield Stores(storage, opened.accounts, leases, opened.hearing, opened.library_id, opened.copies)


@contextmanager
def open_accounts(settings: Settings, *, create: bool) -> Iterator[AccountStore]:
    """The accounts alone, whatever the access. Unless to create, an SQL database has to be there already.
    Raises ConfigurationError, StorageError."""
    with ExitStack() as stack:
        if settings.storage == "gridfs":
            from app.database.gridfs.opening import open_users  # noqa: PLC0415

            yield open_users(settings, stack)
        else:
            opened = _open_filesystem(
                settings, str, stack, ignore, patient=False, create=create, serving=False
            )
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
        from app.database.gridfs.connection import check_urls_apart  # noqa: PLC0415

        check_urls_apart(settings, other)


def prepare_database(settings: Settings, *, create: bool = True) -> None:
    """Bring the database that the settings name to the newest schema, and see that it can be worked with.
    Whoever started this waits for an answer, and gets one within seconds. Unless to create, there has to be a
    library already.

    Raises ConfigurationError, StorageError.
    """
    with ExitStack() as stack:
        _open(settings, str, stack, ignore, patient=False, create=create, serving=False)


@dataclass(frozen=True)
class _Opened:
    """What is underneath the stores."""

    backend: Backend
    accounts: AccountStore | None
    leases: LeaseStore
    hearing: Hearing | None
    library_id: str | None
    copies: CopyLedger
    read_only: bool


def _open(
    settings: Settings,
    media_type: Callable[[str], str],
    stack: ExitStack,
    notice: Callable[[Sequence[Change]], None],
    *,
    patient: bool = True,
    create: bool = True,
    hearer: Hearer | None = None,
    serving: bool,
) -> _Opened:
    wanted = settings.access == "accounts"
    if settings.storage == "gridfs":
        # Here, because who keeps files in a folder need not have MongoEngine in memory.
        from app.database.gridfs.change_feed import line_of  # noqa: PLC0415
        from app.database.gridfs.opening import (  # noqa: PLC0415
            MongoCopies,
            library_of,
            open_gridfs,
            open_users,
        )
        from app.database.gridfs.shared_state import MongoLeases  # noqa: PLC0415

        grid = open_gridfs(settings, media_type, stack, notice, create=create, serving=serving)
        hearing = _open_hearing(lambda: line_of(grid.database), hearer, stack)
        users = open_users(settings, stack) if wanted else None
        return _Opened(
            grid,
            users,
            MongoLeases(grid.database),
            hearing,
            library_id=library_of(grid.database),
            copies=MongoCopies(grid.database),
            read_only=settings.read_only,
        )
    from app.database.sql.opening import open_copies, open_leases  # noqa: PLC0415

    files, accounts = _open_filesystem(
        settings, media_type, stack, notice, patient=patient, create=create, serving=serving
    )
    hearing = _open_hearing(files.database.line, hearer, stack)
    return _Opened(
        files,
        accounts if wanted else None,
        open_leases(settings, files, stack),
        hearing,
        library_id=files.volume if files.disk.is_lasting(files.volume) else None,
        copies=open_copies(settings, stack),
        read_only=files.read_only,
    )


def _open_hearing(
    line_of: Callable[[], Line | None], hearer: Hearer | None, stack: ExitStack
) -> Hearing | None:
    line = None if hearer is None else line_of()
    if hearer is None or line is None:
        return None
    hearing = Hearing(line, hearer)
    stack.callback(hearing.close)
    return hearing


def _open_filesystem(
    settings: Settings,
    media_type: Callable[[str], str],
    stack: ExitStack,
    notice: Callable[[Sequence[Change]], None],
    *,
    patient: bool,
    create: bool,
    serving: bool,
) -> tuple["FilesystemBackend", AccountStore]:
    # The other way round, SQLAlchemy and Alembic.
    from app.database.sql.accounts import SqlAccounts  # noqa: PLC0415
    from app.database.sql.engine import BUSY_TIMEOUT_MS  # noqa: PLC0415
    from app.database.sql.opening import open_filesystem  # noqa: PLC0415

    busy_timeout_ms = BUSY_TIMEOUT_MS if patient else PATIENCE_MS
    files = open_filesystem(
        settings,
        media_type,
        stack,
        notice,
        busy_timeout_ms=busy_timeout_ms,
        create=create,
        serving=serving,
    )
    # One database for both, since it has one writer at a time.
    return files, SqlAccounts(files.database, files.with_reserve)
