"""Opens MongoDB databases: for stored files, and for accounts."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from pymongo.errors import ServerSelectionTimeoutError

from app.database.mongo.accounts import MongoAccounts
from app.database.mongo.connection import Connection, Database
from app.database.mongo.files import GridBackend
from app.database.mongo.ignoring import ignored_names
from app.database.mongo.schema_version import check_version, migration_of, record_version
from app.database.mongo.staging import Senders
from app.database.mongo.upload_leases import Keeper
from app.database.mongo.users import USERS, Users
from app.database.retyping import RETYPED, retyped
from app.database.rules import ignore
from app.settings import ConfigurationError, Settings
from app.storage.errors import StorageError
from app.storage.ignored import Ignored
from app.storage.types import Change

SENDERS = 8
"""Batches of all uploads that the database is storing at the same time, at most."""

_NO_URL = "SEEKABLE_STORAGE=gridfs needs SEEKABLE_MONGODB_URL."


def open_gridfs(
    settings: Settings,
    media_type: Callable[[str], str],
    stack: ExitStack,
    notice: Callable[[Sequence[Change]], None] = ignore,
    *,
    create: bool = True,
    serving: bool = True,
) -> GridBackend:
    """Raises ConfigurationError, StorageError."""
    if not settings.mongodb_url:
        raise ConfigurationError(_NO_URL)
    database = Database(settings.mongodb_url)
    stack.callback(database.close)
    with _said_of(database):
        if not create and not database.exists():
            raise ConfigurationError(
                f"There is no library in the database {database.name!r}; `seekable serve` makes one."
            )
        check_version(database)
        database.ensure_indexes()
        ignored = ignored_names(database, Ignored(settings.ignore), serving=serving)
        if migration_of(database) == "due":
            _retype(database)
        record_version(database)
    keeper = Keeper(database)
    stack.callback(keeper.close)
    senders = stack.enter_context(Senders(SENDERS))
    return GridBackend(database, keeper, senders, media_type=media_type, ignored=ignored, notice=notice)


def open_users(settings: Settings, stack: ExitStack) -> MongoAccounts:
    """Raises ConfigurationError, StorageError."""
    if settings.users_url:
        users = Users(settings.users_url, setting="SEEKABLE_USERS_URL")
    elif settings.mongodb_url:
        users = Users(settings.mongodb_url, setting="SEEKABLE_MONGODB_URL", name=USERS)
    else:
        raise ConfigurationError(_NO_URL)
    stack.callback(users.close)
    with _said_of(users):
        check_version(users)
        users.ensure_indexes()
        record_version(users)
    return MongoAccounts(users)


def _retype(database: Database) -> None:
    """Correct the media types of films that clients had hidden from players."""
    with database.asked(within_s=None):
        found = database.media.find({"content_type": {"$in": [*RETYPED]}}, {"content_type": 1, "filename": 1})
        for media in found:
            same = {name: media[name] for name in ("_id", "content_type")}
            kind = retyped(media["content_type"], str(media.get("filename")))
            database.media.update_one(same, {"$set": {"content_type": kind}})


@contextmanager
def _said_of(database: Connection) -> Iterator[None]:
    """Name the database that cannot be worked with."""
    try:
        yield
    except StorageError as error:
        raise type(error)(f"{database.where}: {error}{_reason(error)}") from error


def _reason(error: StorageError) -> str:
    """Why no server was found, which only who starts this has to know."""
    cause = error.__cause__
    if not isinstance(cause, ServerSelectionTimeoutError):
        return ""
    reason = re.split(r" \(configured timeouts|, Timeout: ", str(cause))[0]
    return f" ({reason})"
