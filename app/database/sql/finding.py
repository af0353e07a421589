"""The files of a listing by what they have in common: a folder, words, a type."""

from collections.abc import Iterator, Sequence

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Select,
    and_,
    exists,
    literal_column,
    or_,
    select,
    union_all,
)
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from app.database.sql.schema import Media, Word
from app.database.stretches import FEW, HOW_FEW, MAX_TOGETHER, RARELY_TOGETHER
from app.storage.types import Listing, Sort

Text = ColumnElement[str] | InstrumentedAttribute[str]


def few_files(session: Session, listing: Listing, wanted: Sequence[str]) -> ColumnElement[bool] | None:
    """What is true of few files, among which all of the listing are; None if they are many, or if an index
    has them in order."""
    filtered = bool(wanted or listing.content_type)
    scattered = listing.recursive and bool(listing.folder) and listing.sort is not Sort.NAME
    if not filtered and not scattered:
        return None
    for few in (*(one for one in HOW_FEW if one < FEW), FEW):
        for candidates in _candidates(listing, wanted):
            if not _more_than(session, few, candidates):
                return Media.id.in_(union_all(*candidates))
    return _rarely_together(session, listing, wanted)


Ids = Sequence[Select[str]]
"""Queries for ids, each by one index."""


def _more_than(session: Session, number: int, ids: Ids) -> bool:
    """Looks at no more entries of an index than that, and at no file."""
    entries: CompoundSelect[int] = union_all(*(one.with_only_columns(literal_column("1")) for one in ids))
    return session.scalar(entries.offset(number).limit(1)) is not None


def _candidates(listing: Listing, wanted: Sequence[str]) -> Iterator[Ids]:
    """The ids of at least the files of the listing."""
    here = select(Media.id).where(Media.library == listing.library)
    if listing.folder or not listing.recursive:
        inside = [here.where(_begins(Media.folder, f"{listing.folder}/"))] if listing.recursive else []
        yield [here.where(Media.folder == listing.folder), *inside]
    for word in wanted:
        yield [_with_word(listing, word)]
    if listing.content_type:
        yield [here.where(_begins(Media.content_type, listing.content_type))]


def _with_word(listing: Listing, word: str) -> Select[str]:
    return select(Word.media_id).where(Word.library == listing.library, _begins(Word.word, word))


def _rarely_together(session: Session, listing: Listing, wanted: Sequence[str]) -> ColumnElement[bool] | None:
    """Words that are common, but not together, would be looked for in vain along the order."""
    if len(wanted) < 2:
        return None
    for first in sorted(wanted, key=len, reverse=True):  # the longest may well be the rarest
        if not _more_than(session, MAX_TOGETHER, [_with_word(listing, first)]):
            others = (_has(Word.media_id, word) for word in wanted if word != first)
            together = _with_word(listing, first).where(*others).limit(RARELY_TOGETHER + 1)
            ids = session.scalars(together).all()
            return Media.id.in_(ids) if len(ids) <= RARELY_TOGETHER else None
    return None


def _has(identity: InstrumentedAttribute[str], word: str) -> ColumnElement[bool]:
    """Whether the file of this id has a word that begins so."""
    other = aliased(Word)
    return exists().where(other.media_id == identity, _begins(other.word, word))


# Filters. They leave it to the query around them which index is used: none has what `concat` makes.


def covered(listing: Listing) -> list[ColumnElement[bool]]:
    """Whether a file is in the folder of the listing, or beneath it."""
    if not listing.recursive:
        return [Media.folder == listing.folder]
    return [_begins(Media.folder.concat("/"), f"{listing.folder}/")] if listing.folder else []


def filters(listing: Listing, wanted: Sequence[str]) -> Iterator[ColumnElement[bool]]:
    """Whether a file is of the type of the listing and has the words."""
    kind, stored = listing.content_type, Media.content_type.concat("")
    if "/" in kind:
        yield or_(stored == kind, _begins(stored, f"{kind};"), _begins(stored, f"{kind} "))
    elif kind:
        yield _begins(stored, f"{kind}/")
    for word in wanted:
        yield _has(Media.id, word)


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
