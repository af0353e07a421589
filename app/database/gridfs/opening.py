"""Opening MongoDB databases: versions of the schema, upgrades of older documents, ignored names."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

from pymongo import UpdateOne
from pymongo.errors import ServerSelectionTimeoutError

from app.database.gridfs.accounts import MongoAccounts
from app.database.gridfs.backend import GridBackend
from app.database.gridfs.bucket import DEFAULT_SIZES, ChunkSenders, TransferSizes
from app.database.gridfs.change_feed import open_change_source
from app.database.gridfs.connection import USERS, Connection, MongoDatabase, Users
from app.database.gridfs.documents import RawDocument, after_id
from app.database.gridfs.garbage_collection import LEASE_S, LeaseRenewer
from app.database.gridfs.lease_stock import LeaseStock
from app.database.gridfs.loop_client import LoopClient
from app.database.gridfs.shared_state import MongoCopyRecords, MongoLeases
from app.database.open_library import NEWER_SCHEMA, OpenLibrary
from app.events.feed import ChangeFeed
from app.http.media_types import OUTDATED_TYPES, correct_outdated
from app.settings import ConfigurationError, Settings
from app.storage.errors import InvalidName, StorageError, StorageUnavailable
from app.storage.ignored_names import IgnoredNames
from app.storage.types import Key

SENDER_THREADS = 8
"""Batches of chunks, of all uploads, that are being inserted at the same time."""

VERSION = 3
"""The version of the schema. Increment it with every change of the documents that earlier versions of this
program would misread or damage."""

UPGRADE_BATCH = 2_000
"""Documents per query of an upgrade."""

NO_URL = "SEEKABLE_STORAGE=gridfs needs SEEKABLE_MONGODB_URL."

_SCHEMA_ID = {"_id": "seekable"}
_PATTERNS_ID = {"_id": "patterns"}
_NAME_FIELDS = dict.fromkeys(("library", "folder", "filename", "ignored"), True)

log = logging.getLogger(__name__)


def open_mongo_library(
    settings: Settings, stack: ExitStack, feed: ChangeFeed | None, **options: Any
) -> OpenLibrary:
    """Open the library, its accounts and its leases. The options are those of `open_gridfs`.

    Raises ConfigurationError, StorageError.
    """
    backend = open_gridfs(settings, stack, feed, **options)
    database = backend.database
    return OpenLibrary(
        backend,
        open_users(settings, stack) if settings.access == "accounts" else None,
        MongoLeases(database),
        MongoCopyRecords(database),
        library_id=library_id(database),
        read_only=settings.read_only,
        open_change_source=partial(open_change_source, database),
    )


def open_gridfs(
    settings: Settings,
    stack: ExitStack,
    feed: ChangeFeed | None = None,
    *,
    create: bool = True,
    serving: bool = True,
    sizes: TransferSizes = DEFAULT_SIZES,
    lease_s: float = LEASE_S,
) -> GridBackend:
    """Open the backend until the stack closes. Without `create`, the library must exist.

    Raises ConfigurationError, StorageError.
    """
    if not settings.mongodb_url:
        raise ConfigurationError(NO_URL)
    database = MongoDatabase(settings.mongodb_url, feed)
    stack.callback(database.close)
    with _naming_server(database):
        if not create and not database.exists():
            raise ConfigurationError(
                f"The database “{database.name}” contains no library. Run `seekable serve` to create one."
            )
        check_version(database)
        database.ensure_indexes()
        ignored = _ignored_names(database, IgnoredNames(settings.ignore), serving=serving)
        if migration_of(database) == "due":
            _correct_media_types(database)
        record_version(database)
    leases = LeaseRenewer(database, lease_s=lease_s)
    stack.callback(leases.close)
    senders = stack.enter_context(ChunkSenders(SENDER_THREADS))
    client = LoopClient(database)
    stack.callback(client.close)
    stock = LeaseStock(database)
    stack.callback(stock.close)
    return GridBackend(database, leases, senders, client, stock, ignored=ignored, sizes=sizes)


def open_users(settings: Settings, stack: ExitStack) -> MongoAccounts:
    """Open the accounts until the stack closes. Raises ConfigurationError, StorageError."""
    users = connect_users(settings)
    stack.callback(users.close)
    with _naming_server(users):
        check_version(users)
        users.ensure_indexes()
        record_version(users)
    return MongoAccounts(users)


def connect_users(settings: Settings) -> Users:
    """Return the database of accounts. Raises ConfigurationError."""
    if settings.users_url:
        return Users(settings.users_url, setting="SEEKABLE_USERS_URL")
    if settings.mongodb_url:
        return Users(settings.mongodb_url, setting="SEEKABLE_MONGODB_URL", name=USERS)
    raise ConfigurationError(NO_URL)


@contextmanager
def _naming_server(database: Connection) -> Iterator[None]:
    """Prefix storage errors with the server, and add the driver's reason if no server was found."""
    try:
        yield
    except StorageError as error:
        raise type(error)(f"{database.server}: {error}{_reason(error)}") from error


