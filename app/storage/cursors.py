"""Where a page of a list ended, as the text that asks for the page after it."""

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.storage.errors import InvalidCursor, InvalidName
from app.storage.types import Key, Listing, Sort

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Position:
    """The last file of a page: what the list is sorted by, if not by names alone, and where the file is.

    It need not exist any more: the next page begins behind this place in the order.
    """

    value: int | datetime | None
    folder: str
    filename: str


def encode(listing: Listing, position: Position) -> str:
    """The cursor of a position in a listing."""
    text = f"{_order(listing)}:{_number(position.value)}:{position.folder}/{position.filename}"
    return base64.urlsafe_b64encode(text.encode()).decode("ascii").rstrip("=")


def decode(listing: Listing, cursor: str) -> Position:
    """The position in a listing that a cursor speaks of. Raises InvalidCursor for all that `encode` cannot
    have given for such a listing: one of another folder or order, too."""
    try:
        position = _decoded(listing, cursor)
        # Along another order than that of names, a search may end at a file of any folder.
        passes = listing.recursive and listing.sort is not Sort.NAME
        if encode(listing, position) == cursor and (passes or listing.covers(position.folder)):
            return position
    except (ValueError, OverflowError, InvalidName):
        pass
    raise InvalidCursor("The cursor is not one that a page of this list gave.")


def _decoded(listing: Listing, cursor: str) -> Position:
    padded = cursor + "=" * (-len(cursor) % 4)
    _, number, path = base64.b64decode(padded, altchars=b"-_", validate=True).decode().split(":", 2)
    folder, _, filename = path.rpartition("/")
    key = Key(listing.library, folder, filename)
    return Position(_value(listing.sort, number), key.folder, key.filename)


def _order(listing: Listing) -> str:
    return f"-{listing.sort.value}" if listing.descending else listing.sort.value


def _number(value: int | datetime | None) -> str:
    if isinstance(value, datetime):
        value = (value - _EPOCH) // _MICROSECOND
    return "" if value is None else str(value)


def _value(sort: Sort, number: str) -> int | datetime | None:
    if sort is Sort.NAME:
        return None
    if sort is not Sort.SIZE:
        return _EPOCH + int(number) * _MICROSECOND
    if not 0 <= int(number) < 1 << 63:
        raise ValueError
    return int(number)
