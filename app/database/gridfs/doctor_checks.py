"""Facts about MongoDB databases for `seekable doctor`. Changes nothing."""

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
    Connection,
    Database,
    Users,
    indexes_of,
)
from app.database.gridfs.documents import Media, Stored
from app.database.gridfs.opening import NO_URL, connect_users, migration_of
from app.settings import ConfigurationError, Settings
from app.storage.errors import StorageError

NEEDED = frozenset(
    {"find", "insert", "update", "remove", "createIndex", "listIndexes", "listCollections"}
    | {"changeStream", "createCollection", "convertToCapped"}  # for events of other processes
)
"""The privilege actions that this program needs in a database."""

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
    """Return facts about the database of the files and, if there are accounts, about theirs."""
    if not settings.mongodb_url:
        return [DatabaseFacts("MongoDB", error=NO_URL)]
    found = [_examined(lambda: Database(settings.mongodb_url or ""), _file_facts)]
    if settings.access == "accounts":
        found.append(_examined(lambda: connect_users(settings), _account_facts))
    return found


def _examined(connect: Any, examine: Any) -> DatabaseFacts:
    name = "MongoDB"
    try:
        with closing(connect()) as database:
            name = f"{database.server}, database {database.name!r}"
            with database.asked(within_s=10):
                facts: DatabaseFacts = examine(name, database)
                return facts
    except (ConfigurationError, StorageError) as error:
        return DatabaseFacts(name, error=str(error))


def _file_facts(name: str, database: Database) -> DatabaseFacts:
    wanted = [
        (database.media, indexes_of(Media)),
        (database.files, FILES_INDEXES),
        (database.chunks, CHUNKS_INDEXES),
        (database.leases, LEASES_INDEXES),
    ]
    return _facts(name, database, wanted, made=database.exists(), accounts=None)


def _account_facts(name: str, users: Users) -> DatabaseFacts:
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
    started = time.time()
    hello = admin.command("hello")
    skew = hello["localTime"].timestamp() - (started + time.time()) / 2
    status = admin.command({"connectionStatus": 1, "showPrivileges": True})["authInfo"]
    authenticated = bool(status["authenticatedUsers"])
    missing = [
        f"{collection.name}.{'_'.join(index.document['key'])}"
        for collection, indexes in wanted
        for index in indexes
        if index.document["key"] not in [dict(existing["key"]) for existing in collection.list_indexes()]
    ]
    return DatabaseFacts(
        name,
        made=made,
        migration=migration_of(connection),
        skew_s=skew,
        accounts=accounts,
        replicated=connection.is_replicated(),
        protected=authenticated,
        missing_rights=missing_rights(status["authenticatedUserPrivileges"], connection.name)
        if authenticated
        else (),
        missing_indexes=tuple(missing),
    )


def missing_rights(privileges: Iterable[Mapping[str, Any]], database: str) -> tuple[str, ...]:
    """Return the NEEDED actions that these privileges do not allow in all collections of the database."""
    allowed: set[str] = set()
    for privilege in privileges:
        resource = privilege["resource"]
        is_whole = resource.get("db") in ("", database) and resource.get("collection") == ""
        if is_whole or resource.get("anyResource"):
            allowed.update(privilege["actions"])
    return tuple(sorted(NEEDED - allowed))
