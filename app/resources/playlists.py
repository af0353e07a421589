"""Playlists of folders, for players: VLC, mpv and the like."""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response

from app.media.playlists import M3U, XSPF, Format, Track, is_playable
from app.resources.deps import Services, ServicesDep, base_url, file_url
from app.resources.listing import ListingDep
from app.resources.piecewise import PAGE_SIZE, PiecewiseResponse, pages_from
from app.resources.problems import problems
from app.storage.types import Listing, Page
from app.streaming.disposition import content_disposition

router = APIRouter(tags=["playlists"])


def _answers(format: Format) -> dict[int | str, dict[str, Any]]:
    content = {format.content_type: {"schema": {"type": "string"}}}
    return {200: {"description": "The playlist.", "content": content}, **problems(400, 422, 503)}


@router.head("/playlist.m3u", include_in_schema=False)
@router.get("/playlist.m3u", response_class=Response, responses=_answers(M3U))
async def m3u_playlist(request: Request, services: ServicesDep, listing: ListingDep) -> Response:
    """The films and the music of a folder, as M3U."""
    return await _playlist(request, services, listing, M3U)


@router.head("/playlist.xspf", include_in_schema=False)
@router.get("/playlist.xspf", response_class=Response, responses=_answers(XSPF))
async def xspf_playlist(request: Request, services: ServicesDep, listing: ListingDep) -> Response:
    """The films and the music of a folder, as XSPF."""
    return await _playlist(request, services, listing, XSPF)


async def _playlist(request: Request, services: Services, listing: Listing, format: Format) -> Response:
    name = listing.folder.rpartition("/")[2] or "playlist"
    # Now, while the status can still tell what is wrong.
    first = await services.storage.page(listing, cursor=None, limit=PAGE_SIZE)
    pages = pages_from(first, services.storage, listing)
    pieces = _pieces(pages, format, name, base_url(request, services.base_url))
    return PiecewiseResponse(
        request,
        pieces,
        {
            "content-type": format.content_type,
            # Browsers hand a file to a player, and show a text themselves.
            "content-disposition": content_disposition(f"{name}.{format.extension}", attachment=True),
            "cache-control": "no-cache",
            "x-content-type-options": "nosniff",
        },
    )


async def _pieces(pages: AsyncIterator[Page], format: Format, title: str, base: str) -> AsyncIterator[str]:
    yield format.head(title)
    async for page in pages:
        infos = (info for info in page.items if is_playable(info.content_type))
        yield "".join(format.track(Track(file_url(base, info.key), info.key.filename)) for info in infos)
    yield format.tail
