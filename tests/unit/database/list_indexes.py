"""Files for tests of lists, stored straight in a database, and their pages."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo.collection import Collection
from sqlalchemy.orm import Session

from app.database import paging
from app.database.gridfs.documents import RawDocument, key_fields, parse_info
from app.database.gridfs.list_index import MongoListIndex
from app.database.paging import PAGE_LIMITS, PageLimits
from app.database.sql.list_index import SqlListIndex
from app.database.sql.schema import MediaRow, WordRow
from app.storage.ignored_names import IGNORE_NOTHING
from app.storage.search_tokens import tokenize
from app.storage.types import SHARED, FileInfo, Key, Listing, Sort

START = datetime(2026, 1, 1, tzinfo=UTC)

IN_INDEX_ORDER = [
    *(
        Listing(SHARED, folder, recursive, sort=sort, descending=descending)
        for folder, recursive in (("a", False), ("", False), ("", True))
        for sort in Sort
        for descending in (False, True)
    ),
    Listing(SHARED, "a", recursive=True),
    Listing(SHARED, "a", recursive=True, descending=True),
]
"""Listings whose pages are ranges of an index."""

FREQUENT_MATCHES = [
    Listing(SHARED, "", True, query="the"),
    Listing(SHARED, "a", False, query="the e"),
    Listing(SHARED, "a", True, query="end the", content_type="video"),
    Listing(SHARED, "a", False, content_type="video/mp4"),
    Listing(SHARED, "", True, content_type="video"),
    Listing(SHARED, "a", True, query="film"),
]

NEVER_SORT = PageLimits(sort_at_most=(0,), with_token=0)
"""PageLimits that select the search in index order."""

GetPage = Callable[[Listing, str | None, int], tuple[list[FileInfo], str | None]]


def row(key: Key, number: int, size: int, content_type: str) -> MediaRow:
    return MediaRow(
        id=f"{number:032}",
        library=key.library,
        folder=key.folder,
        filename=key.filename,
        content_type=content_type,
        etag="x",
        created_at=START + timedelta(microseconds=number // 4),
        updated_at=START - timedelta(microseconds=number // 3),
        size=size,
        mtime_ns=0,
        inode=0,
        words=[WordRow(library=key.library, word=word) for word in tokenize(key.filename)],
    )


def info(media: Any) -> FileInfo:
    key = Key(media.library, media.folder, media.filename)
    return FileInfo(
        media.id, key, media.size, media.content_type, "x", None, media.created_at, media.updated_at
    )


def document(key: Key, number: int, size: int = 0, content_type: str = "video/mp4") -> RawDocument:
    return {
        "_id": f"{key.library}-{number:032}",
        **key_fields(key, IGNORE_NOTHING),
        "file": ObjectId(),
        "size": size,
        "chunk_size": 1,
        "content_type": content_type,
        "etag": "x",
        "sha256": None,
        "unverified": False,
        "created_at": START + timedelta(milliseconds=number // 4),
        "updated_at": START - timedelta(milliseconds=number // 3),
    }


def sql_page(
    session: Session,
    listing: Listing,
    *,
    cursor: str | None = None,
    limit: int,
    limits: PageLimits = PAGE_LIMITS,
) -> tuple[list[FileInfo], str | None]:
    rows, cursor = paging.page(SqlListIndex(session, listing), cursor=cursor, limit=limit, limits=limits)
    return [*map(info, rows)], cursor


def mongo_page(
    media: Collection[RawDocument],
    listing: Listing,
    *,
    cursor: str | None = None,
    limit: int,
    limits: PageLimits = PAGE_LIMITS,
) -> tuple[list[FileInfo], str | None]:
    found: Sequence[RawDocument]
    found, cursor = paging.page(MongoListIndex(media, listing), cursor=cursor, limit=limit, limits=limits)
    return [*map(parse_info, found)], cursor


def pages(get_page: GetPage, listing: Listing, limit: int) -> Iterator[list[FileInfo]]:
    """Yield all pages."""
    cursor = None
    for _ in range(1000):
        found, cursor = get_page(listing, cursor, limit)
        yield found
        if cursor is None:
            return
        assert len(found) == limit or listing.query or listing.content_type or listing.recursive
    raise AssertionError("the cursors never end")
