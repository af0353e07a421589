"""Lists of files, folders and libraries in MongoDB: range queries on the indexes of the collection `media`.

Every query names its index. (MongoDB would choose one by trial: it tries each index on a third of all files
before it gives up on it, and reuses its choice for other queries of the same shape.)
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bson import MaxKey, MinKey, Regex
from pymongo import ASCENDING, DESCENDING
from pymongo.collection import Collection
from pymongo.cursor import Cursor

from app.database.gridfs.documents import INFO_FIELDS, RawDocument
from app.database.paging import MAX_FOLDER_NAMES, distinct_names, in_byte_order, is_scattered, order_of
from app.storage import search_tokens
from app.storage.cursors import Position
from app.storage.types import Listing, Sort

MAX_JUMPS = 100
"""Folders to find by jumps past their contents, before the remaining paths are read at once."""

MAX_CHECKS = 100
"""Folders with ignored files that are checked one by one for other files."""

_PATH_INDEX = ("library", "folder", "filename")
_SHOWN_PATH_INDEX = ("library", "ignored", "folder", "filename")


@dataclass(frozen=True, slots=True)
class MongoCandidates:
    """A superset of a listing's files, as a condition that selects a range of one index."""

    where: RawDocument
    index: tuple[str, ...]


class MongoListIndex:
    """`paging.ListIndex` over the collection `media`. Its rows are documents with the fields INFO_FIELDS."""

    def __init__(self, collection: Collection[RawDocument], listing: Listing) -> None:
        self.listing = listing
        self.tokens: Sequence[str] = search_tokens.query_tokens(listing.query)
        self._collection = collection
        self._filters = [_in_tree(listing)] if is_scattered(listing) else []
        self._filters += _selected(listing, self.tokens)

    def candidates(self) -> Iterator[MongoCandidates]:
        listing = self.listing
        if listing.folder or not listing.recursive:
            yield MongoCandidates(_in_tree(listing), _PATH_INDEX)
        yield from map(self.with_token, self.tokens)
        if listing.content_type:
            where = {"library": listing.library, **_has_type(listing.content_type)}
            yield MongoCandidates(where, ("library", "content_type"))

    def with_token(self, token: str) -> MongoCandidates:
        where = {"library": self.listing.library, "words": _begins_with(token)}
        return MongoCandidates(where, ("library", "words"))

    def has_more_than(self, number: int, candidates: MongoCandidates) -> bool:
        only_key = {"_id": False, "library": True}
        entries = self._collection.find(candidates.where, only_key, hint=_ascending(candidates.index))
        return next(entries.skip(number).limit(1), None) is not None

    def with_all_tokens(self, first: str, *, limit: int) -> MongoCandidates | None:
        candidates = self.with_token(first)
        where = {"$and": [candidates.where, *_selected(self.listing, self.tokens)]}
        found = self._collection.find(where, {"_id": True}, hint=_ascending(candidates.index))
        ids = [media["_id"] for media in found.limit(limit + 1)]
        return MongoCandidates({"_id": {"$in": ids}}, ("_id",)) if len(ids) <= limit else None

    def sorted_rows(
        self, candidates: MongoCandidates, after: Position | None, limit: int
    ) -> list[RawDocument]:
        listing = self.listing
        shown = {"ignored": True if listing.ignored else {"$ne": True}}
        selected = _selected(listing, self.tokens)
        where = [candidates.where, _in_tree(listing), shown, *selected, _is_after(listing, after)]
        order = _order(listing, order_of(listing, "folder"))
        hint = _ascending(candidates.index)
        return list(self._collection.find({"$and": where}, INFO_FIELDS, hint=hint, sort=order, limit=limit))

    def library_range(self) -> "_IndexRange":
        index = ("library", "ignored", *order_of(self.listing, "folder"))
        return self._range_of_equal(index, self._library())

    def folder_range(self) -> "_IndexRange":
        index = ("library", "ignored", "folder", *order_of(self.listing))
        return self._range_of_equal(index, (*self._library(), self.listing.folder))

    def subfolders_range(self) -> "_IndexRange":
        library, folder = self._library(), self.listing.folder
        low, high = (*library, f"{folder}/"), (*library, f"{folder}0", MinKey())  # "0" comes after "/"
        return replace(self.library_range(), low=low, high=high)

    def position(self, row: RawDocument) -> Position:
        return _position(self.listing, row)

    def _library(self) -> tuple[Any, ...]:
        return self.listing.library, self.listing.ignored or None

    def _range_of_equal(self, index: tuple[str, ...], values: tuple[Any, ...]) -> "_IndexRange":
        return _IndexRange(self._collection, self.listing, self._filters, index, values, values)


