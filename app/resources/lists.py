"""Lists of stored files: of a folder or all beneath it, of those that are looked for, in any order."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from app.resources.deps import CallerDep, ServicesDep, base_url, owner_of
from app.resources.listing import ListingDep
from app.resources.problems import problems
from app.resources.schemas import File, FileList

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
