"""Pages of lists. One that an index has in its order is a range of it, however many files there are.

Where no index has what is listed in the order that is wanted, one of two ways is short: few files are sorted
(see `finding`); of many, enough are met soon on the way along the order, or else the page ends early, and the
next one goes on from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, literal, not_, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.database.filesystem.rows import KNOWN
from app.database.sql.finding import covered, few_files, filters
from app.database.sql.schema import Media
from app.database.stretches import STRIDES, order_of, parts, remaining
from app.storage import cursors, search_tokens
from app.storage.cursors import Position
from app.storage.types import Listing, Sort, is_storable


def rows(
    session: Session, listing: Listing, *, cursor: str | None, limit: int
) -> tuple[Sequence[Row[Any]], str | None]:
    """What is KNOWN of the next files of the listing, and the cursor of the page after them."""
    position = None if cursor is None else cursors.decode(listing, cursor)
    wanted = search_tokens.query_tokens(listing.query)
    if (listing.query.strip() and not wanted) or not is_storable(listing.content_type):
        return [], None
    few = few_files(session, listing, wanted)
    also = list(filters(listing, wanted))
    if few is None:
        stretches = _along(listing, position)
        if listing.recursive and listing.sort is not Sort.NAME:
            also += covered(listing)
    else:
        among = [few, Media.ignored == listing.ignored, *covered(listing)]
        stretches = [_Stretch(listing, among, order_of(listing, "folder")).behind(position)]
    strides = STRIDES if few is None and also else ()
    found: list[Row[Any]] = []
    for stretch in stretches:
        end: Position | None = None
        for part, last in parts(stretch, strides, partial(_Stretch.place_of, session=session)):
            end = last
            found += session.execute(part.query().where(*also).limit(limit + 1 - len(found)))
            if len(found) > limit:
                return found[:limit], cursors.encode(listing, _position(listing, found[limit - 1]))
        if end is not None:
            return found, cursors.encode(listing, end)
    return found, None


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Files in the order of these columns, most of them along an index: all of which the conditions are true,
    from where it starts to where it stops."""

    listing: Listing
    same: Sequence[ColumnElement[bool]]
    keys: Sequence[str]
    start: ColumnElement[bool] | None = None
    stop: ColumnElement[bool] | None = None

    def behind(self, position: Position | None) -> "_Stretch":
        return self if position is None else replace(self, start=self._after(position))

    def until(self, position: Position | None) -> "_Stretch":
        """Only up to this position and with it."""
        return self if position is None else replace(self, stop=not_(self._after(position)))

    def query(self) -> Select[Any]:
        # One bound at each end: given two, SQLite may start from the wrong one.
        bounds = [bound for bound in (self.start, self.stop) if bound is not None]
        columns = self._columns()
        descending = self.listing.descending
        order = (column.desc() if descending else column for column in columns)
        return select(*KNOWN).where(*self.same, *bounds).order_by(*order)

    def place_of(self, number: int, *, session: Session) -> Position | None:
        """Where the file of this number is, from 1; None if there are fewer. Looks at no file, but only at
        the index."""
        columns = {column.key: column for column in (*self._columns(), Media.folder, Media.filename)}
        place = self.query().with_only_columns(*columns.values()).offset(number - 1).limit(1)
        row = session.execute(place).first()
        return None if row is None else _position(self.listing, row)

    def _after(self, position: Position) -> ColumnElement[bool]:
        value, by = position.value, self.listing.sort.value
        at = {by: value, "folder": position.folder, "filename": position.filename}
        columns = self._columns()
        place = tuple_(*columns)
        there = tuple_(*(literal(at[column.key], column.type) for column in columns))
        return place < there if self.listing.descending else place > there

    def _columns(self) -> list[InstrumentedAttribute[Any]]:
        return [getattr(Media, key) for key in self.keys]


def _position(listing: Listing, row: Row[Any]) -> Position:
    value = None if listing.sort is Sort.NAME else getattr(row, listing.sort.value)
    return Position(value, row.folder, row.filename)


def _along(listing: Listing, position: Position | None) -> list[_Stretch]:
    """The stretches of indexes, one after the other, in which all of the listing behind the position is."""
    shown = [Media.library == listing.library, Media.ignored == listing.ignored]
    library = _Stretch(listing, shown, order_of(listing, "folder"))
    here = _Stretch(listing, [*library.same, Media.folder == listing.folder], order_of(listing))
    if not listing.recursive:
        return [here.behind(position)]
    if not listing.folder or listing.sort is not Sort.NAME:
        return [library.behind(position)]
    # Between a folder and those inside it stand others, such as `a-b` between `a` and `a/b`.
    start, stop = Media.folder >= f"{listing.folder}/", Media.folder < f"{listing.folder}0"  # right after "/"
    ends = (stop, start) if listing.descending else (start, stop)
    inside = replace(library, start=ends[0], stop=ends[1])
    return remaining(listing, here, inside, position)
