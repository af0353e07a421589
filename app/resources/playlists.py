"""Playlists of folders, for players such as VLC and mpv."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from app.accounts.links import LinkKind
from app.accounts.principals import Principal
from app.http.content_disposition import content_disposition
from app.media.playlist_formats import M3U, XSPF, Format, PlaylistEntry
from app.media.segments import SegmentFilter
from app.resources.dependencies import PrincipalDep, Services, ServicesDep, base_url, file_url
from app.resources.errors import problems
from app.resources.listing import PAGE_SIZE, ListingDep, listing_response
from app.storage.contract import all_pages
from app.storage.types import FileInfo, Key, Listing, Page

router = APIRouter()


def _responses(format: Format) -> dict[int | str, dict[str, Any]]:
    content = {format.content_type: {"schema": {"type": "string"}}}
    return {200: {"description": "The playlist.", "content": content}, **problems(400, 422, 503)}


@router.head("/playlist.m3u", include_in_schema=False)
@router.get(
    "/playlist.m3u",
    operation_id="playlists_get_m3u",
    summary="Get a folder as an M3U playlist",
    response_class=Response,
    responses=_responses(M3U),
)
async def m3u_playlist(
    request: Request, services: ServicesDep, listing: ListingDep, principal: PrincipalDep
) -> Response:
    """The films and the music of a folder, as M3U."""
    return await _playlist(request, services, listing, principal, M3U)


@router.head("/playlist.xspf", include_in_schema=False)
@router.get(
    "/playlist.xspf",
    operation_id="playlists_get_xspf",
    summary="Get a folder as an XSPF playlist",
    response_class=Response,
    responses=_responses(XSPF),
)
async def xspf_playlist(
    request: Request, services: ServicesDep, listing: ListingDep, principal: PrincipalDep
) -> Response:
    """The films and the music of a folder, as XSPF."""
    return await _playlist(request, services, listing, principal, XSPF)


async def _playlist(
    request: Request, services: Services, listing: Listing, principal: Principal | None, format: Format
) -> Response:
    name = listing.folder.rpartition("/")[2] or "playlist"
    # Before the response begins, so that an error still sets the status.
    first = await services.storage.page(listing, cursor=None, limit=PAGE_SIZE)
    pages = all_pages(services.storage, listing, limit=PAGE_SIZE, first=first)
    base = base_url(request, services.base_url)
    address = await _addresses(request, services, listing, first, principal, base)
    pieces = _pieces(pages, SegmentFilter(services.storage, listing), format, name, address)
    return await listing_response(
        request,
        first,
        pieces,
        {
            "content-type": format.content_type,
            # A browser opens an attachment in a player; inline it would show the text.
            "content-disposition": content_disposition(f"{name}.{format.extension}", attachment=True),
            "cache-control": "private, no-cache",
            "x-content-type-options": "nosniff",
        },
    )


async def _addresses(
    request: Request,
    services: Services,
    listing: Listing,
    first: Page,
    principal: Principal | None,
    base: str,
) -> Callable[[Key], str]:
    """Return the maker of a playlist's addresses; with accounts it signs them, as players have no cookies."""
    # A response without addresses needs no link. A short response to HEAD has the length of that to GET.
    is_head_only = request.method == "HEAD" and first.next_cursor is not None
    if principal is None or services.accounts is None or is_head_only or not first.items:
        return partial(file_url, base)
    accounts = services.accounts.service
    link = await accounts.playlist_link(principal, listing.folder, recursive=listing.recursive)
    link_signer = await accounts.authenticator.link_signer()

    def address(key: Key) -> str:
        return f"{file_url(base, key)}?link={link_signer.sign(link.id, LinkKind.FILE, key.path)}"

    return address


async def _pieces(
    pages: AsyncIterator[Page],
    segments: SegmentFilter,
    format: Format,
    title: str,
    address: Callable[[Key], str],
) -> AsyncIterator[str]:
    def tracks(infos: list[FileInfo]) -> str:
        return "".join(format.track(PlaylistEntry(address(info.key), info.key.filename)) for info in infos)

    yield format.head(title)
    async for page in pages:
        yield tracks(await segments.entries(page.items))
    async for infos in segments.further():
        yield tracks(infos)
    yield format.tail
