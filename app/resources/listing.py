"""Lists of files: the query that selects them, GET /files, and responses that page through a listing."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from enum import StrEnum
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field, GetJsonSchemaHandler
from starlette.responses import StreamingResponse
from starlette.types import Send

from app.http.media_types import canonical
from app.resources.dependencies import Flag, LibraryDep, PrincipalDep, ServicesDep, base_url, owner_of
from app.resources.errors import problems
from app.resources.files import StoredFile, json_format
from app.resources.openapi import response_headers
from app.resources.rendering import JSON
from app.storage.errors import StorageError
from app.storage.types import MAX_FOLDERS, Listing, Page, Sort, normalize_folder


class FileOrder(StrEnum):
    """The order of a list; with `-` from the greatest to the least."""

    NAME = "name"
    NAME_DESCENDING = "-name"
    SIZE = "size"
    SIZE_DESCENDING = "-size"
    CREATED_AT = "created_at"
    CREATED_AT_DESCENDING = "-created_at"
    UPDATED_AT = "updated_at"
    UPDATED_AT_DESCENDING = "-updated_at"

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Add the names of the members, for generators of clients: `-name` is not an identifier."""
        return {**handler(schema), "x-enum-varnames": list(cls.__members__)}


# RFC 6838 §4.2, with `video` and `video/*` for every video type.
_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_TYPE = rf"^({_NAME}(/(\*|{_NAME}))?)?$"

SearchWords = Annotated[
    str, Query(max_length=255, description="Words, each the beginning of a word in the filename.")
]

PAGE_SIZE = 200
"""Files per query of the storage, and in memory at a time. Other requests wait while a page is formatted."""

log = logging.getLogger(__name__)


def sort_of(order: FileOrder) -> tuple[Sort, bool]:
    """Return the sort key of an order, and whether it is descending."""
    return Sort(order.removeprefix("-")), order.startswith("-")


async def get_listing(
    library: LibraryDep,
    folder: Annotated[
        str,
        Query(
            description="The top if absent. A folder exists while something is in it: any other is empty, "
            "with status 200. Once folders can be created, a missing one will be 404; the top never is."
        ),
    ] = "",
    recursive: Annotated[Flag, Query(description="Include the files of all subfolders.")] = False,
    q: SearchWords = "",
    type: Annotated[
        str, Query(pattern=_TYPE, description="Media type: `video/mp4`, or `video` for all videos.")
    ] = "",
    sort: FileOrder = FileOrder.NAME,
) -> Listing:
    """Dependency: the files that the query selects."""
    media_type = canonical(type.removesuffix("/*"))
    by, descending = sort_of(sort)
    return Listing(library, normalize_folder(folder), recursive, q, media_type, by, descending)


ListingDep = Annotated[Listing, Depends(get_listing)]


class FileList(BaseModel):
    """One page of a list."""

    folder: str
    folders: list[str] = Field(description="Names of the folders inside; on the first page of a folder only.")
    items: list[StoredFile]
    next_cursor: str | None = Field(
        description="Cursor of the next page; null on the last. Any page may have fewer than `limit` files."
    )


router = APIRouter()


@router.head("/files", include_in_schema=False)
@router.get(
    "/files",
    operation_id="files_list",
    summary="List the files of a folder",
    response_model=FileList,
    responses={
        200: {"description": "A page of the list.", "headers": response_headers("Link")},
        **problems(400, 422, 503),
    },
)
async def list_files(
    request: Request,
    services: ServicesDep,
    listing: ListingDep,
    principal: PrincipalDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(description="From the page before.")] = None,
) -> Response:
    """The files of a folder, page by page. The order is by bytes, and by path where the rest is equal."""
    base = base_url(request, services.base_url)
    format_of = partial(json_format, base_url=base, owner=owner_of(principal))
    page = await services.storage.render_page(listing, format_of, cursor=cursor, limit=limit)
    headers = {"cache-control": "private, no-cache"}  # against heuristic freshness (RFC 9111 §4.2.2)
    if page.next_cursor is not None:
        sent = ((name, request.query_params.get(name)) for name in ("recursive", "q", "type", "sort"))
        given = {name: value for name, value in sent if value is not None}
        query = {"folder": listing.folder, **given, "limit": limit, "cursor": page.next_cursor}
        headers["link"] = f'<{base}/files?{urlencode(query)}>; rel="next"'  # RFC 8288
    outer = FileList(
        folder=listing.folder, folders=list(page.folders), items=[], next_cursor=page.next_cursor
    )
    # No member has a value with this text: quotes in values are escaped.
    before, empty, after = outer.model_dump_json().encode().partition(b'"items":[]')
    return JSON(b"".join((before, empty[:-1], page.items, b"]", after)), headers=headers)


async def listing_response(
    request: Request, first: Page, pieces: AsyncIterator[str], headers: Mapping[str, str]
) -> Response:
    """Return a response whose body is `pieces`, the text of a listing. `first` is its first page.

    If that is the only page, the response has a Content-Length, also if the request is HEAD, because some
    players read only one chunk of a chunked response.
    """
    if first.next_cursor is None and len(first.folders) < MAX_FOLDERS:
        return Response("".join([piece async for piece in pieces]), headers=dict(headers))
    return StreamedListing(request, pieces, headers)


class StreamedListing(StreamingResponse):
    """A response that is sent while the storage is read; to HEAD its headers alone, without reading.

    It is aborted when the storage fails, so that no client takes it for complete.
    """

    def __init__(self, request: Request, pieces: AsyncIterator[str], headers: Mapping[str, str]) -> None:
        super().__init__(() if request.method == "HEAD" else _yielding(pieces), headers=headers)
        self._path = request.url.path

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        except StorageError as error:
            # The server closes the connection of an incomplete response.
            log.error("The response for %r was aborted: %s", self._path, error)


async def _yielding(pieces: AsyncIterator[str]) -> AsyncIterator[str]:
    async for piece in pieces:
        yield piece
        await asyncio.sleep(0)  # a send() to a fast reader does not yield: let other tasks run
