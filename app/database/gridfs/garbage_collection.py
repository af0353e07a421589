"""Garbage collection of the bucket: which files may be removed, and when.

Each such file has an entry in the collection `media.uploads`: while it is uploaded, as a lease that its
writer renews, so that the remains of a crashed writer are removed; and after it was replaced or deleted, for
the grace period of its readers. Expiry counts by the clock of the database server, so that the clocks of the
machines need not agree.
"""

import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from bson import ObjectId

from app.database.gridfs.connection import MongoDatabase
from app.database.gridfs.documents import RawDocument, after_id
from app.storage.errors import StorageError
from app.storage.maintenance import ScanStep

LEASE_S = 120.0
"""Seconds after which a writer that does not renew its lease counts as dead."""

GRACE_S = 24 * 3600.0
"""Seconds that the bytes of a replaced or deleted version are kept for its readers."""

MAX_REMOVED_CHUNKS = 256
"""Chunks that one command removes."""

# In an expression, a missing date is earlier than all dates. Entries without a date are not ours.
_EXPIRED: RawDocument = {"expires_at": {"$type": "date"}, "$expr": {"$lte": ["$expires_at", "$$NOW"]}}
_UNCLAIMED = {"sweeping": {"$exists": False}}


def _from_now(seconds: float) -> RawDocument:
    return {"$add": ["$$NOW", round(seconds * 1000)]}


def begin_lease(database: MongoDatabase, file: Any, lease_s: float = LEASE_S) -> None:
    """Lease a file to its writer, unless it has an entry."""
    database.uploads.update_one({"_id": file}, _lease_steps(file, lease_s), upsert=True)


def _lease_steps(file: Any, lease_s: float = LEASE_S, **mark: bool) -> list[RawDocument]:
    exists = {"$eq": [{"$type": "$expires_at"}, "date"]}
    entry = {"_id": file, "expires_at": _from_now(lease_s), "lease": True, **mark}
    return [{"$replaceWith": {"$cond": [exists, "$$ROOT", entry]}}]


def lease_command(database: MongoDatabase, files: Iterable[Any]) -> RawDocument:
    """Return the command that does `begin_lease` for files, ahead of their uploads.

    Their entries have a mark, because some of these uploads may never begin.
    """
    return _upserts(database, ((file, _lease_steps(file, ahead=True)) for file in files))


def retire_command(database: MongoDatabase, files: Iterable[Any]) -> RawDocument:
    """Return the command that does `retire` for files."""
    return _upserts(database, ((file, _retire_steps(file)) for file in files))


def _upserts(database: MongoDatabase, steps: Iterable[tuple[Any, list[RawDocument]]]) -> RawDocument:
    updates = [{"q": {"_id": file}, "u": each, "upsert": True} for file, each in steps]
    return {"update": database.uploads.name, "updates": updates, "ordered": False}


def end_lease_command(database: MongoDatabase, files: Iterable[Any]) -> RawDocument:
    """Return the command that ends the leases of files, except those that a sweep has claimed."""
    deletes = [{"q": {"_id": file, "lease": True, **_UNCLAIMED}, "limit": 1} for file in files]
    return {"delete": database.uploads.name, "deletes": deletes, "ordered": False}


def is_claimed(database: MongoDatabase, file: Any) -> bool:
    """Return whether a sweep has claimed the file and has not finished."""
    return database.uploads.find_one({"_id": file, "sweeping": True}, {"_id": True}) is not None


