"""The stores. Nothing outside this package knows SQLAlchemy or MongoEngine."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

from app.database.mongo.apart import check_urls_apart
from app.database.mongo.opening import open_gridfs
from app.database.rules import ignore
from app.database.sql.opening import check_folders_apart, open_filesystem
from app.settings import Settings
from app.storage.backend import Backend
from app.storage.contract import Storage
from app.storage.threaded import ThreadedStorage
from app.storage.types import Change

PATIENCE_MS = 3_000
"""How long a command waits for the writers of other processes before it says so."""


@dataclass(frozen=True)
class Stores:
    """What the settings opened."""

    storage: Storage


@asynccontextmanager
async def open_database(
    settings: Settings,
    *,
    media_type: Callable[[str], str],
    notice: Callable[[Sequence[Change]], None] = ignore,
) -> AsyncIterator[Stores]:
    """The stores that the settings name, closed in reverse. An SQLite database is migrated first.

    `media_type` guesses the type of a file that was not uploaded from its name; `notice` is told, by any
    thread, what other programs did to the files: all that one look found, at once.
    Raises ConfigurationError, StorageUnavailable.
    """
    with ExitStack() as stack:
        storage = ThreadedStorage(await asyncio.to_thread(_open, settings, media_type, stack, notice))
        stack.callback(storage.close)
        yield Stores(storage)


def check_apart(settings: Settings, other: Settings) -> None:
    """Raise ConfigurationError if both name the same library, as far as can be told before it is opened, or
    if one is inside the other."""
    if settings.storage == other.storage:
        (check_folders_apart if settings.storage == "filesystem" else check_urls_apart)(settings, other)


def prepare_database(settings: Settings, *, create: bool = True) -> None:
    """Bring the database that the settings name to the newest schema, and see that it can be worked with.
    Whoever started this waits for an answer, and gets one within seconds. Unless to create, there has to be a
    library already.

    Raises ConfigurationError, StorageError.
    """
    with ExitStack() as stack:
        if settings.storage == "gridfs":
            open_gridfs(settings, str, stack, create=create)
        else:
            open_filesystem(settings, str, stack, busy_timeout_ms=PATIENCE_MS, create=create)


def _open(
    settings: Settings,
    media_type: Callable[[str], str],
    stack: ExitStack,
    notice: Callable[[Sequence[Change]], None],
) -> Backend:
    if settings.storage == "gridfs":
        return open_gridfs(settings, media_type, stack, notice)
    return open_filesystem(settings, media_type, stack, notice)
