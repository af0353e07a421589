"""Folders and libraries, along the index of all paths: what it costs is their number, not that of files."""

from collections.abc import Iterator

from pymongo.collection import Collection

from app.database.mongo.documents import Stored
from app.database.mongo.finding import keys
from app.database.rules import MAX_LOOKED_AT

_JUMPS = 100
"""How many folders are gone to one by one, past all that is inside each, before the rest is read at once."""

_PATHS = keys(("library", "folder", "filename"))


def libraries(collection: Collection[Stored]) -> tuple[str, ...]:
    """The names of all libraries that have files, in byte order."""
    return tuple(sorted(_distinct(collection, "library", {}), key=str.encode))


def folders(collection: Collection[Stored], library: str, folder: str, *, limit: int) -> tuple[str, ...]:
    """The first names, by bytes, of the folders directly inside."""
    names: set[str] = set()
    for name in _folder_names(collection, library, folder):
        names.add(name)
        if len(names) == MAX_LOOKED_AT:
            break
    return tuple(sorted(names, key=str.encode)[:limit])


def _folder_names(collection: Collection[Stored], library: str, folder: str) -> Iterator[str]:
    """The names of the folders directly inside, along the index of paths. Some come more than once."""
    prefix = f"{folder}/" if folder else ""
    # "0" comes right after "/".
    rest: Stored = {"$gte": prefix, "$lt": f"{folder}0"} if folder else {"$gt": ""}
    for _ in range(_JUMPS):
        where = {"library": library, "folder": rest}
        found = collection.find_one(where, {"_id": False, "folder": True}, sort=_PATHS, hint=_PATHS)
        if found is None:
            return
        path: str = found["folder"]
        name, inside, _ = path[len(prefix) :].partition("/")
        yield name
        # Between `name` and `name/…` may come `name-2`: only what is inside can be passed over at once.
        passed = {"$gte": f"{prefix}{name}0"} if inside else {"$gt": path}
        rest |= passed
    for path in _distinct(collection, "folder", {"library": library, "folder": rest}):
        yield path[len(prefix) :].partition("/")[0]


def _distinct(collection: Collection[Stored], field: str, where: Stored) -> Iterator[str]:
    """Each value of the field once. (`distinct` would give them in one document, which may be too long.)"""
    steps: list[Stored] = [{"$match": where}, {"$group": {"_id": f"${field}"}}]
    with collection.aggregate(steps, hint=dict(_PATHS)) as found:
        for one in found:
            yield one["_id"]
