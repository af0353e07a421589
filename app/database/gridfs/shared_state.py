"""What was attempted lately, as documents: one for each bucket. MongoDB removes what is over by itself."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from uuid import uuid4

import pymongo

from app.accounts.login_limits import Bucket, poured
from app.database.gridfs.connection import Database, Users
from app.database.gridfs.documents import Stored


class MongoAttempts:
    """`accounts.attempts.AttemptStore` over a MongoDB database, which need not have transactions."""

    def __init__(self, users: Users) -> None:
        self._users = users

    def attempt(self, buckets: Sequence[Bucket]) -> tuple[Bucket, float] | None:
        with self._users.asked():
            poured_into: list[Bucket] = []
            for bucket in buckets:
                wait_s = self._pour(bucket)
                if wait_s:
                    self._take_out(poured_into)
                    return bucket, wait_s
                poured_into.append(bucket)
        return None

    def _pour(self, bucket: Bucket) -> float:
        """The seconds until there is room, or 0."""
        while True:  # until nobody else was in between, or for as long as may be asked
            rows = self._rows([bucket.key, bucket.unless])
            if bucket.unless in rows:
                return 0.0
            row = rows.get(bucket.key)
            level, elapsed_s = (row["level"], max(0.0, row["elapsed_ms"] / 1000)) if row else (0.0, 0.0)
            level, wait_s = poured(level, elapsed_s, limit=bucket.limit, window_s=bucket.window_s)
            if wait_s:
                return wait_s
            lasts_s = level * bucket.window_s / bucket.limit  # until it is empty, and as good as none
            if self._put(bucket.key, row["change"] if row else None, level, lasts_s):
                return 0.0

    def _rows(self, keys: Sequence[str]) -> dict[str, Stored]:
        """Those that count still, and how old they are."""
        elapsed = {"$subtract": ["$$NOW", "$at"]}
        steps: list[Stored] = [
            {"$match": {"_id": {"$in": [*keys]}, "$expr": {"$gt": ["$expires_at", "$$NOW"]}}},
            {"$project": {"level": True, "change": True, "elapsed_ms": elapsed}},
        ]
        return {row["_id"]: row for row in self._users.attempts.aggregate(steps)}

    def _put(self, key: str, previous: str | None, level: float, lasts_s: float) -> bool:
        """False if there was another change since the previous one."""
        new = _document(key, level, lasts_s)
        # To an expression, what is not there is earlier than all dates.
        over = {"$lte": ["$expires_at", "$$NOW"]}
        as_before = {"$eq": ["$change", previous]} if previous else over
        either: list[Stored] = [{"$replaceWith": {"$cond": [{"$or": [over, as_before]}, new, "$$ROOT"]}}]
        found = self._users.attempts.find_one_and_update(
            {"_id": key}, either, upsert=True, return_document=pymongo.ReturnDocument.AFTER
        )
        return found is not None and found["change"] == new["change"]

    def forgive(self, buckets: Collection[Bucket], *, note: str, for_s: float) -> None:
        with self._users.asked():
            self._take_out(buckets)
            noted: list[Stored] = [{"$replaceWith": _document(note, 0.0, for_s)}]
            self._users.attempts.update_one({"_id": note}, noted, upsert=True)

    def _take_out(self, buckets: Collection[Bucket]) -> None:
        less = {"level": {"$max": [0.0, {"$subtract": ["$level", 1.0]}]}, "change": uuid4().hex}
        keys = {"_id": {"$in": [bucket.key for bucket in buckets]}}
        self._users.attempts.update_many(keys, [{"$set": less}])

    def sweep_attempts(self, most: int) -> None:
        attempts = self._users.attempts
        with self._users.asked():
            over = attempts.estimated_document_count() - most
            if over > 0:
                kept = attempts.find({}, {"expires_at": True}).sort("expires_at").skip(over).limit(1)
                for row in kept:
                    attempts.delete_many({"expires_at": {"$lt": row["expires_at"]}})


def _document(key: str, level: float, lasts_s: float) -> Stored:
    lasts_ms = timedelta(seconds=lasts_s) // timedelta(milliseconds=1)
    return {
        "_id": key,
        "level": level,
        "at": "$$NOW",
        "expires_at": {"$add": ["$$NOW", lasts_ms]},
        "change": uuid4().hex,
    }


class MongoLeases:
    """`storage.leases.LeaseStore` over a MongoDB database. What nobody gave back, it removes by itself."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(self, name: str, holder: str, for_s: float) -> bool:
        expires_at = {"$add": ["$$NOW", timedelta(seconds=for_s) // timedelta(milliseconds=1)]}
        new = {"_id": {"$literal": name}, "holder": {"$literal": holder}, "expires_at": expires_at}
        # To an expression, what is not there is earlier than all dates.
        over = {"$lte": ["$expires_at", "$$NOW"]}
        mine_or_nobodys = {"$or": [{"$eq": ["$holder", {"$literal": holder}]}, over]}
        either: list[Stored] = [{"$replaceWith": {"$cond": [mine_or_nobodys, new, "$$ROOT"]}}]
        with self._database.asked():
            found = self._database.leases.find_one_and_update(
                {"_id": name}, either, upsert=True, return_document=pymongo.ReturnDocument.AFTER
            )
        return found is not None and found["holder"] == holder

    def release(self, name: str, holder: str) -> None:
        with self._database.asked():
            self._database.leases.delete_one({"_id": name, "holder": holder})
