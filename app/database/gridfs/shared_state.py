"""State that processes share beside the files: leases, login attempts, copy records. Small documents."""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from uuid import uuid4

import pymongo

from app.accounts.login_limits import Bucket, pour
from app.database.gridfs.connection import MongoDatabase, Users
from app.database.gridfs.documents import RawDocument
from app.storage.contract import CopyRecord

# In an expression, a missing date is earlier than all dates.
_EXPIRED: RawDocument = {"$lte": ["$expires_at", "$$NOW"]}


class MongoLeases:
    """`storage.leases.LeaseStore` over a MongoDB database, which removes expired leases itself."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database

    def acquire(self, name: str, holder: str, for_s: float) -> bool:
        expires_at = {"$add": ["$$NOW", timedelta(seconds=for_s) // timedelta(milliseconds=1)]}
        new = {"_id": {"$literal": name}, "holder": {"$literal": holder}, "expires_at": expires_at}
        is_free = {"$or": [{"$eq": ["$holder", {"$literal": holder}]}, _EXPIRED]}
        steps: list[RawDocument] = [{"$replaceWith": {"$cond": [is_free, new, "$$ROOT"]}}]
        with self._database.operation():
            found = self._database.leases.find_one_and_update(
                {"_id": name}, steps, upsert=True, return_document=pymongo.ReturnDocument.AFTER
            )
        return found is not None and found["holder"] == holder

    def release(self, name: str, holder: str) -> None:
        with self._database.operation():
            self._database.leases.delete_one({"_id": name, "holder": holder})


class MongoLoginLimits:
    """`accounts.login_limits.LoginLimitStore` over a MongoDB database, with a document per bucket.

    Needs no transactions: an update applies only if the document has not changed since it was read.
    """

    def __init__(self, users: Users) -> None:
        self._users = users

    def attempt(self, buckets: Sequence[Bucket]) -> tuple[Bucket, float] | None:
        with self._users.operation():
            poured_buckets: list[Bucket] = []
            for bucket in buckets:
                wait_s = self._pour(bucket)
                if wait_s:
                    self._decrement(poured_buckets)
                    return bucket, wait_s
                poured_buckets.append(bucket)
        return None

    def _pour(self, bucket: Bucket) -> float:
        """Add an attempt to the bucket. Return 0, or the seconds to wait if the bucket is full."""
        while True:  # until no other process interferes, or the time limit ends
            found = self._find([bucket.key, bucket.unless])
            if bucket.unless in found:
                return 0.0
            row = found.get(bucket.key)
            level, elapsed_s = (row["level"], max(0.0, row["elapsed_ms"] / 1000)) if row else (0.0, 0.0)
            level, wait_s = pour(level, elapsed_s, limit=bucket.limit, window_s=bucket.window_s)
            if wait_s:
                return wait_s
            lasts_s = level * bucket.window_s / bucket.limit  # until the bucket is empty
            if self._replace(bucket.key, row["change"] if row else None, level, lasts_s):
                return 0.0

    def _find(self, keys: Sequence[str]) -> dict[str, RawDocument]:
        """Return the documents that have not expired, with their ages, by key."""
        elapsed = {"$subtract": ["$$NOW", "$at"]}
        steps: list[RawDocument] = [
            {"$match": {"_id": {"$in": [*keys]}, "$expr": {"$gt": ["$expires_at", "$$NOW"]}}},
            {"$project": {"level": True, "change": True, "elapsed_ms": elapsed}},
        ]
        return {row["_id"]: row for row in self._users.login_limits.aggregate(steps)}

    def _replace(self, key: str, previous: str | None, level: float, lasts_s: float) -> bool:
        """Replace the bucket. Return False if it was changed since `previous`."""
        new = _document(key, level, lasts_s)
        unchanged = {"$eq": ["$change", previous]} if previous else _EXPIRED
        steps: list[RawDocument] = [
            {"$replaceWith": {"$cond": [{"$or": [_EXPIRED, unchanged]}, new, "$$ROOT"]}}
        ]
        found = self._users.login_limits.find_one_and_update(
            {"_id": key}, steps, upsert=True, return_document=pymongo.ReturnDocument.AFTER
        )
        return found is not None and found["change"] == new["change"]

    def forgive(self, buckets: Collection[Bucket], *, note: str, for_s: float) -> None:
        with self._users.operation():
            self._decrement(buckets)
            steps: list[RawDocument] = [{"$replaceWith": _document(note, 0.0, for_s)}]
            self._users.login_limits.update_one({"_id": note}, steps, upsert=True)

    def _decrement(self, buckets: Collection[Bucket]) -> None:
        changes = {"level": {"$max": [0.0, {"$subtract": ["$level", 1.0]}]}, "change": uuid4().hex}
        selected = {"_id": {"$in": [bucket.key for bucket in buckets]}}
        self._users.login_limits.update_many(selected, [{"$set": changes}])

    def sweep(self, most: int) -> None:
        login_limits = self._users.login_limits
        with self._users.operation():
            excess = login_limits.estimated_document_count() - most
            if excess > 0:
                kept = login_limits.find({}, {"expires_at": True}).sort("expires_at").skip(excess).limit(1)
                for row in kept:
                    login_limits.delete_many({"expires_at": {"$lt": row["expires_at"]}})


def _document(key: str, level: float, lasts_s: float) -> RawDocument:
    lasts_ms = timedelta(seconds=lasts_s) // timedelta(milliseconds=1)
    return {
        "_id": key,
        "level": level,
        "at": "$$NOW",
        "expires_at": {"$add": ["$$NOW", lasts_ms]},
        "change": uuid4().hex,
    }


_COPY_FIELDS = ("path", "etag", "updated_at", "source", "origin")


class MongoCopyRecords:
    """`storage.contract.CopyRecords` over a MongoDB database."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database

    def find(self, ids: Sequence[str]) -> Mapping[str, CopyRecord]:
        with self._database.operation():
            found = list(self._database.copies.find({"_id": {"$in": [*ids]}}))
        return {
            document["_id"]: CopyRecord(id=document["_id"], **{name: document[name] for name in _COPY_FIELDS})
            for document in found
        }

    def save(self, copy: CopyRecord) -> None:
        document = {name: getattr(copy, name) for name in _COPY_FIELDS}
        with self._database.operation():
            self._database.copies.replace_one({"_id": copy.id}, document, upsert=True)

    def remove(self, copy: str) -> None:
        with self._database.operation():
            self._database.copies.delete_one({"_id": copy})
