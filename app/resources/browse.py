"""The page at /: what is in a folder, what a search finds, and one file with its player."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.resources.deps import LibraryDep, ServicesDep
from app.resources.listing import Order, Words, ordered
from app.resources.pages import ASSETS, PageRoute, kind_of, page
from app.storage import cursors
from app.storage.contract import Storage
from app.storage.errors import InvalidName, NotFound
from app.storage.types import MAX_FOLDERS, FileInfo, Key, Listing, clean_folder
from app.streaming.disposition import is_inline

PAGE_SIZE = 100

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.head("/favicon.ico")
@router.get("/favicon.ico")
async def favicon(request: Request) -> Response:
    """The icon for what is no page of ours, such as a film in a tab of its own."""
    return await ASSETS.unreleased(request, "favicon.ico")


@router.head("/")
@router.get("/")
async def index(
    request: Request,
    services: ServicesDep,
    library: LibraryDep,
    folder: str = "",
    q: Words = "",
    sort: Order = "name",
    cursor: Annotated[str | None, Query()] = None,
    play: str = "",
) -> Response:
    """What is in a folder, what a search beneath it finds, or one file with its player."""
    if play:
        return await _player(request, services.storage, Key.at(library, play))
    q = q.strip()
    by, descending = ordered(sort)
    listing = Listing(
        library, clean_folder(folder), recursive=bool(q), query=q, sort=by, descending=descending
    )
    found = await services.storage.page(listing, cursor=cursor or None, limit=PAGE_SIZE)
    return page(
        request,
        "list.html",
        folder=listing.folder,
        trail=bool(q),
        page=found,
        more_folders=len(found.folders) >= MAX_FOLDERS,
        q=q,
        order="" if sort == "name" else sort,
        later=bool(cursor),
    )


async def _player(request: Request, storage: Storage, key: Key) -> Response:
    info = await storage.stat(key)
    kind = kind_of(info.content_type)
    subtitles = await _subtitles(storage, key) if kind == "video" else None
    before, after = [await _neighbour(storage, key, kind, back=back) for back in (True, False)]
    return page(
        request,
        "play.html",
        folder=key.folder,
        trail=True,
        info=info,
        kind=kind,
        inline=is_inline(info.content_type),
        subtitles=subtitles,
        before=before,
        after=after,
    )


async def _subtitles(storage: Storage, film: Key) -> FileInfo | None:
    """The ones that have the name of the film."""
    stem = film.filename.rpartition(".")[0] or film.filename
    try:
        return await storage.stat(Key(film.library, film.folder, f"{stem}.vtt"))
    except (NotFound, InvalidName):  # such as one that is too long
        return None


async def _neighbour(storage: Storage, key: Key, kind: str, *, back: bool) -> FileInfo | None:
    """The one of the same kind that comes before or after it in its folder."""
    if not kind:
        return None
    listing = Listing(key.library, key.folder, content_type=kind, descending=back)
    cursor = cursors.encode(listing, cursors.Position(None, key.folder, key.filename))
    found = await storage.page(listing, cursor=cursor, limit=1)
    return found.items[0] if found.items else None
