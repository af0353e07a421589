"""Lists of stored files: of a folder or all beneath it, of those that are looked for, in any order."""

from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from app.resources.deps import LibraryDep, ServicesDep, base_url
from app.resources.problems import problems
from app.resources.schemas import File, FileList
from app.storage.types import Listing, Sort, clean_folder

router = APIRouter(tags=["files"])

Order = Literal[
    "name", "-name", "size", "-size", "created_at", "-created_at", "updated_at", "-updated_at"
]  # fmt: skip

# RFC 6838 4.2, with `video` and `video/*` for all of a kind.
_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_TYPE = rf"^({_NAME}(/(\*|{_NAME}))?)?$"

MAX_QUERY = 255
"""Characters: a filename has no more."""


@router.head("/files", include_in_schema=False)
@router.get("/files", response_model=FileList, responses=problems(400, 422, 503))
async def list_files(
    request: Request,
    response: Response,
    services: ServicesDep,
    library: LibraryDep,
    folder: Annotated[str, Query(description="The top if absent.")] = "",
    recursive: Annotated[bool, Query(description="Also all that is in the folders inside.")] = False,
    q: Annotated[
        str,
        Query(max_length=MAX_QUERY, description="Words, each the beginning of a word in the filename."),
    ] = "",
    type: Annotated[
        str, Query(pattern=_TYPE, description="Media type: `video/mp4`, or `video` for all videos.")
    ] = "",
    sort: Annotated[Order, Query(description="With `-` from the greatest to the least.")] = "name",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(description="From the page before.")] = None,
) -> FileList:
    """The files of a folder, page by page. The order is by bytes, and by path where the rest is equal."""
    listing = Listing(
        library,
        folder=clean_folder(folder),
        recursive=recursive,
        query=q,
        content_type=type.lower().removesuffix("/*"),
        sort=Sort(sort.removeprefix("-")),
        descending=sort.startswith("-"),
    )
    page = await services.storage.page(listing, cursor=cursor, limit=limit)
    base = base_url(request, services.base_url)
    if page.next_cursor is not None:
        asked = {"recursive": str(recursive).lower(), "q": q, "type": type, "sort": sort}
        given = {name: value for name, value in asked.items() if name in request.query_params}
        query = {"folder": listing.folder, **given, "limit": limit, "cursor": page.next_cursor}
        response.headers["link"] = f'<{base}/files?{urlencode(query)}>; rel="next"'  # RFC 8288
    return FileList(
        folder=listing.folder,
        folders=list(page.folders),
        items=[File.of(info, base) for info in page.items],
        next_cursor=page.next_cursor,
    )