@dataclass(frozen=True, slots=True)
class _IndexRange:
    """The documents from the entry `low` of an index up to, but without, the entry `high`. Shorter tuples
    leave the remaining fields open."""

    collection: Collection[RawDocument]
    listing: Listing
    filters: Sequence[RawDocument]
    index: tuple[str, ...]
    low: tuple[Any, ...]
    high: tuple[Any, ...]

    def after(self, position: Position | None) -> "_IndexRange":
        if position is None:
            return self
        if self.listing.descending:
            return replace(self, high=self._entry(position))
        return replace(self, low=self._next_entry(position))

    def through(self, position: Position | None) -> "_IndexRange":
        if position is None:
            return self
        if self.listing.descending:
            return replace(self, low=self._entry(position))
        return replace(self, high=self._next_entry(position))

    def rows(self, limit: int) -> list[RawDocument]:
        return list(self._find(self.filters, INFO_FIELDS).limit(limit))

    def position_at(self, number: int) -> Position | None:
        only_keys: RawDocument = {"_id": False} | dict.fromkeys(self.index, True)
        entry = next(self._find([], only_keys).skip(number - 1).limit(1), None)
        return None if entry is None else _position(self.listing, entry)

    def _find(
        self, filters: Sequence[RawDocument], fields: Sequence[str] | RawDocument
    ) -> Cursor[RawDocument]:
        # Bounds rather than conditions: conditions would need several ranges, one for each key that is equal.
        rest = len(self.index)
        low = [*zip(self.index, (*self.low, *[MinKey()] * rest), strict=False)]
        high = [*zip(self.index, (*self.high, *[MaxKey()] * rest), strict=False)]
        found = self.collection.find({"$and": list(filters)} if filters else {}, fields)
        order = _order(self.listing, self.index)
        return found.hint(_ascending(self.index)).min(low).max(high).sort(order)

    def _entry(self, position: Position) -> tuple[Any, ...]:
        values = _values(self.listing, position)
        return tuple(values[field] for field in self.index)

    def _next_entry(self, position: Position) -> tuple[Any, ...]:
        *before, filename = self._entry(position)
        return *before, f"{filename}\0"  # the least text after it; no name contains NUL


def _position(listing: Listing, row: RawDocument) -> Position:
    value = None if listing.sort is Sort.NAME else row[listing.sort.value]
    return Position(value, row["folder"], row["filename"])


def _values(listing: Listing, position: Position) -> RawDocument:
    return {
        listing.sort.value: position.value,
        "library": listing.library,
        "ignored": listing.ignored or None,
        "folder": position.folder,
        "filename": position.filename,
    }


def _order(listing: Listing, fields: Sequence[str]) -> list[tuple[str, int]]:
    return [(field, DESCENDING if listing.descending else ASCENDING) for field in fields]


def _ascending(index: Sequence[str]) -> list[tuple[str, int]]:
    """Return the specification of an index, as hints name it."""
    return [(field, ASCENDING) for field in index]


def _is_after(listing: Listing, position: Position | None) -> RawDocument:
    """Return the condition that a file is after the position: equal in its first fields, then greater."""
    if position is None:
        return {}
    fields, values = order_of(listing, "folder"), _values(listing, position)
    after = "$lt" if listing.descending else "$gt"
    depths = range(len(fields))
    equal = ({field: values[field] for field in fields[:depth]} for depth in depths)
    return {
        "$or": [
            one | {fields[depth]: {after: values[fields[depth]]}}
            for one, depth in zip(equal, depths, strict=True)
        ]
    }


def _in_tree(listing: Listing) -> RawDocument:
    """Return the condition that a file is in the listing's folder, or, in a recursive listing, below it."""
    library: RawDocument = {"library": listing.library}
    if not listing.recursive:
        return library | {"folder": listing.folder}
    if not listing.folder:
        return library
    return library | {"folder": {"$in": [listing.folder, _begins_with(f"{listing.folder}/")]}}


def _selected(listing: Listing, tokens: Sequence[str]) -> Iterator[RawDocument]:
    """Yield the conditions that a file has the listing's media type and all tokens."""
    if listing.content_type:
        yield _has_type(listing.content_type)
    for token in tokens:
        # In a form that uses no index: otherwise MongoDB examines all files with the most frequent token.
        yield {"$nor": [{"words": {"$not": _begins_with(token)}}]}


