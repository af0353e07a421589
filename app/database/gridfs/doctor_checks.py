"""Looks at MongoDB databases, and changes nothing."""

import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

from mongoengine import Document
from pymongo import IndexModel
from pymongo.collection import Collection

from app.database.facts import DatabaseFacts
from app.database.gridfs import account_documents
from app.database.gridfs.connection import (
    CHUNKS_INDEXES,
    FILES_INDEXES,
    LEASES_INDEXES,
    USERS,
    Connection,
    Database,
    Users,
    indexes_of,
)
from app.database.gridfs.documents import Media, Stored
from app.database.gridfs.opening import migration_of
from app.settings import ConfigurationError, Settings
from app.storage.errors import StorageError

NEEDED = frozenset(
    {"find", "insert", "update", "remove", "createIndex", "listIndexes", "listCollections"}
    | {"changeStream", "createCollection", "convertToCapped"}  # to hear of other processes
)
"""What this program does in a database, in MongoDB's words."""

_KINDS: tuple[type[Document], ...] = (
    account_documents.Account,
    account_documents.Session,
    account_documents.Token,
    account_documents.Link,
    account_documents.Invite,
    account_documents.SigningKey,
    account_documents.Attempts,
)


def examine_mongo(settings: Settings) -> list[DatabaseFacts]:
    """The database of the files and, with accounts, theirs."""
    if not settings.mongodb_url:
        return [DatabaseFacts("MongoDB", error="SEEKABLE_STORAGE=gridfs needs SEEKABLE_MONGODB_URL.")]
    found = [_examined(lambda: Database(settings.mongodb_url or ""), _files)]
    if settings.access == "accounts":
        found.append(_examined(lambda: _users(settings), _accounts))
    return found


def _users(settings: Settings) -> Users:
    if settings.users_url:
        return Users(settings.users_url, setting="SEEKABLE_USERS_URL")
    return Users(settings.mongodb_url or "", setting="SEEKABLE_MONGODB_URL", name=USERS)


def _examined(opened: Any, look: Any) -> DatabaseFacts:
    name = "MongoDB"
    try:
        with closing(opened()) as database:
            name = f"{database.where}, database {database.name!r}"
            with database.asked(within_s=10):
                facts: DatabaseFacts = look(name, database)
                return facts
    except (ConfigurationError, StorageError) as error:
        return DatabaseFacts(name, error=str(error))


def _files(name: str, database: Database) -> DatabaseFacts:
    wanted = [
        (database.media, indexes_of(Media)),
        (database.files, FILES_INDEXES),
        (database.chunks, CHUNKS_INDEXES),
        (database.leases, LEASES_INDEXES),
    ]
    return _facts(name, database, wanted, made=database.exists(), accounts=None)


def _accounts(name: str, users: Users) -> DatabaseFacts:
    count = users.accounts.count_documents({})
    database = users.client[users.name]
    wanted = [(database[kind._meta["collection"]], indexes_of(kind)) for kind in _KINDS]
    return _facts(name, users, wanted, made=count > 0, accounts=count)


def _facts(
    name: str,
    connection: Connection,
    wanted: Iterable[tuple[Collection[Stored], list[IndexModel]]],
    *,
    made: bool,
    accounts: int | None,
) -> DatabaseFacts:
    admin = connection.client.admin
    asked = time.time()
    hello = admin.command("hello")
    skew = hello["localTime"].timestamp() - (asked + time.time()) / 2
    status = admin.command({"connectionStatus": 1, "showPrivileges": True})["authInfo"]
    known = bool(status["authenticatedUsers"])
    missing = [
        f"{collection.name}.{'_'.join(index.document['key'])}"
        for collection, indexes in wanted
        for index in indexes
        if index.document["key"] not in [dict(there["key"]) for there in collection.list_indexes()]
    ]
    return DatabaseFacts(
        name,
        made=made,
        migration=migration_of(connection),
        skew_s=skew,
        accounts=accounts,
        replicated=connection.is_replicated(),
        protected=known,
        missing_rights=missing_rights(status["authenticatedUserPrivileges"], connection.name)
        if known
        else (),
        missing_indexes=tuple(missing),
    )


def missing_rights(privileges: Iterable[Mapping[str, Any]], database: str) -> tuple[str, ...]:
    """Of what is needed in all collections of a database, what these privileges do not allow."""
    allowed: set[str] = set()
    for privilege in privileges:
        resource = privilege["resource"]
        whole = resource.get("db") in ("", database) and resource.get("collection") == ""
        if whole or resource.get("anyResource"):
            allowed.update(privilege["actions"])
    return tuple(sorted(NEEDED - allowed))
