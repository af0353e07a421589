"""Pages of lists."""

from pymongo.collection import Collection

from app.database.mongo.documents import Media, Stored, media_in
from app.storage.types import Listing


def rows(
    collection: Collection[Stored], listing: Listing, *, cursor: str | None, limit: int
) -> tuple[list[Media], str | None]:
    """The next files of the listing, and the cursor of the page after them."""
    found = media_in(collection)(library=listing.library, folder=listing.folder).order_by("filename")
    return list(found.limit(limit)), None
