"""Probes for `seekable doctor`: the state of the folder of files and of each kind of database. They change
nothing.

Drivers are imported where they are used: a server on SQLite imports this module, but no MongoDB driver.
"""

import errno
import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.database import COMMAND_BUSY_TIMEOUT_MS
from app.database.open_library import is_on_read_only_file_system
from app.settings import ConfigurationError, Settings
from app.storage.errors import StorageError
from app.storage.types import RESERVED

if TYPE_CHECKING:
    from pymongo import IndexModel
    from pymongo.collection import Collection
    from sqlalchemy.orm import Session

    from app.database.gridfs import connection as mongo
    from app.database.sql.engine import Database

FSYNCS = 5
"""Number of fsyncs that are timed; the shortest counts."""


@dataclass(frozen=True)
class DatabaseStatus:
    """The state of the database of files, or of accounts."""

    name: str
    """Its name in messages, without a password."""
    error: str = ""
    """Why it cannot be used; all other fields are then unknown."""
    exists: bool = True
    """Whether there is a library in it."""
    migration: str = "done"
    """`done`, `due` at the next start, or `newer`: a newer version of this program made its schema."""
    clock_skew_s: float = 0.0
    """Seconds by which its clock is ahead of ours."""
    accounts: int | None = None
    """The number of accounts; None without access `accounts`, or before their table exists."""
    free_bytes: int | None = None
    """MongoDB: free bytes on its disk; None if it does not report them."""
    exposed_files: tuple[str, ...] = ()
    """Its files that other users of this machine can access."""
    replicated: bool = True
    """MongoDB: whether it is a replica set."""
    requires_login: bool = True
    """MongoDB: whether it authenticates clients."""
    missing_rights: tuple[str, ...] = ()
    """MongoDB: actions that we need and its user may not do."""
    missing_indexes: tuple[str, ...] = ()


def probe_databases(settings: Settings) -> list[DatabaseStatus]:
    """Return the state of each database of the settings. Database errors are part of the result."""
    if settings.storage == "gridfs":
        return _probe_mongodb(settings)
    return [_probe_sql(settings)]


# SQL


def _probe_sql(settings: Settings) -> DatabaseStatus:
    from app.database.filesystem.opening import open_database  # noqa: PLC0415
    from app.database.filesystem.posix import is_exposed  # noqa: PLC0415

    name = "The database"
    try:
        with ExitStack() as stack:
            database = open_database(settings, stack, busy_timeout_ms=COMMAND_BUSY_TIMEOUT_MS)
            name = database.name
            if not database.exists():
                return DatabaseStatus(name, exists=False)
            _try_to_write(database)
            with database.reading() as session:
                exposed = tuple(str(file) for file in database.files() if is_exposed(file))
                return _sql_status(name, session, exposed, count_accounts=settings.access == "accounts")
    except (ConfigurationError, StorageError) as error:
        return DatabaseStatus(name, error=str(error))


def _sql_status(
    name: str, session: "Session", exposed: tuple[str, ...], *, count_accounts: bool
) -> DatabaseStatus:
    from sqlalchemy import func, inspect, select  # noqa: PLC0415

    from app.database.sql.opening import schema_state  # noqa: PLC0415
    from app.database.sql.schema import AccountRow  # noqa: PLC0415

    connection = session.connection()
    state, _ = schema_state(connection)
    has_accounts = count_accounts and AccountRow.__tablename__ in inspect(connection).get_table_names()
    return DatabaseStatus(
        name,
        exists=state != "none",
        exposed_files=exposed,
        migration="due" if state == "none" else state,
        clock_skew_s=_clock_skew(session) if connection.dialect.name == "postgresql" else 0.0,
        accounts=session.scalar(select(func.count()).select_from(AccountRow)) if has_accounts else None,
    )


def _clock_skew(session: "Session") -> float:
    from sqlalchemy import text  # noqa: PLC0415

    before = time.time()
    theirs = session.scalar(text("SELECT clock_timestamp()"))
    assert isinstance(theirs, datetime)
    return theirs.astimezone(UTC).timestamp() - (before + time.time()) / 2


def _try_to_write(database: "Database") -> None:
    """Begin a change, and roll it back."""
    from sqlalchemy import inspect, update  # noqa: PLC0415

    from app.database.sql.schema import VolumeRow  # noqa: PLC0415

    with database.writing() as session:
        if inspect(session.connection()).has_table(VolumeRow.__tablename__):
            session.execute(update(VolumeRow).values(id=VolumeRow.id))
        session.rollback()


# MongoDB

