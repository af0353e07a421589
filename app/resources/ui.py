"""The web page: templates, links and security headers; the list, the player, and the pages of accounts."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.responses import Response

from app.accounts.errors import AccountError
from app.http.content_disposition import is_inline
from app.resources import session_cookies
from app.resources.dependencies import (
    AccountHolderDep,
    AccountsDep,
    LibraryDep,
    Services,
    ServicesDep,
    route_path,
)
from app.resources.errors import failure_of, failure_page
from app.resources.listing import FileOrder, SearchWords, sort_of
from app.resources.rendering import ASSETS, media_kind, page
from app.storage import cursors
from app.storage.contract import Storage
from app.storage.errors import InvalidName, NotFound, StorageError
from app.storage.types import MAX_FOLDERS, FileInfo, Key, Listing, normalize_folder

FILES_PER_PAGE = 100


class PageRoute(APIRoute):
    """A route that responds with a page to errors as well."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_error_page(request: Request) -> Response:
            try:
                return await handle(request)
            except (AccountError, StorageError, RequestValidationError) as error:
                return failure_page(request, failure_of(request, error))

        return handle_with_error_page


router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.head("/favicon.ico")
@router.get("/favicon.ico")
async def favicon(request: Request) -> Response:
    """The icon of addresses that are not pages of ours, such as a film in a tab of its own."""
    return await ASSETS.get_unversioned(request, "favicon.ico")


@router.head("/")
@router.get("/")
async def index(
    request: Request,
    services: ServicesDep,
    library: LibraryDep,
    folder: str = "",
    q: SearchWords = "",
    sort: FileOrder = FileOrder.NAME,
    cursor: Annotated[str | None, Query()] = None,
    play: str = "",
) -> Response:
    """A folder, the results of a search beneath it, or one file with its player."""
    if play:
        return await _player(request, services.storage, Key.at(library, play))
    q = q.strip()
    by, descending = sort_of(sort)
    folder = normalize_folder(folder)
    listing = Listing(library, folder, recursive=bool(q), query=q, sort=by, descending=descending)
    found = await services.storage.page(listing, cursor=cursor or None, limit=FILES_PER_PAGE)
    return page(
        request,
        "list.html",
        folder=folder,
        trail=bool(q),
        page=found,
        more_folders=len(found.folders) >= MAX_FOLDERS,
        q=q,
        order="" if sort is FileOrder.NAME else sort,
        later=bool(cursor),
    )


async def _player(request: Request, storage: Storage, key: Key) -> Response:
    info = await storage.stat(key)
    kind = media_kind(info.content_type)
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
    """Return the WebVTT file with the name of the film."""
    stem = film.filename.rpartition(".")[0] or film.filename
    try:
        return await storage.stat(Key(film.library, film.folder, f"{stem}.vtt"))
    except (NotFound, InvalidName):  # the name may be too long
        return None


async def _neighbour(storage: Storage, key: Key, kind: str, *, back: bool) -> FileInfo | None:
    """Return the next (or previous) file of a kind, such as `video/`, in the folder; None at the end."""
    if not kind:
        return None
    listing = Listing(key.library, key.folder, content_type=kind, descending=back)
    cursor = cursors.encode(listing, cursors.Position(None, key.folder, key.filename))
    found = await storage.page(listing, cursor=cursor, limit=1)
    return found.items[0] if found.items else None


Text = Annotated[str, Query(max_length=4096)]
Here = Annotated[bool, Query(description="Show the form even if the browser may drop its cookie.")]

account_pages = APIRouter(include_in_schema=False, route_class=PageRoute)
"""The pages that exist only with accounts. Their forms work without scripts."""


@account_pages.head("/login")
@account_pages.get("/login")
async def login(
    request: Request, services: ServicesDep, accounts: AccountsDep, next: Text = "", here: Here = False
) -> Response:
    if not here and _is_cookie_dropped(request, services):
        return https_notice(request)
    open_sign_up = accounts.service.is_open
    return page(request, "login.html", message="", email="", next=next, sign_up=open_sign_up)


@account_pages.head("/sign-up")
@account_pages.get("/sign-up")
async def sign_up(request: Request, services: ServicesDep, invite: Text = "", here: Here = False) -> Response:
    if not here and _is_cookie_dropped(request, services):
        return https_notice(request)
    return page(request, "sign-up.html", message="", email="", invite=invite)


@account_pages.head("/settings")
@account_pages.get("/settings")
async def settings(request: Request, principal: AccountHolderDep) -> Response:
    """Password, tokens, links and invites of an account; its script calls the JSON routes."""
    return page(request, "settings.html")


def https_notice(request: Request, status: int = 200) -> Response:
    """Explain that the browser drops a login at this address, and link to the same page at the base URL."""
    query = f"?{request.url.query}" if request.url.query else ""
    return page(
        request,
        "https-notice.html",
        status,
        path=route_path(request.scope),
        query=query,
        may_be_wrong=session_cookies.may_be_secure(request.headers) and request.method != "POST",
        message="",
    )


def _is_cookie_dropped(request: Request, services: Services) -> bool:
    scheme = request.scope["scheme"]
    return session_cookies.is_dropped(request.headers, scheme=scheme, base_url=services.base_url)
