"""Opens storage, accounts and leases on the backend that the settings name.

Drivers are imported where they are used: a library in a folder needs no MongoEngine, and one in MongoDB no
SQLAlchemy. Only this package imports them.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from app.accounts.store import AccountStore
from app.database.change_listener import ChangeListener
from app.database.open_library import OpenLibrary
from app.events.feed import ChangeFeed
from app.settings import Settings
from app.storage.async_storage import Observer, ThreadedStorage
from app.storage.contract import CopyRecords, Storage
from app.storage.leases import Leases

COMMAND_BUSY_TIMEOUT_MS = 3_000
"""Milliseconds that a command waits for the writers of other processes; a server waits longer."""


@dataclass(frozen=True)
class Stores:
    """The open stores of one process."""

    storage: Storage
    accounts: AccountStore | None
    """None without access `accounts`: the user of the database may then have no rights to them."""
    leases: Leases
    listener: ChangeListener | None
    """Receives changes of other processes; None without a feed, or if the database does not notify."""
    library_id: str | None
    """A lasting id of the library, the same from every machine; None if it has none."""
    copies: CopyRecords


@asynccontextmanager
async def open_stores(
    settings: Settings,
    *,
    feed: ChangeFeed | None = None,
    observer: Observer | None = None,
    serving: bool = True,
    backend_options: Mapping[str, Any] | None = None,
) -> AsyncIterator[Stores]:
    """Open the stores of the settings, and close them in reverse. Migrates the database first.

    `feed` receives the changes that other programs and other processes make. `observer` receives the
    durations of all operations. Only a `serving` process decides by its settings which names are ignored;
    others use the patterns of the last server. `backend_options` are keyword arguments of the function that
    opens the backend: tests choose small sizes with them. Raises ConfigurationError, StorageUnavailable.
    """
    with ExitStack() as stack:

        def open_() -> tuple[OpenLibrary, ChangeListener | None]:
            library = _open_library(settings, stack, feed, serving=serving, options=backend_options)
            return library, _open_listener(library, feed, stack)

        library, listener = await asyncio.to_thread(open_)
        leases = Leases(library.leases)
        stack.callback(leases.close)
        storage = ThreadedStorage(library.backend, read_only=library.read_only, observer=observer)
        stack.callback(storage.close)
        accounts = library.accounts if settings.access == "accounts" else None
        yield Stores(storage, accounts, leases, listener, library.library_id, library.copies)


@contextmanager
def open_accounts(settings: Settings, *, create: bool) -> Iterator[AccountStore]:
    """Open the accounts alone, whatever SEEKABLE_ACCESS is. An SQL database must exist, unless `create`.

    Raises ConfigurationError, StorageError.
    """
    with ExitStack() as stack:
        if settings.storage == "gridfs":
            from app.database.gridfs.opening import open_users  # noqa: PLC0415

            yield open_users(settings, stack)
        else:
            accounts = _open_library(settings, stack, is_command=True, create=create, serving=False).accounts
            assert accounts is not None
            yield accounts


def prepare_database(settings: Settings, *, create: bool = True) -> None:
    """Migrate the database of the settings, and check within seconds that it can be used. A library must
    exist, unless `create`.

    Raises ConfigurationError, StorageError.
    """
    with ExitStack() as stack:
        _open_library(settings, stack, is_command=True, create=create, serving=False)


def _open_library(
    settings: Settings,
    stack: ExitStack,
    feed: ChangeFeed | None = None,
    *,
    is_command: bool = False,
    create: bool = True,
    serving: bool,
    options: Mapping[str, Any] | None = None,
) -> OpenLibrary:
    keywords = {"create": create, "serving": serving, **(options or {})}
    if settings.storage == "gridfs":
        from app.database.gridfs.opening import open_mongo_library  # noqa: PLC0415

        return open_mongo_library(settings, stack, feed, **keywords)
    from app.database.filesystem.opening import open_folder_library  # noqa: PLC0415

    if is_command:
        keywords["busy_timeout_ms"] = COMMAND_BUSY_TIMEOUT_MS
    return open_folder_library(settings, stack, feed, **keywords)


def _open_listener(library: OpenLibrary, feed: ChangeFeed | None, stack: ExitStack) -> ChangeListener | None:
    source = None if feed is None else library.open_change_source()
    if feed is None or source is None:
        return None
    listener = ChangeListener(source, feed)
    stack.callback(listener.close)
    return listener


def library_location(settings: Settings, library: str) -> str:
    """Return where the files of a library are, for messages."""
    if settings.storage == "gridfs":
        return f"{settings.location} {json.dumps({'library': library})}"
    from app.database.filesystem.rows import root_of  # noqa: PLC0415

    return str(settings.files_dir.absolute().joinpath(*root_of(library)))


def check_different_libraries(settings: Settings, other: Settings) -> None:
    """Raise ConfigurationError if both visibly name the same library, or one inside the other."""
    if settings.storage == other.storage == "filesystem":
        from app.database.filesystem.opening import check_different_folders  # noqa: PLC0415

        check_different_folders(settings, other)
    elif settings.storage == other.storage:
        from app.database.gridfs.connection import check_different_databases  # noqa: PLC0415

        check_different_databases(settings, other)
