"""The files of a listing by what they have in common: a folder, words, a type."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bson import Regex
from pymongo.collection import Collection

from app.database.gridfs.documents import Stored
from app.database.stretches import FEW, HOW_FEW, MAX_TOGETHER, RARELY_TOGETHER
from app.storage.types import Listing, Sort


@dataclass(frozen=True, slots=True)
class Candidates:
    """Files that one index has together, at least those of a listing."""

    where: Stored
    index: tuple[str, ...]


def few_files(collection: Collection[Stored], listing: Listing, wanted: Sequence[str]) -> Candidates | None:
    """Few files among which all of the listing are; None if they are many, or if an index has them in
    order.

    (MongoDB would choose itself, but by trying each index on a third of all files before it gives up on one,
    and by what it chose for others before.)
    """
    filtered = bool(wanted or listing.content_type)
    scattered = listing.recursive and bool(listing.folder) and listing.sort is not Sort.NAME
    if not filtered and not scattered:
        return None
    for few in (*(one for one in HOW_FEW if one < FEW), FEW):
        for candidates in _candidates(listing, wanted):
            if not _more_than(collection, few, candidates):
                return candidates
    return _rarely_together(collection, listing, wanted)


def _more_than(collection: Collection[Stored], number: int, candidates: Candidates) -> bool:
    """Looks at no more entries of an index than that, and at no file."""
    entries = collection.find(candidates.where, {"_id": False, "library": True}, hint=keys(candidates.index))
    return next(entries.skip(number).limit(1), None) is not None


def _rarely_together(
    collection: Collection[Stored], listing: Listing, wanted: Sequence[str]
) -> Candidates | None:
    """Words that are common, but not together, would be looked for in vain along the order."""
    if len(wanted) < 2:
        return None
    for first in sorted(wanted, key=len, reverse=True):  # the longest may well be the rarest
        candidates = _with_word(listing, first)
        if not _more_than(collection, MAX_TOGETHER, candidates):
            both = {"$and": [candidates.where, *filters(listing, wanted)]}
            found = collection.find(both, {"_id": True}, hint=keys(candidates.index))
            ids = [media["_id"] for media in found.limit(RARELY_TOGETHER + 1)]
            return Candidates({"_id": {"$in": ids}}, ("_id",)) if len(ids) <= RARELY_TOGETHER else None
    return None


def _with_word(listing: Listing, word: str) -> Candidates:
    return Candidates({"library": listing.library, "words": begins(word)}, ("library", "words"))


def _candidates(listing: Listing, wanted: Sequence[str]) -> Iterator[Candidates]:
    """Each is ranges of one index, which are counted off without a look at the documents."""
    here: Stored = {"library": listing.library}
    if listing.folder or not listing.recursive:
        yield Candidates(covered(listing), ("library", "folder", "filename"))
    for word in wanted:
        yield _with_word(listing, word)
    if listing.content_type:
        yield Candidates(here | _of_type(listing.content_type), ("library", "content_type"))


def covered(listing: Listing) -> Stored:
    """Whether a file is in the folder of the listing, or beneath it."""
    library: Stored = {"library": listing.library}
    if not listing.recursive:
        return library | {"folder": listing.folder}
    if not listing.folder:
        return library
    return library | {"folder": {"$in": [listing.folder, begins(f"{listing.folder}/")]}}


def filters(listing: Listing, wanted: Sequence[str]) -> Iterator[Stored]:
    """Whether a file is of the type of the listing and has the words."""
    if listing.content_type:
        yield _of_type(listing.content_type)
    for word in wanted:
        # Said in a way that no index has: else MongoDB looks at all that have the most common of the words.
        yield {"$nor": [{"words": {"$not": begins(word)}}]}


def _of_type(kind: str) -> Stored:
    if "/" not in kind:
        return {"content_type": begins(f"{kind}/")}
    return {"content_type": {"$in": [kind, begins(f"{kind};"), begins(f"{kind} ")]}}


def begins(prefix: str) -> Regex[str]:
    """Texts that begin so. MongoDB makes a range of an index of it, without a look at the documents even
    where they have several words. (With flags, as `re.compile` gives them, it would not.)"""
    return Regex(f"^{re.escape(prefix)}")


def keys(index: Sequence[str]) -> list[tuple[str, int]]:
    """An index by its fields, to name it to MongoDB."""
    return [(field, 1) for field in index]
