"""Folders and libraries, along the index of all paths: what it costs is their number, not that of files."""

from collections.abc import Iterable, Iterator
from typing import Any

from bson import MinKey
from pymongo.collection import Collection

from app.database.gridfs.documents import Stored
from app.database.gridfs.finding import keys
from app.database.stretches import MAX_LOOKED_AT

_JUMPS = 100
"""How many folders are gone to one by one, past all that is inside each, before the rest is read at once."""

_CHECKED = 100
"""How many folders that have ignored files are asked one by one whether they have others too."""

_PATHS = keys(("library", "folder", "filename"))
_SHOWN_FIELDS = ("library", "ignored", "folder", "filename")
_SHOWN = keys(_SHOWN_FIELDS)


def libraries(collection: Collection[Stored]) -> tuple[str, ...]:
    """The names of all libraries that have files, in byte order."""
    return tuple(sorted(_distinct(collection, "library", {}), key=str.encode))


def folders(collection: Collection[Stored], library: str, folder: str, *, limit: int) -> tuple[str, ...]:
    """The first names, by bytes, of the folders directly inside that have files which are not ignored."""
    names = _first(_folder_names(collection, library, folder))
    with_ignored = names & _first(_folder_names(collection, library, folder, ignored=True))
    prefix = f"{folder}/" if folder else ""
    if len(with_ignored) <= _CHECKED:
        # No condition, but bounds, because an index alone cannot tell null from a field that is absent.
        names -= {one for one in with_ignored if not _shows(collection, library, f"{prefix}{one}")}
    else:
        where: Stored = {"library": library, "ignored": {"$ne": True}, "folder": _inside(folder)}
        found = _distinct(collection, "folder", where, _SHOWN)
        names = _first(path[len(prefix) :].partition("/")[0] for path in found)
    return tuple(sorted(names, key=str.encode)[:limit])


def _first(names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for name in names:
        found.add(name)
        if len(found) == MAX_LOOKED_AT:
            break
    return found


def _shows(collection: Collection[Stored], library: str, folder: str) -> bool:
    """Whether the folder has a file, or a folder with one, that is not ignored."""
    for low, high in ((folder, f"{folder}\x01"), (f"{folder}/", f"{folder}0")):
        start: list[tuple[str, Any]] = [*zip(_SHOWN_FIELDS, (library, None, low, MinKey()), strict=True)]
        stop: list[tuple[str, Any]] = [*zip(_SHOWN_FIELDS, (library, None, high, MinKey()), strict=True)]
        found = collection.find({}, {"_id": False, "folder": True}).hint(_SHOWN).min(start).max(stop)
        if next(found.limit(1), None) is not None:
            return True
    return False


def _inside(folder: str) -> Stored:
    # "0" comes right after "/".
    return {"$gte": f"{folder}/", "$lt": f"{folder}0"} if folder else {"$gt": ""}


def _folder_names(
    collection: Collection[Stored], library: str, folder: str, *, ignored: bool = False
) -> Iterator[str]:
    """The names of the folders directly inside, or of those that have ignored files, along an index. Some
    come more than once."""
    index = _SHOWN if ignored else _PATHS
    of: Stored = {"library": library, "ignored": True} if ignored else {"library": library}
    prefix = f"{folder}/" if folder else ""
    rest = _inside(folder)
    for _ in range(_JUMPS):
        where = {**of, "folder": rest}
        found = collection.find_one(where, {"_id": False, "folder": True}, sort=index, hint=index)
        if found is None:
            return
        path: str = found["folder"]
        name, inside, _ = path[len(prefix) :].partition("/")
        yield name
        # Between `name` and `name/…` may come `name-2`: only what is inside can be passed over at once.
        passed = {"$gte": f"{prefix}{name}0"} if inside else {"$gt": path}
        rest |= passed
    for path in _distinct(collection, "folder", {**of, "folder": rest}, index):
        yield path[len(prefix) :].partition("/")[0]


def _distinct(
    collection: Collection[Stored], field: str, where: Stored, index: list[tuple[str, int]] = _PATHS
) -> Iterator[str]:
    """Each value of the field once. (`distinct` would give them in one document, which may be too long.)"""
    steps: list[Stored] = [{"$match": where}, {"$group": {"_id": f"${field}"}}]
    with collection.aggregate(steps, hint=dict(index)) as found:
        for one in found:
            yield one["_id"]
