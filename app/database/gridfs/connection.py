"""The connection to MongoDB, and its errors in the storage's words."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pymongo
from bson.errors import BSONError
from mongoengine import Document
from pymongo import ASCENDING, IndexModel, MongoClient
from pymongo.collection import Collection
from pymongo.errors import CollectionInvalid, ConnectionFailure, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from app.database.gridfs.account_documents import Account, Attempts, Invite, Link, Session, SigningKey, Token
from app.database.gridfs.documents import OBSOLETE_INDEXES, Media, Stored
from app.database.gridfs.own_writes import OwnWrites
from app.events.feed import ChangeFeed
from app.settings import ConfigurationError, Settings
from app.storage.errors import OutOfSpace, StorageUnavailable

PATIENCE_S = 3.0
"""How long all that is asked of the database for one step may take, unless it is known to take long."""

OPTIONS: dict[str, Any] = {
    "appname": "seekable",
    "serverselectiontimeoutms": 2000,
    "connecttimeoutms": 2000,
    # A server that is there but answers nothing is found out by the heartbeat alone.
    "heartbeatfrequencyms": 1000,
    "maxpoolsize": 64,
}
"""What we ask of the driver where the URL does not say otherwise; names in lower case, as it parses them."""

DEFAULT_NAME = "seekable"

_DISK_FULL = 14031  # OutOfDiskSpace
_NO_ANSWER = "The database does not answer."

FILES_INDEXES = [IndexModel([("filename", ASCENDING), ("uploadDate", ASCENDING)])]
IMAGES: dict[str, Any] = {"changeStreamPreAndPostImages": {"enabled": True}}
"""Of a collection: documents are remembered as they were before a change, for those who hear of it."""

LEASES_INDEXES = [IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=3600)]
CHUNKS_INDEXES = [IndexModel([("files_id", ASCENDING), ("n", ASCENDING)], unique=True)]


def indexes_of(document: type[Document]) -> list[IndexModel]:
    specs = ({**spec} for spec in document._meta["index_specs"])
    return [IndexModel(spec.pop("fields"), **spec) for spec in specs]


class Connection:
    """One MongoDB database: that of this `name`, else the one that the URL names, else the `default`.

    What is written is on the disks of a majority when it is acknowledged, and no less is ever read.
    Raises ConfigurationError, in which `setting` is named, when the URL is none.
    """

    schema: Collection[Stored]
    """The version of the schema; see schema_version.py."""

    def __init__(self, url: str, *, setting: str, default: str, name: str | None = None) -> None:
        try:
            parsed = parse_uri(url)
            options, nodes = parsed["options"], parsed["nodelist"]
            missing = {name: value for name, value in OPTIONS.items() if name not in options}
            self.client: MongoClient[Stored] = MongoClient(url, tz_aware=True, **missing)
            # The name is not put into the URL, which says with its own whose database knows the user.
            database = self.client[name] if name else self.client.get_default_database(default)
        except (PyMongoError, ValueError, OSError) as error:  # the last of certificates that are not there
            raise ConfigurationError(f"{setting}: {error}") from None
        self._database = database.with_options(
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern("majority", j=True),
        )
        self.name = database.name
        self.where = f"MongoDB at {', '.join(f'{host}:{port}' for host, port in nodes)}"
        self._silent_until = 0.0

    def close(self) -> None:
        self.client.close()

    @contextmanager
    def asked(self, within_s: float | None = PATIENCE_S, *, fail_fast: bool = True) -> Iterator[None]:
        """What is asked of the database inside has to be answered within so many seconds, all of it together;
        to fail fast, it is not even asked if it has just been found not to answer. Errors come in the
        storage's words: OutOfSpace, StorageUnavailable."""
        if fail_fast:
            self._fail_fast()
        try:
            with pymongo.timeout(within_s):
                yield
        except (PyMongoError, BSONError) as error:
            if isinstance(error, ConnectionFailure) or (isinstance(error, PyMongoError) and error.timeout):
                self._silent_until = time.monotonic() + 1
            raise told(error) from error

    def _fail_fast(self) -> None:
        # Whoever waits behind others that wait for a server in vain would wait as long again.
        if time.monotonic() < self._silent_until:
            if not self.client.topology_description.has_writable_server():
                raise StorageUnavailable(_NO_ANSWER)
            self._silent_until = 0.0

    def is_replicated(self) -> bool:
        """Whether there is an oplog, with all that needs one."""
        hello = self.client.admin.command("hello")
        return "setName" in hello or hello.get("msg") == "isdbgrid"  # the second of a router

    def ensure(self, collection: Collection[Stored], indexes: list[IndexModel]) -> bool:
        """Make the indexes that are missing. Where much is already, that takes a while. Return whether any
        was missing."""
        with self.asked():
            there = [dict(index["key"]) for index in collection.list_indexes()]
        missing = [index for index in indexes if dict(index.document["key"]) not in there]
        if missing:
            with self.asked(within_s=None):
                collection.create_indexes(missing)
        return bool(missing)


