"""Which files of the bucket are ours to remove, and when.

Each has an entry in `uploads`: one that is being written from before its first chunk, so that nothing is left
of a writer that died; one that was replaced or deleted for as long as somebody may still be reading it. The
server's clock counts, so that those of the machines that ask need not agree.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from bson import ObjectId

from app.database.gridfs.connection import Database
from app.database.gridfs.documents import Stored, behind
from app.storage.errors import StorageError

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
    """Begin to write a file, unless it has an entry already."""
    there = {"$eq": [{"$type": "$expires_at"}, "date"]}
    entry = {"_id": file, "expires_at": _in(LEASE), "lease": True}
    either = {"$cond": [there, "$$ROOT", entry]}
    database.uploads.update_one({"_id": file}, [{"$replaceWith": either}], upsert=True)


class Keeper:
    """Holds the leases of this process's writers for as long as they live, however slow their clients are."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: set[ObjectId] = set()
        self._renewing: ObjectId | None = None
        self._changed = threading.Condition()  # guards both
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def hold(self, file: ObjectId) -> None:
        with self._database.asked():
            take(self._database, file)
        with self._changed:
            self._held.add(file)

    def drop(self, file: ObjectId) -> None:
        """Stop renewing the lease; the rest of its time is enough for the writer.

        Blocks until a renewal under way has ended, which would enter the file again behind the writer's back.
        """
        with self._changed:
            self._held.discard(file)
            self._changed.wait_for(lambda: self._renewing != file)

    def _run(self) -> None:
        while not self._ended.wait(LEASE.total_seconds() / 4):
            with self._changed:
                files = self._held.copy()
            for file in files:
                with self._still_held(file) as held:
                    if held:
                        with suppress(StorageError), self._database.asked():
                            _renew(self._database, file)

    @contextmanager
    def _still_held(self, file: ObjectId) -> Iterator[bool]:
        """Yield whether the file's writer has not dropped it meanwhile; `drop` of it waits inside."""
        with self._changed:
            held = file in self._held
            self._renewing = file if held else None
        try:
            yield held
        finally:
            with self._changed:
                self._renewing = None
                self._changed.notify_all()


def _renew(database: Database, file: ObjectId) -> None:
    mine = {"_id": file, "lease": True, **_UNTOUCHED}
    if database.uploads.update_one(mine, [{"$set": {"expires_at": _in(LEASE)}}]).matched_count == 0:
        # A sweep has given it up, because this process was stopped: `hand_over` will say so. What was sent
        # since is for another sweep.
        take(database, file)


def hand_over(database: Database, file: Any) -> bool:
    """End the lease of a file that a document names now. Whether no sweep has given it up before; one that
    comes later sees the document."""
    if database.uploads.delete_one({"_id": file, "lease": True, **_UNTOUCHED}).deleted_count:
        return True
    entry = database.uploads.find_one({"_id": file})
    return entry is not None and "lease" not in entry  # it is retired already: somebody replaced it


def pass_over(database: Database, file: Any) -> None:
    """Leave a file that other programs put there to them, although no document names it."""
    database.uploads.update_one({"_id": file}, {"$setOnInsert": {"passed_over": True}}, upsert=True)


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
