"""Cursors: the position where a page of a list ended, as text in the request for the next page."""

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.storage.errors import InvalidCursor, InvalidName
from app.storage.types import Key, Listing, Sort

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Position:
    """The place of a page's last file, which may be gone: the sort value, if not the name, and the path."""

    value: int | datetime | None
    folder: str
    filename: str


def encode(listing: Listing, position: Position) -> str:
    text = f"{_order(listing)}:{_number(position.value)}:{position.folder}/{position.filename}"
    return base64.urlsafe_b64encode(text.encode()).decode("ascii").rstrip("=")


def decode(listing: Listing, cursor: str) -> Position:
    """Return a cursor's position. Raises InvalidCursor unless `encode` can have made it for this listing."""
    try:
        position = _decoded(listing, cursor)
        # A recursive list that is not in the order of names may have examined files of any folder.
        any_folder = listing.recursive and listing.sort is not Sort.NAME
        if encode(listing, position) == cursor and (any_folder or listing.covers(position.folder)):
            return position
    except (ValueError, OverflowError, InvalidName):
        pass
    raise InvalidCursor("The cursor does not belong to this list. Start again from the first page.")


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
