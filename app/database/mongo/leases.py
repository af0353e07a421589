"""Which files of the bucket are ours to remove, and when.

Each has an entry in `uploads`: one that is being written from before its first chunk, so that nothing is left
of a writer that died; one that was replaced or deleted for as long as somebody may still be reading it. The
server's clock counts, so that those of the machines that ask need not agree.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from app.database.mongo.connection import Database
from app.database.mongo.documents import Stored, behind
from app.storage.errors import StorageUnavailable

LEASE = timedelta(minutes=2)
"""How long a writer that is not heard of is taken to be alive."""

GRACE = timedelta(hours=24)
"""How long a version that was replaced or deleted keeps its bytes."""

GIVEN_UP = "The upload paused for so long that it was given up."

# To an expression, what has no date is earlier than all dates. Such an entry is none of ours.
_EXPIRED: Stored = {"expires_at": {"$type": "date"}, "$expr": {"$lte": ["$expires_at", "$$NOW"]}}
_UNTOUCHED = {"sweeping": {"$exists": False}}


def _in(duration: timedelta) -> Stored:
    return {"$add": ["$$NOW", duration // timedelta(milliseconds=1)]}


def take(database: Database, file: Any) -> None:
    """Begin to write a file."""
    entry = {"_id": file, "expires_at": _in(LEASE), "lease": True}
    database.uploads.update_one({"_id": file}, [{"$replaceWith": entry}], upsert=True)


def renew(database: Database, file: Any) -> None:
    """Go on writing it. Raises StorageUnavailable when a sweep has given it up."""
    found = database.uploads.update_one({"_id": file, **_UNTOUCHED}, [{"$set": {"expires_at": _in(LEASE)}}])
    if found.matched_count == 0:
        take(database, file)  # for another sweep: what was sent last may have come after that one
        raise StorageUnavailable(GIVEN_UP)


def hand_over(database: Database, file: Any) -> bool:
    """End the lease of a file that a document names now. Whether no sweep has given it up before; one that
    comes later sees the document."""
    if database.uploads.delete_one({"_id": file, "lease": True, **_UNTOUCHED}).deleted_count:
        return True
    entry = database.uploads.find_one({"_id": file})
    return entry is not None and "lease" not in entry  # it is retired already: somebody replaced it


def end(database: Database, file: Any) -> None:
    """Nothing is left of the file."""
    database.uploads.delete_one({"_id": file})


def swept(database: Database, file: Any) -> None:
    """Nothing is left of a file that was claimed; if its writer was heard of again, something may be."""
    database.uploads.delete_one({"_id": file, "sweeping": True})


def retire(database: Database, file: Any) -> None:
    """Let the file go when its readers have had their time. Said before no document names it any more; if one
    still does then, it stays."""
    entry = {"_id": file, "expires_at": _in(GRACE)}
    database.uploads.update_one({"_id": file}, [{"$replaceWith": entry}], upsert=True)


def expired(database: Database) -> Iterator[Any]:
    """The ids of the files to sweep."""
    last: Stored = {}
    while True:
        with database.asked():
            entry = database.uploads.find_one({"$and": [_EXPIRED, last]}, {"_id": True}, sort=[("_id", 1)])
        if entry is None:
            return
        last = behind(entry["_id"])
        yield entry["_id"]


def claim(database: Database, file: Any) -> bool:
    """Whether the file is to be removed: nobody writes it, and no document names it."""
    with database.asked():
        claimed = database.uploads.update_one({"_id": file, **_EXPIRED}, {"$set": {"sweeping": True}})
        if claimed.matched_count == 0:
            return False
        mine = {"_id": file, "sweeping": True}
        if database.media.find_one({"file": file}, {"_id": True}) is not None:
            database.uploads.delete_one(mine)
            return False
        # A document may have named it until just now. Who took the name away said before that it is retired.
        return database.uploads.find_one(mine) is not None
