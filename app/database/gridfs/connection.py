"""Connections to MongoDB databases: time limits, errors, collections, indexes."""

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
from pymongo.errors import AutoReconnect, CollectionInvalid, ConnectionFailure, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from app.database.gridfs.account_documents import (
    AccountDocument,
    InviteDocument,
    LinkDocument,
    LoginLimitDocument,
    SessionDocument,
    SigningKeyDocument,
    TokenDocument,
)
from app.database.gridfs.documents import OBSOLETE_INDEXES, Media, RawDocument
from app.database.gridfs.own_writes import OwnWrites
from app.events.feed import ChangeFeed
from app.settings import ConfigurationError, Settings
from app.storage.errors import OutOfSpace, StorageUnavailable

TIMEOUT_S = 3.0
"""Seconds that the commands of one step may take together, unless they are known to take long."""

OPTIONS: dict[str, Any] = {
    "appname": "seekable",
    "serverselectiontimeoutms": 2000,
    "connecttimeoutms": 2000,
    # Only the heartbeat detects a server that accepts connections but does not reply.
    "heartbeatfrequencyms": 1000,
    "maxpoolsize": 64,
}
"""Options of the driver, unless the URL sets them. Lower case, as the driver parses them."""

DURABLE = WriteConcern("majority", j=True)
"""Acknowledged writes are on the disks of a majority."""

UNCONFIRMED = WriteConcern(1)
"""Acknowledged writes are in the memory of the primary, and reach the disks before all later writes do."""

DEFAULT_NAME = "seekable"

_DISK_FULL = 14031  # OutOfDiskSpace
NO_REPLY = "The database does not answer. Try again in a few seconds."

FILES_INDEXES = [IndexModel([("filename", ASCENDING), ("uploadDate", ASCENDING)])]
CHUNKS_INDEXES = [IndexModel([("files_id", ASCENDING), ("n", ASCENDING)], unique=True)]
LEASES_INDEXES = [IndexModel([("expires_at", ASCENDING)], expireAfterSeconds=3600)]

IMAGES: dict[str, Any] = {"changeStreamPreAndPostImages": {"enabled": True}}
"""Options of a collection whose change stream contains each document as it was before a change."""


def indexes_of(document: type[Document]) -> list[IndexModel]:
    specs = ({**spec} for spec in document._meta["index_specs"])
    return [IndexModel(spec.pop("fields"), **spec) for spec in specs]


_UNESCAPED = "Write / in the name and the password of the user as %2F, ? as %3F, # as %23 and @ as %40."


def _checked(url: str) -> dict[str, Any]:
    """Return the parts of a URL, which mongodb+srv:// looks up in the DNS.

    Raises StorageUnavailable if a lookup fails, and ValueError without any part of an unescaped password.
    """
    try:
        parsed: dict[str, Any] = parse_uri(url)
    except PyMongoError as error:
        message = str(error)
        if error.__cause__ is not None:  # of the DNS
            raise StorageUnavailable(message) from error
    else:
        message = parsed["database"] or ""  # after an unescaped slash, the password would be the name
        if "@" not in message:
            return parsed
    raise ValueError(_UNESCAPED if "@" in message else message)


