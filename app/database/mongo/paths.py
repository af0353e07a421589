"""Folders and libraries that files have."""

from pymongo.collection import Collection

from app.database.mongo.documents import Stored


def folders(collection: Collection[Stored], library: str, folder: str, *, limit: int) -> tuple[str, ...]:
    """The first names, by bytes, of the folders directly inside."""
    prefix = f"{folder}/" if folder else ""
    found = collection.distinct("folder", {"library": library, "folder": {"$gt": prefix}})
    inside = {path[len(prefix) :].partition("/")[0] for path in found if path.startswith(prefix)}
    return tuple(sorted(inside, key=str.encode)[:limit])


def libraries(collection: Collection[Stored]) -> tuple[str, ...]:
    """All that have files, in byte order."""
    return tuple(sorted(collection.distinct("library"), key=str.encode))
