"""Which files a request is about."""

from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response

from app.http.media_types import canonical
from app.resources.dependencies import CallerDep, Flag, LibraryDep, ServicesDep, base_url, owner_of
from app.resources.problems import problems
from app.resources.schemas import File, FileList
from app.storage.types import Listing, Sort, normalize_folder

Order = Annotated[
    Literal["name", "-name", "size", "-size", "created_at", "-created_at", "updated_at", "-updated_at"],
    Query(description="With `-` from the greatest to the least."),
]

# RFC 6838 4.2, with `video` and `video/*` for all of a kind.
_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_TYPE = rf"^({_NAME}(/(\*|{_NAME}))?)?$"

Words = Annotated[
    str, Query(max_length=255, description="Words, each the beginning of a word in the filename.")
]


def ordered(sort: str) -> tuple[Sort, bool]:
    """What an Order says: by what, and whether from the greatest to the least."""
    return Sort(sort.removeprefix("-")), sort.startswith("-")


async def listing(
    library: LibraryDep,
    folder: Annotated[str, Query(description="The top if absent.")] = "",
    recursive: Annotated[Flag, Query(description="Also all that is in the folders inside.")] = False,
    q: Words = "",
    type: Annotated[
        str, Query(pattern=_TYPE, description="Media type: `video/mp4`, or `video` for all videos.")
    ] = "",
    sort: Order = "name",
) -> Listing:
    """The files that the query of the URL asks for."""
    kind = canonical(type.removesuffix("/*"))
    by, descending = ordered(sort)
    return Listing(library, normalize_folder(folder), recursive, q, kind, by, descending)


ListingDep = Annotated[Listing, Depends(listing)]


router = APIRouter(tags=["files"])


@router.head("/files", include_in_schema=False)
@router.get("/files", response_model=FileList, responses=problems(400, 422, 503))
async def list_files(
    request: Request,
    services: ServicesDep,
    listing: ListingDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(description="From the page before.")] = None,
) -> Response:
    """The files of a folder, page by page. The order is by bytes, and by path where the rest is equal."""
    page = await services.storage.page(listing, cursor=cursor, limit=limit)
    base = base_url(request, services.base_url)
    headers = {"cache-control": "private, no-cache"}  # or caches guess how long it is fresh (RFC 9111 4.2.2)
    if page.next_cursor is not None:
        asked = ((name, request.query_params.get(name)) for name in ("recursive", "q", "type", "sort"))
        given = {name: value for name, value in asked if value is not None}
        query = {"folder": listing.folder, **given, "limit": limit, "cursor": page.next_cursor}
        headers["link"] = f'<{base}/files?{urlencode(query)}>; rel="next"'  # RFC 8288
    files = FileList(
        folder=listing.folder,
        folders=list(page.folders),
        items=[File.of(info, base, owner_of(caller)) for info in page.items],
        next_cursor=page.next_cursor,
    )
    # Written here, once: the framework would check all of it again, and others would wait for that.
    return Response(files.model_dump_json(), headers=headers, media_type="application/json")
