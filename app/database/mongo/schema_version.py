"""The version of the schema, a document of each database, by which older code refuses newer databases."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from app.database.mongo.connection import Connection
from app.database.rules import NEWER
from app.storage.errors import StorageUnavailable

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