def _has_type(kind: str) -> RawDocument:
    if "/" not in kind:
        return {"content_type": _begins_with(f"{kind}/")}
    return {"content_type": {"$in": [kind, _begins_with(f"{kind};"), _begins_with(f"{kind} ")]}}


def _begins_with(prefix: str) -> Regex[str]:
    """Return a pattern that MongoDB turns into a range of an index, even one over several words for each
    document. (With flags, as `re.compile` sets them, it would not.)"""
    return Regex(f"^{re.escape(prefix)}")


# Folders and libraries


def libraries(collection: Collection[RawDocument]) -> tuple[str, ...]:
    """Return the names of all libraries that have files, in byte order."""
    return in_byte_order(_distinct(collection, "library", {}, _PATH_INDEX))


def folders(
    collection: Collection[RawDocument],
    library: str,
    folder: str,
    *,
    limit: int,
    max_jumps: int = MAX_JUMPS,
    max_checks: int = MAX_CHECKS,
    max_names: int = MAX_FOLDER_NAMES,
) -> tuple[str, ...]:
    """Return the names of the subfolders that have files that are not ignored, in byte order."""

    def distinct(paths: Iterator[str]) -> set[str]:
        return distinct_names((path[len(prefix) :].partition("/")[0] for path in paths), limit=max_names)

    prefix = f"{folder}/" if folder else ""
    of_library: RawDocument = {"library": library}
    of_ignored = of_library | {"ignored": True}
    names = distinct(_paths_inside(collection, of_library, folder, _PATH_INDEX, max_jumps))
    with_ignored = distinct(_paths_inside(collection, of_ignored, folder, _SHOWN_PATH_INDEX, max_jumps))
    to_check = names & with_ignored
    if len(to_check) <= max_checks:
        names -= {name for name in to_check if not _has_shown_file(collection, library, prefix + name)}
    else:
        where: RawDocument = of_library | {"ignored": {"$ne": True}, "folder": _inside(folder)}
        names = distinct(_distinct(collection, "folder", where, _SHOWN_PATH_INDEX))
    return in_byte_order(names)[:limit]


def _has_shown_file(collection: Collection[RawDocument], library: str, folder: str) -> bool:
    """Return whether a file in the folder, or below it, is not ignored."""
    # Bounds rather than a condition: from an index alone, MongoDB cannot distinguish null from a missing
    # field.
    for low, high in ((folder, f"{folder}\x01"), (f"{folder}/", f"{folder}0")):
        start: list[tuple[str, Any]] = [*zip(_SHOWN_PATH_INDEX, (library, None, low, MinKey()), strict=True)]
        stop: list[tuple[str, Any]] = [*zip(_SHOWN_PATH_INDEX, (library, None, high, MinKey()), strict=True)]
        found = collection.find({}, {"_id": False, "folder": True}).hint(_ascending(_SHOWN_PATH_INDEX))
        if next(found.min(start).max(stop).limit(1), None) is not None:
            return True
    return False


def _inside(folder: str) -> RawDocument:
    return {"$gte": f"{folder}/", "$lt": f"{folder}0"} if folder else {"$gt": ""}  # "0" comes after "/"


def _paths_inside(
    collection: Collection[RawDocument], where: RawDocument, folder: str, index: Sequence[str], max_jumps: int
) -> Iterator[str]:
    """Yield at least one path of each folder directly inside, by jumps from one to the next in the index."""
    prefix = f"{folder}/" if folder else ""
    rest = _inside(folder)
    keys = _ascending(index)
    for _ in range(max_jumps):
        found = collection.find_one(
            {**where, "folder": rest}, {"_id": False, "folder": True}, sort=keys, hint=keys
        )
        if found is None:
            return
        path: str = found["folder"]
        yield path
        name, has_more, _ = path[len(prefix) :].partition("/")
        # `name-2` may sort between `name` and `name/…`, so a jump can only skip the inside of a folder.
        rest |= {"$gte": f"{prefix}{name}0"} if has_more else {"$gt": path}
    yield from _distinct(collection, "folder", {**where, "folder": rest}, index)


def _distinct(
    collection: Collection[RawDocument], field: str, where: RawDocument, index: Sequence[str]
) -> Iterator[str]:
    """Yield each value of the field once. MongoDB's `distinct` returns one document: it may be too big."""
    steps: list[RawDocument] = [{"$match": where}, {"$group": {"_id": f"${field}"}}]
    with collection.aggregate(steps, hint=dict(_ascending(index))) as found:
        for one in found:
            yield one["_id"]