class Connection:
    """One MongoDB database: the one with this `name`, else the one in the URL, else the `default`.

    An acknowledged write is on the disks of a majority of nodes, and reads return only such writes.
    Raises ConfigurationError if the URL is invalid, and StorageUnavailable if the DNS does not know its host;
    both name the `setting`.
    """

    schema: Collection[RawDocument]
    """The version of the schema; see opening.py."""

    def __init__(self, url: str, *, setting: str, default: str, name: str | None = None) -> None:
        try:
            parsed = _checked(url)
            options, nodes = parsed["options"], parsed["nodelist"]
            missing = {name: value for name, value in OPTIONS.items() if name not in options}
            self.client: MongoClient[RawDocument] = MongoClient(url, tz_aware=True, **missing)
            # The name is not put into the URL, whose database authenticates the user.
            database = self.client[name] if name else self.client.get_default_database(default)
        except (PyMongoError, ValueError, OSError) as error:  # OSError: a certificate file is missing
            raise ConfigurationError(f"{setting}: {error}") from None
        except StorageUnavailable as error:
            raise StorageUnavailable(f"{setting}: {error}") from None
        self._database = database.with_options(
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=DURABLE,
        )
        self.name = database.name
        self.codec_options = database.codec_options
        self.uri = parsed
        """The parts of the URL, as PyMongo parsed it."""
        self.server = f"MongoDB at {', '.join(f'{host}:{port}' for host, port in nodes)}"
        self._unreachable_until = 0.0

    def close(self) -> None:
        self.client.close()

    @contextmanager
    def operation(self, within_s: float | None = TIMEOUT_S, *, fail_fast: bool = True) -> Iterator[None]:
        """Limit the total time of the commands inside, and map their errors.

        With `fail_fast`, raise at once if the database was found unreachable within the last second.
        Raises OutOfSpace, StorageUnavailable.
        """
        if fail_fast:
            self._fail_fast()
        try:
            with pymongo.timeout(within_s):
                yield
        except (PyMongoError, BSONError) as error:
            if isinstance(error, ConnectionFailure) or (isinstance(error, PyMongoError) and error.timeout):
                self.mark_unreachable()
            raise map_error(error) from error

    def mark_unreachable(self) -> None:
        """Note that the database did not answer, so that others need not wait for the same timeout."""
        self._unreachable_until = time.monotonic() + 1

    def _fail_fast(self) -> None:
        # Otherwise a thread that waited behind others in a timeout would wait for the same timeout again.
        if time.monotonic() < self._unreachable_until:
            if not self.client.topology_description.has_writable_server():
                raise StorageUnavailable(NO_REPLY)
            self._unreachable_until = 0.0

    def is_replicated(self) -> bool:
        """Return whether the server has an oplog, which change streams need."""
        hello = self.client.admin.command("hello")
        return "setName" in hello or hello.get("msg") == "isdbgrid"  # the latter is a mongos router

    def has_terms(self) -> bool:
        """Return whether the server is the primary of a replica set, whose replies to writes carry its term.

        A look at what the driver knows, without a query.
        """
        servers = self.client.topology_description.server_descriptions().values()
        return any(server.server_type_name == "RSPrimary" for server in servers)

    def create_missing(self, collection: Collection[RawDocument], indexes: list[IndexModel]) -> bool:
        """Create the missing indexes, which is slow for many documents. Return whether any was missing."""
        with self.operation():
            existing = [dict(index["key"]) for index in collection.list_indexes()]
        missing = [index for index in indexes if dict(index.document["key"]) not in existing]
        if missing:
            with self.operation(within_s=None):
                collection.create_indexes(missing)
        return bool(missing)


class MongoDatabase(Connection):
    """The database of the files. `feed` receives the changes that scans find."""

    def __init__(self, url: str, feed: ChangeFeed | None = None) -> None:
        super().__init__(url, setting="SEEKABLE_MONGODB_URL", default=DEFAULT_NAME)
        self.media: Collection[RawDocument] = self._database["media"]
        """The documents of the stored files."""
        self.files: Collection[RawDocument] = self._database["fs.files"]
        self.chunks: Collection[RawDocument] = self._database["fs.chunks"]
        self.uploads: Collection[RawDocument] = self._database["media.uploads"]
        """The entries of garbage collection."""
        self.leases: Collection[RawDocument] = self._database["media.leases"]
        self.copies: Collection[RawDocument] = self._database["media.copies"]
        """Records of the files that were copied from another library."""
        self.ignore: Collection[RawDocument] = self._database["media.ignore"]
        """The patterns by which the documents were flagged as ignored."""
        self.progress: Collection[RawDocument] = self._database["media.progress"]
        """Messages about uploads to other processes: a capped collection."""
        self.schema = self._database["media.schema"]
        self.own_writes = OwnWrites()
        self.feed = feed or ChangeFeed()

    def run(self, commands: Sequence[RawDocument]) -> list[RawDocument]:
        """Run commands that may be repeated, and return their replies, of which a collection shows only a
        part. Errors of single writes are in them.

        Raises OutOfSpace, StorageUnavailable.
        """
        with self.operation():
            return [self._run(command) for command in commands]

    def _run(self, command: RawDocument) -> RawDocument:
        try:
            return self._database.command(command, codec_options=self.codec_options)
        except AutoReconnect:  # a collection's own methods try a second time as well
            return self._database.command(command, codec_options=self.codec_options)

    def exists(self) -> bool:
        """Return whether the database contains a library."""
        with self.operation():
            return self.media.name in self._database.list_collection_names()

    def free_bytes(self) -> float:
        """Return the free bytes on the disk of the primary; infinity if unknown."""
        with self.operation():
            found = self._database.command("dbStats")
        if "fsTotalSize" not in found:  # some hosted databases do not report it
            return math.inf
        return float(found["fsTotalSize"] - found["fsUsedSize"])

    def ensure_indexes(self) -> None:
        """Create the missing collections and indexes."""
        self._create_media()
        if not self.create_missing(self.media, indexes_of(Media)):
            # At the start that creates the new indexes, servers of an earlier version may still use the old.
            self._drop(self.media, OBSOLETE_INDEXES)
        self.create_missing(self.files, FILES_INDEXES)
        self.create_missing(self.chunks, CHUNKS_INDEXES)
        self.create_missing(self.leases, LEASES_INDEXES)

    def _drop(self, collection: Collection[RawDocument], indexes: Sequence[tuple[str, ...]]) -> None:
        with self.operation():
            existing = [(index["name"], tuple(index["key"])) for index in collection.list_indexes()]
        for name, fields in existing:
            if fields in indexes:
                # Another process may be faster.
                with self.operation(within_s=None), suppress(StorageUnavailable):
                    collection.drop_index(name)

    def _create_media(self) -> None:
        """Create the collection, if missing, with IMAGES, because enabling them later needs the privilege
        collMod, which the role readWrite lacks."""
        # A standalone server, or one before MongoDB 6.0, refuses IMAGES. The first index then creates the
        # collection without them.
        with self.operation(), suppress(CollectionInvalid, OperationFailure):
            self._database.create_collection(self.media.name, **IMAGES)

    def check_responds(self) -> None:
        """Raise StorageUnavailable unless the database responds: then an error concerns one document only."""
        with self.operation(within_s=1.5, fail_fast=False):
            self.client.admin.command("ping")

    def ping(self) -> None:
        """Raise StorageUnavailable unless the database accepts writes and has its unique indexes."""
        required = ((self.media, ["library", "folder", "filename"]), (self.chunks, ["files_id", "n"]))
        with self.operation(within_s=1.5):
            complete = all(fields in _unique(collection) for collection, fields in required)
            # Changes nothing, but needs what a write needs: an unlocked primary, privileges, a majority.
            self.media.update_one({"_id": _ABSENT}, {"$set": {"ready": True}})
        if not complete:
            raise StorageUnavailable("The database has lost an index. Restart the server to create it.")


