"""The files of a listing by what they have in common: a folder, words, a type."""

from collections.abc import Iterator, Sequence

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Select,
    and_,
    exists,
    func,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from app.database.rules import FEW
from app.database.sql.tables import Media, Word
from app.storage.types import Listing, Sort

Text = ColumnElement[str] | InstrumentedAttribute[str]
Ids = Select[str] | CompoundSelect[str]


def few_files(session: Session, listing: Listing, wanted: Sequence[str]) -> Ids | None:
    """The ids of few files among which all of the listing are; None if they are many, or if an index has
    them in order."""
    filtered = bool(wanted or listing.content_type)
    scattered = listing.recursive and bool(listing.folder) and listing.sort is not Sort.NAME
    return _fewest(session, listing, wanted) if filtered or scattered else None


def _fewest(session: Session, listing: Listing, wanted: Sequence[str]) -> Ids | None:
    smallest, among = FEW + 1, None
    for ids in _candidates(listing, wanted):
        if (count := _count(session, ids, smallest)) < smallest:
            smallest, among = count, ids
    if among is None and len(wanted) > 1:
        # Words that are common, but not together, would be looked for in vain along the order.
        together = _with_words(listing, wanted)
        if _count(session, together, FEW + 1) <= FEW:
            return together
    return among


def _count(session: Session, ids: Ids, limit: int) -> int:
    return session.scalar(select(func.count()).select_from(ids.limit(limit).subquery())) or 0


def _candidates(listing: Listing, wanted: Sequence[str]) -> Iterator[Ids]:
    """Queries for ids, each by one index, each of at least the files of the listing."""
    here = select(Media.id).where(Media.library == listing.library)
    if not listing.recursive:
        yield here.where(Media.folder == listing.folder)
    elif listing.folder:
        yield union_all(
            here.where(Media.folder == listing.folder),
            here.where(_begins(Media.folder, f"{listing.folder}/")),
        )
    for word in wanted:
        yield _with_words(listing, [word])
    if listing.content_type:
        yield here.where(_begins(Media.content_type, listing.content_type))


def _with_words(listing: Listing, wanted: Sequence[str]) -> Select[str]:
    first, *others = sorted(wanted, key=len, reverse=True)  # the longest may well be the rarest
    other = aliased(Word)
    return select(Word.media_id).where(
        Word.library == listing.library,
        _begins(Word.word, first),
        *(exists().where(other.media_id == Word.media_id, _begins(other.word, word)) for word in others),
    )


# Filters. They leave it to the query around them which index is used: none has what `concat` makes.


def covered(listing: Listing) -> ColumnElement[bool]:
    """Whether a file is in the folder of the listing, or beneath it."""
    if not listing.recursive:
        return Media.folder == listing.folder
    return _begins(Media.folder.concat("/"), f"{listing.folder}/") if listing.folder else true()


def filters(listing: Listing, wanted: Sequence[str]) -> Iterator[ColumnElement[bool]]:
    """Whether a file is of the type of the listing and has the words."""
    kind, stored = listing.content_type, Media.content_type.concat("")
    if "/" in kind:
        yield or_(stored == kind, _begins(stored, f"{kind};"), _begins(stored, f"{kind} "))
    elif kind:
        yield _begins(stored, f"{kind}/")
    for word in wanted:
        yield exists().where(Word.media_id == Media.id, _begins(Word.word, word))


def _begins(column: Text, prefix: str) -> ColumnElement[bool]:
    """Whether a text begins so, as a range. (LIKE has wildcards, and no index on SQLite.)"""
    end = end_of(prefix)
    return and_(column >= prefix, column < end) if end is not None else column >= prefix


def end_of(prefix: str) -> str | None:
    """The first text, by bytes in UTF-8, behind all that begin with the prefix; None if there is none."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)  # between them are surrogates