class Database(Connection):
    """The database of the files. `media` has the documents; the bucket `fs` has the bytes in `files` and
    `chunks`; `uploads`, a collection `media.uploads`, has which files of the bucket are ours to remove, and
    when; `schema`, a collection `media.schema`, has the version of the schema; `ignore`, `media.ignore`, by
    which patterns it was decided which files lists leave out; `copies`, `media.copies`, the files that were
    copied from another library; `leases`, `media.leases`, what one process at a time does; `progress`, a
    short one, messages about uploads to other processes. `feed` receives changes of other programs.
    """

    def __init__(self, url: str, feed: ChangeFeed | None = None) -> None:
        super().__init__(url, setting="SEEKABLE_MONGODB_URL", default=DEFAULT_NAME)
        self.media: Collection[Stored] = self._database["media"]
        self.uploads: Collection[Stored] = self._database["media.uploads"]
        self.leases: Collection[Stored] = self._database["media.leases"]
        self.files: Collection[Stored] = self._database["fs.files"]
        self.chunks: Collection[Stored] = self._database["fs.chunks"]
        self.ignore: Collection[Stored] = self._database["media.ignore"]
        self.progress: Collection[Stored] = self._database["media.progress"]
        self.schema = self._database["media.schema"]
        self.copies: Collection[Stored] = self._database["media.copies"]
        self.own_writes = OwnWrites()
        self.feed = feed or ChangeFeed()

    def exists(self) -> bool:
        """Whether there are files of ours in it."""
        with self.asked():
            return self.media.name in self._database.list_collection_names()

    def room(self) -> float:
        """Free bytes on the disk of the primary, as far as they can be told."""
        with self.asked():
            found = self._database.command("dbStats")
        if "fsTotalSize" not in found:  # some hosted databases do not tell
            return math.inf
        return float(found["fsTotalSize"] - found["fsUsedSize"])

    def ensure_indexes(self) -> None:
        """Make those that are missing, and the collections that they are in."""
        self._make_media()
        if not self.ensure(self.media, indexes_of(Media)):
            # Only now: at the start that made today's, servers of an earlier version may use theirs.
            self._drop(self.media, OBSOLETE_INDEXES)
        self.ensure(self.files, FILES_INDEXES)
        self.ensure(self.chunks, CHUNKS_INDEXES)
        self.ensure(self.leases, LEASES_INDEXES)

    def _drop(self, collection: Collection[Stored], indexes: Sequence[tuple[str, ...]]) -> None:
        with self.asked():
            there = [(index["name"], tuple(index["key"])) for index in collection.list_indexes()]
        for name, fields in there:
            if fields in indexes:
                with self.asked(within_s=None), suppress(StorageUnavailable):  # another server was faster
                    collection.drop_index(name)

    def _make_media(self) -> None:
        """If it is not there. Later it would take a right, collMod, that the role readWrite has not."""
        # What is no replica set, or older than MongoDB 6.0, refuses; then it comes with its indexes.
        with self.asked(), suppress(CollectionInvalid, OperationFailure):
            self._database.create_collection(self.media.name, **IMAGES)

    def check_answers(self) -> None:
        """Raise StorageUnavailable if the database does not answer; else one document alone was at fault."""
        with self.asked(within_s=1.5, fail_fast=False):
            self.client.admin.command("ping")

    def ping(self) -> None:
        """Return when the database answers and has what no file may be stored without."""
        wanted = ((self.media, ["library", "folder", "filename"]), (self.chunks, ["files_id", "n"]))
        with self.asked(within_s=1.5):
            complete = all(fields in _unique(collection) for collection, fields in wanted)
            # Changes nothing, and waits for all that a change waits for: a primary that is not locked, the
            # right to write, and a majority.
            self.media.update_one({"_id": _ABSENT}, {"$set": {"ready": True}})
        if not complete:
            raise StorageUnavailable("The database has lost an index; start the server again to make it.")