_ABSENT = "none"
"""An id that no document has: ours are longer."""


def _unique(collection: Collection[RawDocument]) -> list[list[str]]:
    """Return the fields of each unique index."""
    return [list(index["key"]) for index in collection.list_indexes() if index.get("unique")]


def map_error(error: PyMongoError | BSONError) -> OutOfSpace | StorageUnavailable:
    """Return the storage error for an error of the driver."""
    if isinstance(error, OperationFailure):
        if error.code == _DISK_FULL:
            return OutOfSpace("The disk of the database is full. Free space there, then try again.")
        if error.timeout:
            return StorageUnavailable(NO_REPLY)
        reason = str((error.details or {}).get("errmsg", error)).removesuffix(".")
        return StorageUnavailable(f"The database refuses the operation: {reason}.")
    if isinstance(error, ConnectionFailure):
        return StorageUnavailable(NO_REPLY)
    return StorageUnavailable(f"The database refuses the operation: {error}.")


def check_different_databases(settings: Settings, other: Settings) -> None:
    """Raise ConfigurationError if both URLs name the same database of a common server."""
    one, two = settings.mongodb_url or "", other.mongodb_url or ""
    if one == two or _is_same_database(_parse(one), _parse(two)):
        raise ConfigurationError(
            "The target is the database of this library (SEEKABLE_MONGODB_URL). Copy to another database."
        )


def _parse(url: str) -> dict[str, Any]:
    if not url.startswith("mongodb://"):  # mongodb+srv:// needs DNS
        return {}
    try:
        return dict(parse_uri(url, validate=False, warn=False))
    except PyMongoError:
        return {}  # opening the database raises the error


def _is_same_database(one: dict[str, Any], two: dict[str, Any]) -> bool:
    if not one or not two:
        return False
    servers = set(one["nodelist"]) & set(two["nodelist"])
    return bool(servers) and (one["database"] or DEFAULT_NAME) == (two["database"] or DEFAULT_NAME)


USERS = "users"
"""The name of the database of accounts, unless the URL names another."""


class Users(Connection):
    """The database of accounts, with a collection per kind of document."""

    def __init__(self, url: str, *, setting: str, name: str | None = None) -> None:
        super().__init__(url, setting=setting, default=USERS, name=name)
        self.accounts = self._of(AccountDocument)
        self.sessions = self._of(SessionDocument)
        self.tokens = self._of(TokenDocument)
        self.links = self._of(LinkDocument)
        self.invites = self._of(InviteDocument)
        self.signing_keys = self._of(SigningKeyDocument)
        self.login_limits = self._of(LoginLimitDocument)
        self.announcements = self._database["announcements"]
        self.schema = self._database["schema"]

    def _of(self, kind: type[Document]) -> Collection[RawDocument]:
        return self._database[kind._meta["collection"]]

    def ensure_indexes(self) -> None:
        """Create the missing indexes. The unique ones make concurrent calls safe."""
        for kind in (
            AccountDocument,
            SessionDocument,
            TokenDocument,
            LinkDocument,
            InviteDocument,
            SigningKeyDocument,
            LoginLimitDocument,
        ):
            self.create_missing(self._of(kind), indexes_of(kind))
