"""Pages of lists. One that an index has in its order is a range of it, however many files there are.

Where no index has what is listed in the order that is wanted, one of two ways is short: few files are sorted
(see `finding`); of many, enough are met soon on the way along the order, or else the page ends early, and the
next one goes on from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bson import MaxKey, MinKey
from pymongo import ASCENDING, DESCENDING
from pymongo.collection import Collection
from pymongo.cursor import Cursor

from app.database.gridfs.documents import KNOWN, Stored
from app.database.gridfs.finding import covered, few_files, filters, keys
from app.database.stretches import STRIDES, order_of, parts, remaining
from app.storage import cursors, search_tokens
from app.storage.cursors import Position
from app.storage.types import Listing, Sort, is_storable


def rows(
    collection: Collection[Stored], listing: Listing, *, cursor: str | None, limit: int
) -> tuple[list[Stored], str | None]:
    """What is KNOWN of the next files of the listing, and the cursor of the page after them."""
    position = None if cursor is None else cursors.decode(listing, cursor)
    wanted = search_tokens.query_tokens(listing.query)
    if (listing.query.strip() and not wanted) or not is_storable(listing.content_type):
        return [], None
    also = list(filters(listing, wanted))
    few = few_files(collection, listing, wanted)
    if few is not None:
        where = {"$and": [few.where, covered(listing), _shown(listing), *also, _behind(listing, position)]}
        order = _order(listing, order_of(listing, "folder"))
        found = list(collection.find(where, KNOWN, hint=keys(few.index), sort=order, limit=limit + 1))
        return _page(listing, found, limit)
    if listing.recursive and listing.folder and listing.sort is not Sort.NAME:
        also.append(covered(listing))
    strides = STRIDES if also else ()
    found = []
    for stretch in _along(listing, position):
        end: Position | None = None
        for part, last in parts(stretch, strides, partial(_Stretch.place_of, collection=collection)):
            end = last
            found += part.find(collection, also, KNOWN).limit(limit + 1 - len(found))
            if len(found) > limit:
                return _page(listing, found, limit)
        if end is not None:
            return found, cursors.encode(listing, end)
    return found, None


def _page(listing: Listing, found: list[Stored], limit: int) -> tuple[list[Stored], str | None]:
    if len(found) <= limit:
        return found, None
    return found[:limit], cursors.encode(listing, _position(listing, found[limit - 1]))


def _position(listing: Listing, found: Stored) -> Position:
    value = None if listing.sort is Sort.NAME else found[listing.sort.value]
    return Position(value, found["folder"], found["filename"])


def _order(listing: Listing, fields: Sequence[str]) -> list[tuple[str, int]]:
    return [(field, DESCENDING if listing.descending else ASCENDING) for field in fields]


def _at(listing: Listing, position: Position) -> Stored:
    value, by = position.value, listing.sort.value
    at = {"folder": position.folder, "filename": position.filename}
    return {by: value, "library": listing.library, "ignored": listing.ignored or None, **at}


def _shown(listing: Listing) -> Stored:
    """Whether a file is ignored as the listing demands."""
    return {"ignored": True if listing.ignored else {"$ne": True}}


def _behind(listing: Listing, position: Position | None) -> Stored:
    """What is true of the files behind the position: those with the same keys but for the last, then but for
    the last two …"""
    if position is None:
        return {}
    fields, at = order_of(listing, "folder"), _at(listing, position)
    behind = "$lt" if listing.descending else "$gt"
    depths = range(len(fields))
    same = ({field: at[field] for field in fields[:depth]} for depth in depths)
    return {
        "$or": [
            one | {fields[depth]: {behind: at[fields[depth]]}}
            for one, depth in zip(same, depths, strict=True)
        ]
    }


# Along an index


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Files in the order of an index, from the low place in it to the high one, without that."""

    listing: Listing
    index: tuple[str, ...]
    low: tuple[Any, ...]
    high: tuple[Any, ...]

    def behind(self, position: Position | None) -> "_Stretch":
        if position is None:
            return self
        if self.listing.descending:
            return replace(self, high=self._place(position))
        return replace(self, low=self._after(position))

    def until(self, position: Position | None) -> "_Stretch":
        """Only up to this position and with it."""
        if position is None:
            return self
        if self.listing.descending:
            return replace(self, low=self._place(position))
        return replace(self, high=self._after(position))

    def find(
        self, collection: Collection[Stored], also: Sequence[Stored], wanted: Sequence[str] | Stored
    ) -> Cursor[Stored]:
        # Bounds rather than conditions: those would need several ranges, one for each key that is the same.
        rest = len(self.index)
        low = [*zip(self.index, (*self.low, *[MinKey()] * rest), strict=False)]
        high = [*zip(self.index, (*self.high, *[MaxKey()] * rest), strict=False)]
        found = collection.find({"$and": list(also)} if also else {}, wanted)
        return found.hint(keys(self.index)).min(low).max(high).sort(_order(self.listing, self.index))

    def place_of(self, number: int, *, collection: Collection[Stored]) -> Position | None:
        """Where the file of this number is, from 1; None if there are fewer. Looks at no file, but only at
        the index."""
        fields: Stored = {"_id": False} | dict.fromkeys(self.index, True)
        place = next(self.find(collection, [], fields).skip(number - 1).limit(1), None)
        return None if place is None else _position(self.listing, place)

    def _place(self, position: Position) -> tuple[Any, ...]:
        at = _at(self.listing, position)
        return tuple(at[field] for field in self.index)

    def _after(self, position: Position) -> tuple[Any, ...]:
        *before, filename = self._place(position)
        return *before, f"{filename}\0"  # the very next that a name could be, if names could hold it


def _along(listing: Listing, position: Position | None) -> list[_Stretch]:
    """The stretches of indexes, one after the other, in which all of the listing behind the position is."""
    one, folder = (listing.library, listing.ignored or None), listing.folder
    library = _Stretch(listing, ("library", "ignored", *order_of(listing, "folder")), one, one)
    place = (*one, folder)
    here = _Stretch(listing, ("library", "ignored", "folder", *order_of(listing)), place, place)
    if not listing.recursive:
        return [here.behind(position)]
    if not folder or listing.sort is not Sort.NAME:
        return [library.behind(position)]
    # Between a folder and those inside it stand others, such as `a-b` between `a` and `a/b`.
    low, high = (*one, f"{folder}/"), (*one, f"{folder}0", MinKey())  # "0" is right after "/"
    return remaining(listing, here, replace(library, low=low, high=high), position)