NEEDED_ACTIONS = frozenset(
    {"find", "insert", "update", "remove", "createIndex", "listIndexes", "listCollections"}
    | {"changeStream", "createCollection", "convertToCapped"}  # for changes of other processes
)
"""The privilege actions that this program needs in a MongoDB database."""


def _probe_mongodb(settings: Settings) -> list[DatabaseStatus]:
    from app.database.gridfs.connection import MongoDatabase  # noqa: PLC0415
    from app.database.gridfs.opening import NO_URL, connect_users  # noqa: PLC0415

    url = settings.mongodb_url
    if not url:
        return [DatabaseStatus("MongoDB", error=NO_URL)]
    found = [_probe_connection(lambda: MongoDatabase(url), _files_status)]
    if settings.access == "accounts":
        found.append(_probe_connection(lambda: connect_users(settings), _accounts_status))
    return found


def _probe_connection(
    open_: Callable[[], Any], status: Callable[[str, Any], DatabaseStatus]
) -> DatabaseStatus:
    name = "MongoDB"
    try:
        with closing(open_()) as database:
            name = f"{database.server}, database {database.name!r}"
            with database.operation(within_s=10):
                return status(name, database)
    except (ConfigurationError, StorageError) as error:
        return DatabaseStatus(name, error=str(error))


def _files_status(name: str, database: "mongo.MongoDatabase") -> DatabaseStatus:
    from app.database.gridfs import connection  # noqa: PLC0415
    from app.database.gridfs.documents import Media  # noqa: PLC0415

    indexes = [
        (database.media, connection.indexes_of(Media)),
        (database.files, connection.FILES_INDEXES),
        (database.chunks, connection.CHUNKS_INDEXES),
        (database.leases, connection.LEASES_INDEXES),
    ]
    return _mongodb_status(name, database, indexes, exists=database.exists(), accounts=None)


def _accounts_status(name: str, users: "mongo.Users") -> DatabaseStatus:
    from app.database.gridfs import account_documents as documents  # noqa: PLC0415
    from app.database.gridfs.connection import indexes_of  # noqa: PLC0415

    count = users.accounts.count_documents({})
    indexes = [
        (users.accounts, indexes_of(documents.AccountDocument)),
        (users.sessions, indexes_of(documents.SessionDocument)),
        (users.tokens, indexes_of(documents.TokenDocument)),
        (users.links, indexes_of(documents.LinkDocument)),
        (users.invites, indexes_of(documents.InviteDocument)),
        (users.signing_keys, indexes_of(documents.SigningKeyDocument)),
        (users.login_limits, indexes_of(documents.LoginLimitDocument)),
    ]
    return _mongodb_status(name, users, indexes, exists=count > 0, accounts=count)


def _mongodb_status(
    name: str,
    connection: "mongo.Connection",
    indexes: "Iterable[tuple[Collection[dict[str, Any]], list[IndexModel]]]",
    *,
    exists: bool,
    accounts: int | None,
) -> DatabaseStatus:
    from app.database.gridfs.opening import migration_of  # noqa: PLC0415

    admin = connection.client.admin
    before = time.time()
    hello = admin.command("hello")
    skew = hello["localTime"].timestamp() - (before + time.time()) / 2
    status = admin.command({"connectionStatus": 1, "showPrivileges": True})["authInfo"]
    authenticated = bool(status["authenticatedUsers"])
    privileges = status["authenticatedUserPrivileges"]
    return DatabaseStatus(
        name,
        exists=exists,
        migration=migration_of(connection),
        clock_skew_s=skew,
        accounts=accounts,
        free_bytes=_free_bytes(connection),
        replicated=connection.is_replicated(),
        requires_login=authenticated,
        missing_rights=missing_rights(privileges, connection.name) if authenticated else (),
        missing_indexes=tuple(_missing_indexes(indexes)),
    )


def _free_bytes(connection: "mongo.Connection") -> int | None:
    from pymongo.errors import OperationFailure  # noqa: PLC0415

    try:
        stats = connection.client[connection.name].command("dbStats")
        return int(stats["fsTotalSize"] - stats["fsUsedSize"])
    except (
        OperationFailure,
        KeyError,
    ):
        # This user lacks the right, or the database is only compatible with MongoDB.
        return None


def _missing_indexes(
    indexes: "Iterable[tuple[Collection[dict[str, Any]], list[IndexModel]]]",
) -> Iterator[str]:
    for collection, wanted in indexes:
        existing = [dict(index["key"]) for index in collection.list_indexes()]
        for index in wanted:
            if index.document["key"] not in existing:
                yield f"{collection.name}.{'_'.join(index.document['key'])}"


