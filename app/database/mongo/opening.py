"""Opens a MongoDB database for stored files."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from app.database.mongo.connection import Database
from app.database.mongo.files import GridBackend
from app.database.rules import ignore
from app.settings import ConfigurationError, Settings
from app.storage.errors import StorageError
from app.storage.types import Change


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
        raise type(error)(f"{database.where}: {error}") from error
    return GridBackend(database, media_type=media_type, notice=notice)
