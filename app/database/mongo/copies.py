"""The copies that a library consists of, one document each."""

from collections.abc import Mapping, Sequence

from app.database.mongo.connection import Database
from app.storage.copies import Copy


class MongoCopies:
    """`storage.copies.CopyLedger` over a MongoDB database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, ids: Sequence[str]) -> Mapping[str, Copy]:
        with self._database.asked():
            found = list(self._database.copies.find({"_id": {"$in": [*ids]}}))
        return {
            one["_id"]: Copy(
                one["_id"], one["path"], one["etag"], one["updated_at"], one["source"], one["origin"]
            )
            for one in found
        }

    def note(self, copy: Copy) -> None:
        document = {
            "path": copy.path,
            "etag": copy.etag,
            "updated_at": copy.updated_at,
            "source": copy.source,
            "origin": copy.origin,
        }
        with self._database.asked():
            self._database.copies.replace_one({"_id": copy.id}, document, upsert=True)

    def forget(self, copy: str) -> None:
        with self._database.asked():
            self._database.copies.delete_one({"_id": copy})