_ABSENT = "none"
"""No id of a document: those are made by us, and longer."""


def _unique(collection: Collection[Stored]) -> list[list[str]]:
    """The fields of which no two documents have the same."""
    return [list(index["key"]) for index in collection.list_indexes() if index.get("unique")]


def told(error: PyMongoError | BSONError) -> OutOfSpace | StorageUnavailable:
    """An error of the driver in the storage's words."""
    if isinstance(error, OperationFailure):
        if error.code == _DISK_FULL:
            return OutOfSpace("The disk of the database is full.")
        if error.timeout:
            return StorageUnavailable(_NO_ANSWER)
        reason = str((error.details or {}).get("errmsg", error)).removesuffix(".")
        return StorageUnavailable(f"The database refuses: {reason}.")
    if isinstance(error, ConnectionFailure):
        return StorageUnavailable(_NO_ANSWER)
    return StorageUnavailable(f"The database refuses: {error}.")


def check_urls_apart(settings: Settings, other: Settings) -> None:
    """Raise ConfigurationError if both are on one of the same servers, in the same database."""
    one, two = settings.mongodb_url or "", other.mongodb_url or ""
    if one == two or _same(_parsed(one), _parsed(two)):
        raise ConfigurationError("Both MongoDB URLs name the same database.")


def _parsed(url: str) -> dict[str, Any]:
    if not url.startswith("mongodb://"):  # mongodb+srv:// would be looked up
        return {}
    try:
        return dict(parse_uri(url, validate=False, warn=False))
    except PyMongoError:
        return {}  # whoever opens it says what is wrong


def _same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    if not one or not two:
        return False
    servers = set(one["nodelist"]) & set(two["nodelist"])
    return bool(servers) and (one["database"] or DEFAULT_NAME) == (two["database"] or DEFAULT_NAME)


USERS = "users"
"""What the database is called, if no URL says otherwise."""


class Users(Connection):
    """Each kind of document has a collection."""

    def __init__(self, url: str, *, setting: str, name: str | None = None) -> None:
        super().__init__(url, setting=setting, default=USERS, name=name)
        self.accounts = self._of(Account)
        self.sessions = self._of(Session)
        self.tokens = self._of(Token)
        self.links = self._of(Link)
        self.invites = self._of(Invite)
        self.signing_keys = self._of(SigningKey)
        self.attempts = self._of(Attempts)
        self.announcements = self._database["announcements"]
        self.schema = self._database["schema"]

    def _of(self, kind: type[Document]) -> Collection[Stored]:
        return self._database[kind._meta["collection"]]

    def ensure_indexes(self) -> None:
        """Make those that are missing. What is promised of racing calls rests on the unique ones."""
        for kind in (Account, Session, Token, Link, Invite, SigningKey, Attempts):
            self.ensure(self._of(kind), indexes_of(kind))
