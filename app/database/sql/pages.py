"""Pages of lists. One that an index has in its order is a range of it, however many files there are.

Where no index has what is listed in the order that is wanted, one of two ways is short. A few files, found by
an index on what they have in common, are sorted. Of many, enough are met soon on the way along the order.
"""

from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Select,
    and_,
    exists,
    func,
    literal,
    or_,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from app.database.sql.tables import Media, Word
from app.storage import cursors
from app.storage.cursors import Position
from app.storage.types import Listing, Sort
from app.storage.words import words

FEW = 10_000
"""How many files are sorted for a page rather than met along the order. (Of a million files, a page of 100
that is among so many is found by looking at 10,000, too.)"""

Text = ColumnElement[str] | InstrumentedAttribute[str]
Ids = Select[str] | CompoundSelect[str]


def rows(
    session: Session, listing: Listing, *, cursor: str | None, limit: int
) -> tuple[Sequence[Media], str | None]:
    """The next files of the listing, and the cursor of the page after them."""
    position = None if cursor is None else cursors.decode(listing, cursor)
    found: list[Media] = []
    for stretch in _stretches(session, listing, position):
        found += session.scalars(stretch.limit(limit + 1 - len(found)))
        if len(found) > limit:
            last = found[limit - 1]
            value = None if listing.sort is Sort.NAME else getattr(last, listing.sort.value)
            return found[:limit], cursors.encode(listing, Position(value, last.folder, last.filename))
    return found, None


def _stretches(session: Session, listing: Listing, position: Position | None) -> Iterator[Select[Media]]:
    """Queries that give, one after the other, the files behind the position."""
    wanted = _longest(words(listing.query))
    if listing.query.strip() and not wanted:
        return
    few = _few(session, listing, wanted)
    if few is not None:
        media = aliased(Media, few.subquery())
        query = select(media).where(_covered(media, listing), *_filters(media, listing, wanted))
        yield _behind(query, media, _keys(listing, "folder", "filename"), listing, position)
        return
    for stretch in _along(listing, position):
        yield stretch.where(*_filters(Media, listing, wanted))


# Along an index


def _along(listing: Listing, position: Position | None) -> Iterator[Select[Media]]:
    library = select(Media).where(Media.library == listing.library)
    here = library.where(Media.folder == listing.folder)
    keys, keys_here = _keys(listing, "folder", "filename"), _keys(listing, "filename")
    if not listing.recursive:
        yield _behind(here, Media, keys_here, listing, position)
    elif not listing.folder:
        yield _behind(library, Media, keys, listing, position)
    elif listing.sort is not Sort.NAME:
        yield _behind(library.where(_covered(Media, listing)), Media, keys, listing, position)
    # Between a folder and those inside it stand others, such as `a-b` between `a` and `a/b`.
    elif listing.descending:
        if position is None or position.folder != listing.folder:
            yield _behind(_inside(library, listing, position), Media, keys, listing, position)
            position = None
        yield _behind(here, Media, keys_here, listing, position)
    else:
        if position is None or position.folder == listing.folder:
            yield _behind(here, Media, keys_here, listing, position)
            position = None
        yield _behind(_inside(library, listing, position), Media, keys, listing, position)


def _inside(library: Select[Media], listing: Listing, position: Position | None) -> Select[Media]:
    # The position is a bound already. Given two, SQLite may start from the wrong one.
    if position is None or listing.descending:
        library = library.where(Media.folder >= f"{listing.folder}/")
    if position is None or not listing.descending:
        library = library.where(Media.folder < f"{listing.folder}0")  # "0" comes right after "/"
    return library


def _keys(listing: Listing, *names: str) -> tuple[str, ...]:
    return names if listing.sort is Sort.NAME else (listing.sort.value, *names)


def _behind(
    query: Select[Media],
    media: type[Media],
    keys: Iterable[str],
    listing: Listing,
    position: Position | None,
) -> Select[Media]:
    """The query in the order of these columns, from behind the position."""
    columns = [getattr(media, key) for key in keys]
    if position is not None:
        values = {
            listing.sort.value: position.value,
            "folder": position.folder,
            "filename": position.filename,
        }
        there = tuple_(*(literal(values[column.key], column.type) for column in columns))
        place = tuple_(*columns)
        query = query.where(place < there if listing.descending else place > there)
    return query.order_by(*(column.desc() if listing.descending else column for column in columns))


# What files have in common


def _few(session: Session, listing: Listing, wanted: Sequence[str]) -> Select[Media] | None:
    """Few files among which all of the listing are; None if they are many, or if an index has them."""
    filtered = bool(wanted or listing.content_type)
    scattered = listing.recursive and bool(listing.folder) and listing.sort is not Sort.NAME
    if not (filtered or scattered):
        return None
    smallest, among = FEW + 1, None
    for ids in _commonalities(listing, wanted):
        if (count := _count(session, ids, smallest)) < smallest:
            smallest, among = count, ids
    if among is None and len(wanted) > 1:
        # Words that are common, but not together, would be looked for in vain along the order.
        among = _together(listing, wanted)
        if _count(session, among, FEW + 1) > FEW:
            return None
    if among is None:
        return None
    # Nothing reaches behind a LIMIT: whoever selects from this starts from these few.
    return select(Media).where(Media.id.in_(among)).limit(FEW)


def _commonalities(listing: Listing, wanted: Sequence[str]) -> Iterator[Ids]:
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
        yield _with_word(listing, word)
    if listing.content_type:
        yield here.where(_begins(Media.content_type, listing.content_type))


def _with_word(listing: Listing, word: str) -> Select[str]:
    return select(Word.media_id).where(Word.library == listing.library, _begins(Word.word, word))


def _together(listing: Listing, wanted: Sequence[str]) -> Select[str]:
    rarest, *others = sorted(wanted, key=len, reverse=True)  # it may be: the longest says most
    other = aliased(Word)
    return _with_word(listing, rarest).where(
        *(exists().where(other.media_id == Word.media_id, _begins(other.word, word)) for word in others)
    )


def _count(session: Session, ids: Ids, limit: int) -> int:
    return session.scalar(select(func.count()).select_from(ids.limit(limit).subquery())) or 0


# Filters. They leave the choice of an index to what is above: no index has what `concat` makes.


def _covered(media: type[Media], listing: Listing) -> ColumnElement[bool]:
    if not listing.folder and listing.recursive:
        return true()
    if not listing.recursive:
        return media.folder.concat("") == listing.folder
    return _begins(media.folder.concat("/"), f"{listing.folder}/")


def _filters(media: type[Media], listing: Listing, wanted: Sequence[str]) -> Iterator[ColumnElement[bool]]:
    kind, stored = listing.content_type, media.content_type.concat("")
    if "/" in kind:
        yield or_(stored == kind, _begins(stored, f"{kind};"), _begins(stored, f"{kind} "))
    elif kind:
        yield _begins(stored, f"{kind}/")
    for word in wanted:
        yield exists().where(Word.media_id == media.id, _begins(Word.word, word))


def _longest(wanted: Sequence[str]) -> list[str]:
    """Without those that another one begins with: what has that has them."""
    return [word for word in wanted if not any(other != word and other.startswith(word) for other in wanted)]


def _begins(column: Text, prefix: str) -> ColumnElement[bool]:
    """Whether a text begins so, as a range. (LIKE has wildcards, and no index on SQLite.)"""
    end = _end(prefix)
    return and_(column >= prefix, column < end) if end is not None else column >= prefix


def _end(prefix: str) -> str | None:
    """The first text, by bytes in UTF-8, behind all that begin with the prefix; None if there is none."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)  # between them are surrogates
