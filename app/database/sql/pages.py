"""Pages of lists. One that an index has in its order is a range of it, however many files there are.

Where no index has what is listed in the order that is wanted, one of two ways is short: few files are sorted
(see `finding`); of many, enough are met soon on the way along the order.
"""

from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import Select, literal, select, tuple_
from sqlalchemy.orm import Session

from app.database.rules import can_be_stored
from app.database.sql.finding import covered, few_files, filters
from app.database.sql.tables import Media
from app.storage import cursors, words
from app.storage.cursors import Position
from app.storage.types import Listing, Sort


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
    wanted = words.wanted(listing.query)
    if (listing.query.strip() and not wanted) or not can_be_stored(listing.content_type):
        return
    few = few_files(session, listing, wanted)
    if few is None:
        stretches = _along(listing, position)
    else:
        query = select(Media).where(Media.id.in_(few), covered(listing))
        stretches = iter([_behind(query, _keys(listing, "folder", "filename"), listing, position)])
    for stretch in stretches:
        yield stretch.where(*filters(listing, wanted))


# Along an index


def _along(listing: Listing, position: Position | None) -> Iterator[Select[Media]]:
    library = select(Media).where(Media.library == listing.library)
    here = library.where(Media.folder == listing.folder)
    keys, keys_here = _keys(listing, "folder", "filename"), _keys(listing, "filename")
    if not listing.recursive:
        yield _behind(here, keys_here, listing, position)
    elif not listing.folder:
        yield _behind(library, keys, listing, position)
    elif listing.sort is not Sort.NAME:
        yield _behind(library.where(covered(listing)), keys, listing, position)
    # Between a folder and those inside it stand others, such as `a-b` between `a` and `a/b`.
    elif listing.descending:
        if position is None or position.folder != listing.folder:
            yield _behind(_inside(library, listing, position), keys, listing, position)
            position = None
        yield _behind(here, keys_here, listing, position)
    else:
        if position is None or position.folder == listing.folder:
            yield _behind(here, keys_here, listing, position)
            position = None
        yield _behind(_inside(library, listing, position), keys, listing, position)


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
    query: Select[Media], keys: Iterable[str], listing: Listing, position: Position | None
) -> Select[Media]:
    """The query in the order of these columns, from behind the position."""
    columns = [getattr(Media, key) for key in keys]
    if position is not None:
        at = {"folder": position.folder, "filename": position.filename, listing.sort.value: position.value}
        there = tuple_(*(literal(at[column.key], column.type) for column in columns))
        place = tuple_(*columns)
        query = query.where(place < there if listing.descending else place > there)
    return query.order_by(*(column.desc() if listing.descending else column for column in columns))