def _reason(error: StorageError) -> str:
    cause = error.__cause__
    if not isinstance(cause, ServerSelectionTimeoutError):
        return ""
    reason = re.split(r" \(configured timeouts|, Timeout: ", str(cause))[0]
    return f" The driver reports: {reason.rstrip('.')}."


# The version of the schema


def check_version(database: Connection) -> None:
    """Raise StorageUnavailable if a newer version of this program made the database. Changes nothing."""
    if migration_of(database) == "newer":
        raise StorageUnavailable(NEWER_SCHEMA)


def record_version(database: Connection) -> None:
    """Record the version of the schema, unless a newer one was recorded meanwhile."""
    with database.operation():
        database.schema.update_one(_SCHEMA_ID, {"$max": {"version": VERSION}}, upsert=True)


def migration_of(database: Connection) -> str:
    """Return `done`, `due` at the next start, or `newer`."""
    with database.operation():
        return migration(database.schema.find_one(_SCHEMA_ID))


def migration(found: Mapping[str, Any] | None, ours: int = VERSION) -> str:
    """Return the same for the document of a schema; None if the database has none yet."""
    if found is None:
        return "due"
    version = found.get("version")
    if not isinstance(version, int | float) or version > ours:  # another type is newer, too
        return "newer"
    return "due" if version < ours else "done"


def library_id(database: Connection) -> str:
    """Return the id by which other libraries record copies from this one. Creates it at the first call."""
    without = {**_SCHEMA_ID, "library": {"$exists": False}}
    with database.operation():
        database.schema.update_one(without, {"$set": {"library": uuid4().hex}})
        found = database.schema.find_one(_SCHEMA_ID)
    assert found is not None
    return str(found["library"])


# Upgrades of documents


def _correct_media_types(database: MongoDatabase) -> None:
    """Correct the media types that hide films from players, in documents of older versions."""
    with database.operation(within_s=None):
        selected = {"content_type": {"$in": [*OUTDATED_TYPES]}}
        for media in database.media.find(selected, {"content_type": 1, "filename": 1}):
            unchanged = {name: media[name] for name in ("_id", "content_type")}
            kind = correct_outdated(media["content_type"], str(media.get("filename")))
            database.media.update_one(unchanged, {"$set": {"content_type": kind}})


def _ignored_names(database: MongoDatabase, configured: IgnoredNames, *, serving: bool) -> IgnoredNames:
    """Return the patterns that decide which files lists leave out.

    A server flags every document by its settings. A command uses the patterns of the last server, because a
    shell may lack the server's settings.
    """
    with database.operation():
        recorded = (database.ignore.find_one(_PATTERNS_ID) or {}).get("text")
    if not serving:
        return IgnoredNames.parse(recorded) if isinstance(recorded, str) else configured
    if recorded != configured.text:
        _flag_ignored(database, configured)
    return configured


def _flag_ignored(database: MongoDatabase, ignored: IgnoredNames) -> None:
    """Flag every document.

    Other processes may write meanwhile. Each update requires that the document still has the name that was
    checked, and later changes of names set the flag themselves.
    """
    last: RawDocument = {}
    while True:
        with database.operation():
            batch = list(database.media.find(last, _NAME_FIELDS).sort("_id").limit(UPGRADE_BATCH))
        if not batch:
            break
        if not last and len(batch) == UPGRADE_BATCH:
            log.info("SEEKABLE_IGNORE has changed since the last start: checking the names of all files.")
        last = after_id(batch[-1]["_id"])
        updates = [
            _flag_update(media) for media in batch if _is_ignored(media, ignored) != _is_flagged(media)
        ]
        if updates:
            with database.operation():
                database.media.bulk_write(updates, ordered=False)
    with database.operation():
        database.ignore.replace_one(_PATTERNS_ID, {"text": ignored.text}, upsert=True)


def _is_flagged(media: RawDocument) -> bool:
    return media.get("ignored") is True


def _is_ignored(media: RawDocument, ignored: IgnoredNames) -> bool:
    try:
        return ignored.matches(Key(media["library"], media["folder"], media["filename"]))
    except (InvalidName, KeyError, TypeError):  # another program wrote the document
        return _is_flagged(media)


def _flag_update(media: RawDocument) -> UpdateOne:
    unchanged = {name: media[name] for name in ("_id", "library", "folder", "filename")}
    change = {"$unset": {"ignored": ""}} if _is_flagged(media) else {"$set": {"ignored": True}}
    return UpdateOne(unchanged, change)
