"""The page at /: what is in a folder, what a search finds, and one file with its player."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.http.content_disposition import is_inline
from app.resources import session_cookies
from app.resources.dependencies import LibraryDep, ManagerDep, PeopleDep, Services, ServicesDep, route_path
from app.resources.listing import Order, Words, ordered
from app.resources.pages import ASSETS, PageRoute, kind_of, page
from app.storage import cursors
from app.storage.contract import Storage
from app.storage.errors import InvalidName, NotFound
from app.storage.types import MAX_FOLDERS, FileInfo, Key, Listing, normalize_folder

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
        library, normalize_folder(folder), recursive=bool(q), query=q, sort=by, descending=descending
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


Text = Annotated[str, Query(max_length=4096)]
Here = Annotated[bool, Query(description="Show the form, though the browser may drop its cookie.")]


account_pages = APIRouter(include_in_schema=False, route_class=PageRoute)
"""Registered only where there are accounts."""


@account_pages.head("/login")
@account_pages.get("/login")
async def login(
    request: Request, services: ServicesDep, people: PeopleDep, next: Text = "", here: Here = False
) -> Response:
    """A form, which works without scripts."""
    if not here and _is_lost(request, services):
        return elsewhere(request)
    return page(request, "login.html", message="", email="", next=next, sign_up=people.accounts.is_open)


@account_pages.head("/sign-up")
@account_pages.get("/sign-up")
async def sign_up(request: Request, services: ServicesDep, invite: Text = "", here: Here = False) -> Response:
    """A form, which works without scripts."""
    if not here and _is_lost(request, services):
        return elsewhere(request)
    return page(request, "sign-up.html", message="", email="", invite=invite)


@account_pages.head("/settings")
@account_pages.get("/settings")
async def settings(request: Request, caller: ManagerDep) -> Response:
    """What an account has: its password, tokens, links, invites; its script asks the JSON routes."""
    return page(request, "settings.html")


def elsewhere(request: Request, status: int = 200) -> Response:
    """Explain that the browser keeps no login here, and link to the same page at the base URL."""
    query = f"?{request.url.query}" if request.url.query else ""
    return page(
        request,
        "elsewhere.html",
        status,
        path=route_path(request.scope),
        query=query,
        may_be_wrong=session_cookies.may_be_secure(request.headers) and request.method != "POST",
        message="",
    )


def _is_lost(request: Request, services: Services) -> bool:
    return session_cookies.is_lost(
        request.headers, scheme=request.scope["scheme"], base_url=services.base_url
    )
