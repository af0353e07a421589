"""Pages of lists. One that an index has in its order is a few ranges of it, however many files there are.

Where no index has what is listed in the order that is wanted, one of two ways is short: few files are sorted
(see `finding`); of many, enough are met soon on the way along the order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mongoengine.queryset import QuerySet
from pymongo.collection import Collection

from app.database.mongo import finding
from app.database.mongo.documents import Media, Stored, media_in
from app.database.mongo.finding import covered, few_files, filters
from app.database.rules import can_be_stored
from app.storage import cursors, words
from app.storage.cursors import Position
from app.storage.types import Listing, Sort


def rows(
    collection: Collection[Stored], listing: Listing, *, cursor: str | None, limit: int
) -> tuple[list[Media], str | None]:
    """The next files of the listing, and the cursor of the page after them."""
    position = None if cursor is None else cursors.decode(listing, cursor)
    found: list[Media] = []
    for stretch in _stretches(collection, listing, position):
        found += stretch.limit(limit + 1 - len(found))
        if len(found) > limit:
            last = found[limit - 1]
            value = None if listing.sort is Sort.NAME else getattr(last, listing.sort.value)
            return found[:limit], cursors.encode(listing, Position(value, last.folder, last.filename))
    return found, None


def _stretches(
    collection: Collection[Stored], listing: Listing, position: Position | None
) -> Iterator[QuerySet]:
    """Queries that give, one after the other, the files behind the position."""
    wanted = words.wanted(listing.query)
    if (listing.query.strip() and not wanted) or not can_be_stored(listing.content_type):
        return
    also = list(filters(listing, wanted))
    few = few_files(collection, listing, wanted)
    if few is not None:
        keys = _keys(listing, "folder", "filename")
        behind: Stored = {"$or": list(_behind(keys, listing, position))}
        yield _query(collection, [few.where, covered(listing), *also, behind], few.index, keys, listing)
        return
    for span in _spans(listing, position):
        for place in _behind(span.keys, listing, span.position):
            where = [span.same, span.within, place, *also]
            yield _query(collection, where, (*span.same, *span.keys), span.keys, listing)


def _query(
    collection: Collection[Stored],
    where: Sequence[Stored],
    index: Sequence[str],
    keys: Sequence[str],
    listing: Listing,
) -> QuerySet:
    found = media_in(collection)(__raw__={"$and": where}).hint(finding.keys(index))
    return found.order_by(*(f"-{key}" if listing.descending else key for key in keys))


# Along an index


@dataclass(frozen=True, slots=True)
class _Span:
    """Files that the index of all these fields has in the order of the keys, from behind the position."""

    same: Stored
    """What is the same of all of them."""
    keys: tuple[str, ...]
    position: Position | None
    within: Stored
    """What else they must be."""


def _spans(listing: Listing, position: Position | None) -> list[_Span]:
    """The spans, one after the other, that are all of the listing behind the position."""
    library = {"library": listing.library}
    here = library | {"folder": listing.folder}
    keys, keys_here = _keys(listing, "folder", "filename"), _keys(listing, "filename")
    if not listing.recursive:
        return [_Span(here, keys_here, position, {})]
    if not listing.folder or listing.sort is not Sort.NAME:
        return [_Span(library, keys, position, covered(listing))]
    # Between a folder and those inside it stand others, such as `a-b` between `a` and `a/b`.
    is_here = position is not None and position.folder == listing.folder
    inside = {"folder": {"$gte": f"{listing.folder}/", "$lt": f"{listing.folder}0"}}  # "0" comes right after
    spans = [
        _Span(here, keys_here, position if is_here else None, {}),
        _Span(library, keys, None if is_here else position, inside),
    ]
    if listing.descending:
        spans.reverse()
    is_in_first = position is None or is_here is not listing.descending
    return spans if is_in_first else spans[1:]


def _keys(listing: Listing, *names: str) -> tuple[str, ...]:
    return names if listing.sort is Sort.NAME else (listing.sort.value, *names)


def _behind(keys: Sequence[str], listing: Listing, position: Position | None) -> Iterator[Stored]:
    """What is true, of one stretch after the other, of the files behind the position: the same but for the
    last key, then but for the last two … Each is one range of an index of the keys."""
    if position is None:
        yield {}
        return
    at = {"folder": position.folder, "filename": position.filename, listing.sort.value: position.value}
    behind = "$lt" if listing.descending else "$gt"
    for depth in reversed(range(len(keys))):
        same: Stored = {key: at[key] for key in keys[:depth]}
        yield same | {keys[depth]: {behind: at[keys[depth]]}}