def missing_rights(privileges: Iterable[Mapping[str, Any]], database: str) -> tuple[str, ...]:
    """Return the needed actions that these privileges do not allow in all collections of a database."""
    allowed: set[str] = set()
    for privilege in privileges:
        resource = privilege["resource"]
        whole = resource.get("db") in ("", database) and resource.get("collection") == ""
        if whole or resource.get("anyResource"):
            allowed.update(privilege["actions"])
    return tuple(sorted(NEEDED_ACTIONS - allowed))


# The folder of files


@dataclass(frozen=True)
class FolderStatus:
    """The abilities of a folder for files; if it does not exist yet, those of the nearest folder above it."""

    exists: bool
    writable: bool
    full: bool = False
    """Whether its file system or this user's quota is full, so that nothing more could be tried."""
    read_only: bool = False
    """Whether it is served read-only: because of its file system, or by the settings."""
    hard_links: bool = False
    locks: bool = False
    exposed: bool = False
    """Whether other users of the machine can access the reserved folder."""
    ignores_case: bool = False
    """Whether names that differ only in case are one name."""
    sendfile: bool = False
    """Whether the kernel can send its files without a copy."""
    free_bytes: int = 0
    fs_type: str = ""
    """The type of the file system, as mount(8) names it; empty if the system does not report it."""
    mount_options: frozenset[str] = frozenset()
    fsync_s: float = 0.0
    """Seconds for a short fsync."""


def probe_folder(path: Path, *, read_only: bool = False) -> FolderStatus:
    """Return the abilities of a folder. Tries them in a temporary folder, unless the folder is served
    read-only.

    Does not raise.
    """
    from app.database.filesystem.posix import is_exposed  # noqa: PLC0415

    path = Path(os.path.realpath(path))
    exists = path.is_dir()
    if read_only or is_on_read_only_file_system(path):
        return _read_only_status(path, exists)
    nearest = next(place for place in (path / RESERVED, path, *path.parents) if place.is_dir())
    fs_type, options = _mount_of(nearest)
    try:
        free = os.statvfs(nearest)
        with (
            tempfile.TemporaryDirectory(prefix="doctor-", dir=nearest) as folder,
            _probe_file(folder) as (name, file),
        ):
            return FolderStatus(
                exists,
                writable=True,
                hard_links=_works(lambda: os.link(name, name + "-too")),
                locks=_works(lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)),
                exposed=is_exposed(path / RESERVED),
                ignores_case=os.path.exists(os.path.join(folder, "PROBE")),
                sendfile=_works(lambda: _send(file)),
                free_bytes=free.f_bavail * free.f_frsize,
                fs_type=fs_type,
                mount_options=options,
                fsync_s=min(_fsync(file) for _ in range(FSYNCS)),
            )
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return FolderStatus(exists, writable=full, full=full, fs_type=fs_type, mount_options=options)


def ignores_case(path: Path) -> bool:
    """Return whether names that differ only in case are one name in an existing library."""
    return os.path.exists(path / RESERVED / "ID")


def _read_only_status(path: Path, exists: bool) -> FolderStatus:
    fs_type, options = _mount_of(path)
    return FolderStatus(
        exists and os.access(path, os.R_OK | os.X_OK),
        writable=False,
        read_only=True,
        ignores_case=ignores_case(path),
        fs_type=fs_type,
        mount_options=options,
    )


@contextmanager
def _probe_file(folder: str) -> Iterator[tuple[str, int]]:
    name = os.path.join(folder, "probe")
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, bytes(4096))
        yield name, descriptor
    finally:
        os.close(descriptor)


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (OSError, AttributeError):
        return False
    return True


def _send(file: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if os.sendfile(ours.fileno(), file, 0, 4096) == 0:
            raise OSError("nothing was sent")


def _fsync(file: int) -> float:
    os.pwrite(file, os.urandom(4096), 0)
    began = time.perf_counter()
    os.fsync(file)
    return time.perf_counter() - began


def _mount_of(path: Path) -> tuple[str, frozenset[str]]:
    """Return type and options of the file system that a path is on (Linux: proc(5), mountinfo)."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return "", frozenset()
    best: tuple[int, str, frozenset[str]] = (-1, "", frozenset())
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, (kind, _, own) = before.split(), after.split(" ", 2)
        point = Path(fields[4].replace("\\040", " "))
        if path.is_relative_to(point) and len(point.parts) >= best[0]:
            best = len(point.parts), kind, frozenset(fields[5].split(",")) | frozenset(own.split(","))
    return best[1:]
