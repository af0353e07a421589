"""Opens MongoDB databases: for stored files, and for accounts."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import uuid4

from pymongo import UpdateOne
from pymongo.errors import ServerSelectionTimeoutError

from app.database.facts import NEWER
from app.database.gridfs.accounts import MongoAccounts
from app.database.gridfs.backend import GridBackend
from app.database.gridfs.connection import USERS, Connection, Database, Users
from app.database.gridfs.documents import Stored, behind
from app.database.gridfs.staging import Senders
from app.database.gridfs.upload_leases import Keeper
from app.events.feed import ChangeFeed
from app.settings import ConfigurationError, Settings
from app.storage.contract import CopyRecord
from app.storage.errors import InvalidName, StorageError, StorageUnavailable
from app.storage.ignored_names import IgnoredNames
from app.storage.types import Key

BATCH = 2_000
"""Documents that one query reads."""

_log = logging.getLogger("seekable")

_PATTERNS = "patterns"
_FIELDS = dict.fromkeys(("library", "folder", "filename", "ignored"), True)


def ignored_names(database: Database, wanted: IgnoredNames, *, serving: bool) -> IgnoredNames:
    """Return the patterns that decide which files lists leave out.

    A server flags every document by the patterns that it wants, and returns those. A command returns those of
    the last server, because a shell may lack the server's settings.
    """
    with database.asked():
        noted = (database.ignore.find_one({"_id": _PATTERNS}) or {}).get("text")
    if not serving:
        return IgnoredNames.parse(noted) if isinstance(noted, str) else wanted
    if noted != wanted.text:
        _flag(database, wanted)
    return wanted


def _flag(database: Database, ignored: IgnoredNames) -> None:
    """Decide for every document. Others may write meanwhile: one is changed only if it still has the name
    that was looked at, and one that gets its name later was decided by whoever named it.
    """
    last: Stored = {}
    while True:
        with database.asked():
            batch = list(database.media.find(last, _FIELDS).sort("_id").limit(BATCH))
        if not batch:
            break
        if not last and len(batch) == BATCH:
            _log.info("SEEKABLE_IGNORE is another than the last time: looking at the names of all files.")
        last = behind(batch[-1]["_id"])
        updates = [_flagged(media) for media in batch if _is_ignored(media, ignored) != _was_ignored(media)]
        if updates:
            with database.asked():
                database.media.bulk_write(updates, ordered=False)
    with database.asked():
        database.ignore.replace_one({"_id": _PATTERNS}, {"text": ignored.text}, upsert=True)


def _was_ignored(media: Stored) -> bool:
    return media.get("ignored") is True


def _is_ignored(media: Stored, ignored: IgnoredNames) -> bool:
    try:
        return ignored.matches(Key(media["library"], media["folder"], media["filename"]))
    except (InvalidName, KeyError, TypeError):  # another program wrote it
        return _was_ignored(media)


def _flagged(media: Stored) -> UpdateOne:
    same = {name: media[name] for name in ("_id", "library", "folder", "filename")}
    change = {"$unset": {"ignored": ""}} if _was_ignored(media) else {"$set": {"ignored": True}}
    return UpdateOne(same, change)


VERSION = 3
"""Raise it with each change of the documents that the code before it would misread or damage."""

_THE_ONE = {"_id": "seekable"}


def check_version(database: Connection) -> None:
    """Raise StorageUnavailable if a newer Seekable made the database. Changes nothing."""
    if migration_of(database) == "newer":
        raise StorageUnavailable(NEWER)


def record_version(database: Connection) -> None:
    """Note that the database has our schema, unless a newer one was noted meanwhile."""
    with database.asked():
        database.schema.update_one(_THE_ONE, {"$max": {"version": VERSION}}, upsert=True)


def library_of(database: Connection) -> str:
    """Return the id of the library, by which others know what they copied from it; choose one at first."""
    without = {**_THE_ONE, "library": {"$exists": False}}
    with database.asked():
        database.schema.update_one(without, {"$set": {"library": uuid4().hex}})
        found = database.schema.find_one(_THE_ONE)
    assert found is not None
    return str(found["library"])


def migration_of(database: Connection) -> str:
    """Return `done`, `due` at the next start, or `newer`."""
    with database.asked():
        return migration(database.schema.find_one(_THE_ONE))


def migration(found: Mapping[str, Any] | None, ours: int = VERSION) -> str:
    """Return the same for the document that a database has, None if it was made before there was one."""
    if found is None:
        return "due"
    version = found.get("version")
    if not isinstance(version, int | float) or version > ours:  # another form is newer, too
        return "newer"
    return "due" if version < ours else "done"


_MATROSKA = {"": "video/x-matroska", "mka": "audio/x-matroska"}

RETYPED: dict[str, dict[str, str]] = {
    "application/matroska": _MATROSKA,
    "application/x-matroska": _MATROSKA,
    "audio/matroska": {"": "audio/x-matroska"},
    "video/matroska": {"": "video/x-matroska"},
    "video/matroska-3d": {"": "video/x-matroska"},
    "video/mkv": {"": "video/x-matroska"},
    "video/x-mkv": {"": "video/x-matroska"},
    "application/mp4": {"mp4": "video/mp4", "m4v": "video/mp4", "m4a": "audio/mp4", "m4b": "audio/mp4"},
    "application/ogg": {
        **dict.fromkeys(("ogg", "oga", "opus", "spx"), "audio/ogg"),
        **dict.fromkeys(("ogv", "ogm"), "video/ogg"),
    },
    "text/vnd.trolltech.linguist": {"ts": "video/mp2t"},
    "text/vnd.qt.linguist": {"ts": "video/mp2t"},
}
"""By the type that was stored, the types by extension; "" is any extension."""


def retyped(content_type: str, filename: str) -> str:
    """Return the type that a file of an older version has from now on."""
    types = RETYPED.get(content_type, {})
    _, dot, extension = filename.rpartition(".")
    return types.get(extension.lower() if dot else "", types.get("", content_type))


SENDERS = 8
"""Batches of all uploads that the database is storing at the same time, at most."""

_NO_URL = "SEEKABLE_STORAGE=gridfs needs SEEKABLE_MONGODB_URL."


def open_gridfs(
    settings: Settings,
    stack: ExitStack,
    feed: ChangeFeed | None = None,
    *,
    create: bool = True,
    serving: bool = True,
) -> GridBackend:
    """Raises ConfigurationError, StorageError."""
    if not settings.mongodb_url:
        raise ConfigurationError(_NO_URL)
    database = Database(settings.mongodb_url, feed)
    stack.callback(database.close)
    with _said_of(database):
        if not create and not database.exists():
            raise ConfigurationError(
                f"There is no library in the database {database.name!r}; `seekable serve` makes one."
            )
        check_version(database)
        database.ensure_indexes()
        ignored = ignored_names(database, IgnoredNames(settings.ignore), serving=serving)
        if migration_of(database) == "due":
            _retype(database)
        record_version(database)
    keeper = Keeper(database)
    stack.callback(keeper.close)
    senders = stack.enter_context(Senders(SENDERS))
    return GridBackend(database, keeper, senders, ignored=ignored)


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


class MongoCopies:
    """`storage.contract.CopyRecords` over a MongoDB database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, ids: Sequence[str]) -> Mapping[str, CopyRecord]:
        with self._database.asked():
            found = list(self._database.copies.find({"_id": {"$in": [*ids]}}))
        return {
            one["_id"]: CopyRecord(
                one["_id"], one["path"], one["etag"], one["updated_at"], one["source"], one["origin"]
            )
            for one in found
        }

    def save(self, copy: CopyRecord) -> None:
        document = {
            "path": copy.path,
            "etag": copy.etag,
            "updated_at": copy.updated_at,
            "source": copy.source,
            "origin": copy.origin,
        }
        with self._database.asked():
            self._database.copies.replace_one({"_id": copy.id}, document, upsert=True)

    def remove(self, copy: str) -> None:
        with self._database.asked():
            self._database.copies.delete_one({"_id": copy})
