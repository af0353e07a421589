"""Opens a MongoDB database for stored files."""

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from pymongo.errors import ServerSelectionTimeoutError

from app.database.mongo.connection import Database
from app.database.mongo.files import GridBackend
from app.database.mongo.leases import Keeper
from app.database.mongo.staging import Senders
from app.database.rules import ignore
from app.settings import ConfigurationError, Settings
from app.storage.errors import StorageError
from app.storage.types import Change

SENDERS = 8
"""Batches of all uploads that the database is storing at the same time, at most."""


def open_gridfs(
    settings: Settings,
    media_type: Callable[[str], str],
    stack: ExitStack,
    notice: Callable[[Sequence[Change]], None] = ignore,
    *,
    create: bool = True,
) -> GridBackend:
    """Raises ConfigurationError, StorageError."""
    if not settings.mongodb_url:
        raise ConfigurationError("SEEKABLE_STORAGE=gridfs needs SEEKABLE_MONGODB_URL.")
    database = Database(settings.mongodb_url)
    stack.callback(database.close)
    try:
        if not create and not database.exists():
            raise ConfigurationError(
                f"There is no library in the database {database.name!r}; `seekable serve` makes one."
            )
        database.ensure_indexes()
    except StorageError as error:
        raise type(error)(f"{database.where}: {error}{_reason(error)}") from error
    keeper = Keeper(database)
    stack.callback(keeper.close)
    senders = stack.enter_context(Senders(SENDERS))
    return GridBackend(database, keeper, senders, media_type=media_type, notice=notice)


def _reason(error: StorageError) -> str:
    """Why no server was found, which only who starts this has to know."""
    cause = error.__cause__
    if not isinstance(cause, ServerSelectionTimeoutError):
        return ""
    reason = re.split(r" \(configured timeouts|, Timeout: ", str(cause))[0]
    return f" ({reason})"
