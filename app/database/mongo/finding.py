"""The files of a listing by what they have in common: a folder, words, a type."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from bson import Regex
from pymongo.collection import Collection

from app.database.mongo.documents import Stored
from app.database.rules import FEW
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
    return _fewest(collection, listing, wanted) if filtered or scattered else None


def _fewest(collection: Collection[Stored], listing: Listing, wanted: Sequence[str]) -> Candidates | None:
    smallest, fewest = FEW + 1, None
    for candidates in _candidates(listing, wanted):
        if (count := _count(collection, candidates, smallest)) < smallest:
            smallest, fewest = count, candidates
        if not smallest:
            break  # and none can be counted up to none
    if fewest is None and len(wanted) > 1:
        # Words that are common, but not together, would be looked for in vain along the order.
        return _few_together(collection, listing, wanted)
    return fewest


def _count(collection: Collection[Stored], candidates: Candidates, limit: int) -> int:
    return collection.count_documents(candidates.where, hint=keys(candidates.index), limit=limit)


def _few_together(
    collection: Collection[Stored], listing: Listing, wanted: Sequence[str]
) -> Candidates | None:
    longest = max(wanted, key=len)  # it may well be the rarest
    where = {"library": listing.library, "words": begins(longest)}
    both = {"$and": [where, *filters(listing, wanted)]}
    found = collection.find(both, {"_id": True}, hint=keys(("library", "words")), limit=FEW + 1)
    ids = [media["_id"] for media in islice(found, FEW + 1)]
    return Candidates({"_id": {"$in": ids}}, ("_id",)) if len(ids) <= FEW else None


def _candidates(listing: Listing, wanted: Sequence[str]) -> Iterator[Candidates]:
    """Each is ranges of one index, which are counted without a look at the documents."""
    here: Stored = {"library": listing.library}
    if listing.folder or not listing.recursive:
        yield Candidates(covered(listing), ("library", "folder", "filename"))
    for word in wanted:
        yield Candidates(here | {"words": begins(word)}, ("library", "words"))
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
        yield {"words": begins(word)}


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
