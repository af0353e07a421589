"""Leases of names, one document each. (Those of uploads are in upload_leases.py.)"""

from datetime import timedelta

import pymongo

from app.database.mongo.connection import Database
from app.database.mongo.documents import Stored


class MongoLeases:
    """`storage.leases.LeaseStore` over a MongoDB database. What nobody gave back, it removes by itself."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def lease(self, name: str, holder: str, for_s: float) -> bool:
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
