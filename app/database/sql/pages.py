"""Pages of a folder, each by a range of the index behind the unique paths, however many files there are."""

import base64
import binascii
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.database.sql.tables import Media
from app.storage.errors import InvalidCursor
from app.storage.types import Listing

MAX_FOLDERS = 1000


def rows(
    session: Session, listing: Listing, *, cursor: str | None, limit: int
) -> tuple[Sequence[Media], str | None]:
    """The next files of the listing, and the cursor of the page after them."""
    query = select(Media).where(Media.library == listing.library, Media.folder == listing.folder)
    if cursor is not None:
        query = query.where(Media.filename > _decode_cursor(cursor))
    found = session.scalars(query.order_by(Media.filename).limit(limit + 1)).all()
    page = found[:limit]
    return page, _encode_cursor(page[-1].filename) if len(found) > limit else None


def folders(session: Session, listing: Listing) -> tuple[str, ...]:
    """The names of the folders directly inside, by jumping from one to the next along the index."""
    library, folder = listing.library, listing.folder
    prefix = f"{folder}/" if folder else ""
    names: set[str] = set()
    # No legal name holds "\x01", so that it stands right behind a text and before all that go on from it;
    # and "0" comes right after "/".
    start, end = prefix or "\x01", f"{folder}0" if folder else None
    query = select(Media.folder).where(Media.library == library).order_by(Media.folder).limit(1)
    if end is not None:
        query = query.where(Media.folder < end)
    while len(names) < MAX_FOLDERS:
        found = session.scalar(query.where(Media.folder >= start))
        if found is None:
            break
        name, slash, _ = found[len(prefix) :].partition("/")
        names.add(name)
        # Between `name` and `name/…` may come `name-2`: only what is inside can be passed over at once.
        start = f"{prefix}{name}0" if slash else f"{found}\x01"
    return tuple(sorted(names, key=str.encode))


def _encode_cursor(filename: str) -> str:
    return base64.urlsafe_b64encode(filename.encode()).decode("ascii").rstrip("=")


def _decode_cursor(cursor: str) -> str:
    try:
        name = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        name = ""
    if not name:
        raise InvalidCursor("The cursor is not one that a page gave.")
    return name