class LeaseRenewer:
    """A thread that renews the leases of this process's writers, however slow their clients are."""

    def __init__(self, database: MongoDatabase, *, lease_s: float = LEASE_S) -> None:
        self._database = database
        self._lease_s = lease_s
        self._files: set[ObjectId] = set()
        self._in_renewal: ObjectId | None = None
        self._changed = threading.Condition()  # guards both
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop renewing all leases. Blocks until a renewal in progress ends."""
        self._closed.set()
        self._thread.join()

    def add(self, file: ObjectId) -> None:
        """Lease a file and renew the lease until `remove`. Raises StorageUnavailable."""
        with self._database.operation():
            begin_lease(self._database, file, self._lease_s)
        with self._changed:
            self._files.add(file)

    def remove(self, file: ObjectId) -> None:
        """Stop renewing a lease; its remaining time suffices for the writer.

        Blocks until a renewal in progress ends, because it could otherwise create the entry again.
        """
        with self._changed:
            self._files.discard(file)
            self._changed.wait_for(lambda: self._in_renewal != file)

    def _run(self) -> None:
        while not self._closed.wait(self._lease_s / 4):
            with self._changed:
                files = self._files.copy()
            for file in files:
                with self._renewal(file) as needed:
                    if needed:
                        with suppress(StorageError), self._database.operation():
                            self._renew(file)

    @contextmanager
    def _renewal(self, file: ObjectId) -> Iterator[bool]:
        """Yield whether the lease is still to be renewed. Inside, `remove` of the file blocks."""
        with self._changed:
            needed = file in self._files
            self._in_renewal = file if needed else None
        try:
            yield needed
        finally:
            with self._changed:
                self._in_renewal = None
                self._changed.notify_all()

    def _renew(self, file: ObjectId) -> None:
        renewed = self._database.uploads.update_one(
            {"_id": file, "lease": True, **_UNCLAIMED}, [{"$set": {"expires_at": _from_now(self._lease_s)}}]
        )
        if renewed.matched_count == 0:
            # A sweep has claimed the file while this process was paused, and `end_lease` will return False.
            # The chunks that were sent since need an entry, so that another sweep removes them.
            begin_lease(self._database, file, self._lease_s)


def end_lease(database: MongoDatabase, file: Any) -> bool:
    """End the lease of a file that a document refers to now.

    Returns False if a sweep has claimed the file before. A later sweep finds the document.
    """
    if database.uploads.delete_one({"_id": file, "lease": True, **_UNCLAIMED}).deleted_count:
        return True
    entry = database.uploads.find_one({"_id": file})
    return entry is not None and "lease" not in entry  # a concurrent change has replaced and retired it


def pass_over(database: MongoDatabase, file: Any) -> None:
    """Let scans ignore a file of another program that no document refers to."""
    database.uploads.update_one({"_id": file}, {"$setOnInsert": {"passed_over": True}}, upsert=True)


def retire(database: MongoDatabase, file: Any) -> None:
    """Schedule the removal of a file for the end of the grace period.

    Called before the change that ends the document's reference; if the change fails, the file stays.
    """
    database.uploads.update_one({"_id": file}, _retire_steps(file), upsert=True)


def _retire_steps(file: Any) -> list[RawDocument]:
    return [{"$replaceWith": {"_id": {"$literal": file}, "expires_at": _from_now(GRACE_S)}}]


def sweep(database: MongoDatabase) -> Generator[ScanStep]:
    """Remove the expired files from the bucket, in short steps."""
    for file in _expired(database):
        claimed = _claim(database, file)
        if claimed:
            while remove_chunks(database, file):
                yield ScanStep(0, ())
            with database.operation():
                # Only with our claim (`sweeping`): without it, the writer has resumed and may send more.
                database.uploads.delete_one({"_id": file, "sweeping": True})
        yield ScanStep(0, (), swept=int(claimed))


def _expired(database: MongoDatabase) -> Iterator[Any]:
    """Yield the ids of files whose entries have expired."""
    last: RawDocument = {}
    while True:
        with database.operation():
            entry = database.uploads.find_one({"$and": [_EXPIRED, last]}, {"_id": True}, sort=[("_id", 1)])
        if entry is None:
            return
        last = after_id(entry["_id"])
        yield entry["_id"]


def _claim(database: MongoDatabase, file: Any) -> bool:
    """Claim an expired file for removal. Return whether no writer and no document needs it."""
    with database.operation():
        claimed = database.uploads.update_one({"_id": file, **_EXPIRED}, {"$set": {"sweeping": True}})
        if claimed.matched_count == 0:
            return False
        claim = {"_id": file, "sweeping": True}
        if database.media.find_one({"file": file}, {"_id": True}) is not None:
            database.uploads.delete_one(claim)
            return False
        # If a document referred to the file until a moment ago, its change has retired the file first, which
        # has replaced the claim.
        return database.uploads.find_one(claim) is not None


def remove_file(database: MongoDatabase, file: Any) -> None:
    """Remove a file to which no document refers, and then its entry. If that fails, a sweep does it later."""
    with suppress(StorageError):
        while remove_chunks(database, file):
            pass
        with database.operation():
            database.uploads.delete_one({"_id": file})


def remove_chunks(database: MongoDatabase, file: Any) -> bool:
    """Remove a file from the bucket and some of its chunks. Return whether there may be more chunks."""
    with database.operation():
        database.files.delete_one({"_id": file})  # first, so that no client finds an incomplete file
        first = database.chunks.find_one({"files_id": file}, {"n": True}, sort=[("n", 1)])
        if first is None:
            return False
        database.chunks.delete_many({"files_id": file, "n": {"$lt": first["n"] + MAX_REMOVED_CHUNKS}})
        return True
