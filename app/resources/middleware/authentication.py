"""Whose a request is, where there are accounts; and that nobody's requests end here."""

import asyncio
import base64
import binascii
import logging
from functools import partial
from urllib.parse import quote

from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from app.accounts.errors import LinkRefused, NotSignedIn, ScopeTooSmall, WrongCredentials
from app.accounts.links import Kind
from app.accounts.models import Scope as TokenScope
from app.accounts.principals import Caller, Callers
from app.accounts.revocation import Watch
from app.resources import docs, session_cookies
from app.resources.dependencies import Services, base_path, route_path
from app.resources.errors import EXPECTED, explained
from app.resources.middleware.host_guard import BASE_URL_HINT, SAFE_METHODS
from app.resources.pages import error_page, is_for_a_person
from app.resources.request_body import client_of
from app.resources.write_only import check_conditions, is_write_only
from app.storage.errors import InvalidName
from app.storage.types import SHARED, Key, normalize_folder

ENDED = "The account, or the login, password, token or link of this request, was revoked meanwhile."

_log = logging.getLogger("seekable")


async def answer_while_admitted(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, watch: Watch, caller: Caller
) -> None:
    """Let the application answer a request until its caller is revoked.

    An answer that has begun is then broken off, and a body that has not ended is refused. A change whose body
    has arrived is made.
    """
    if scope["method"] in SAFE_METHODS:
        await _send_while_admitted(app, scope, receive, send, watch, caller)
        return
    body = _Body(receive)
    with watch.watched(caller, body.end):
        await app(scope, body.receive, send)


async def _send_while_admitted(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, watch: Watch, caller: Caller
) -> None:
    started = False

    async def noted(message: Message) -> None:
        nonlocal started
        started = True
        await send(message)

    try:
        async with asyncio.timeout(None) as admitted:
            with watch.watched(caller, partial(admitted.reschedule, 0)):
                await app(scope, receive, noted)
    except TimeoutError:
        if not admitted.expired():
            raise
        if not started:
            refused = await explained(Request(scope, receive), NotSignedIn(ENDED))
            await refused(scope, receive, send)
            return
        _log.info("The response for %r was aborted: its caller was revoked", scope["path"])


class _Body:
    """The body of one request, which may be refused at any time."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._waiting: asyncio.Timeout | None = None
        self._is_over = False

    def end(self) -> None:
        """Let the call that waits for more of it, or the next one, raise NotSignedIn."""
        self._is_over = True
        if self._waiting is not None:
            self._waiting.reschedule(0)

    async def receive(self) -> Message:
        if not self._is_over:
            try:
                async with asyncio.timeout(None) as waiting:
                    self._waiting = waiting
                    return await self._receive()
            except TimeoutError:
                if not self._is_over:
                    raise
            finally:
                self._waiting = None
        raise NotSignedIn(ENDED)


ASSETS = "/assets/"
"""What pages for everybody are made of; never uploads."""

_FALSE = ("0", "f", "false", "n", "no", "off")
"""What a flag of a query may be instead of true, as the routes read it."""

MAX_CREDENTIALS = 8192
"""Characters of an Authorization."""


class AccessMiddleware:
    """Lets in who is known, as the `caller` of the request's state, and answers all others itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or _is_for_everybody(scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive) if scope["type"] == "http" else WebSocket(scope, receive, send)
        try:
            caller = scope["state"]["caller"] = await _admitted(request)
        except NotSignedIn as error:
            page = _login_page(request) if isinstance(request, Request) else None
            await (page or await explained(request, error))(scope, receive, send)
        except EXPECTED as error:
            await (await _told(request, error))(scope, receive, send)
        else:
            if isinstance(request, Request):
                watch = request.state.services.people.watch
                await answer_while_admitted(self._app, scope, receive, send, watch, caller)
            else:  # which watches its caller itself
                await self._app(scope, receive, send)


async def _told(request: HTTPConnection, error: Exception) -> Response:
    """Why it is refused; of a link as a page, where it is a person who has followed it."""
    if isinstance(error, LinkRefused) and isinstance(request, Request) and is_for_a_person(request):
        return await error_page(request, error)
    return await explained(request, error)


def _is_for_everybody(scope: Scope) -> bool:
    path = route_path(scope)
    return scope["type"] == "http" and (path in docs.FOR_EVERYBODY or path.startswith(ASSETS))


async def _admitted(request: HTTPConnection) -> Caller:
    """The caller, if this one may make this request at all. NotSignedIn, and what `Callers` raises."""
    method = request.scope.get("method", "GET")
    services: Services = request.state.services
    caller = await _caller(request, method, services)
    scope = TokenScope.READ if method in SAFE_METHODS else TokenScope.WRITE
    if scope not in caller.scopes:
        raise ScopeTooSmall(f"This takes a token for {'reading' if scope is TokenScope.READ else 'writing'}.")
    if is_write_only(caller):
        check_conditions(request.headers)
    return caller


async def _caller(request: HTTPConnection, method: str, services: Services) -> Caller:
    people = services.people
    assert people is not None
    callers = people.accounts.callers
    if b"link=" in request.scope["query_string"] and method in SAFE_METHODS:
        query = request.query_params
        if "link" in query:
            return await _linked(callers, route_path(request.scope), query)
    authorization = request.headers.getlist("authorization")
    if authorization:
        return await _authorized(callers, authorization, client_of(request))
    secret = session_cookies.secret_in(request, services.base_url)
    if secret is None:
        raise NotSignedIn("This takes an account: log in, or send a password or a token.")
    if not session_cookies.counts(method, request.headers, base_url=services.base_url):
        raise NotSignedIn(f"A login does not count for pages of other sites. {BASE_URL_HINT}")
    try:
        return await callers.by_session(secret)
    except WrongCredentials as error:
        raise NotSignedIn(str(error)) from None


async def _authorized(callers: Callers, fields: list[str], address: str) -> Caller:
    scheme, _, credentials = fields[0].strip().partition(" ")
    if len(fields) > 1 or len(fields[0]) > MAX_CREDENTIALS:
        raise WrongCredentials("There is one Authorization, or none.")
    match scheme.lower():
        case "bearer":
            return await callers.by_token(credentials.strip())
        case "basic":
            return await callers.by_password(*_basic(credentials.strip()), address)
    raise WrongCredentials("Only Basic and Bearer are known here.")


def _basic(credentials: str) -> tuple[str, str]:
    """The name and the password (RFC 7617)."""
    try:
        name, colon, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        name, colon, password = "", "", ""
    if not colon:
        raise WrongCredentials("The credentials are no name and password in UTF-8, encoded as base64.")
    return name, password


async def _linked(callers: Callers, path: str, query: QueryParams) -> Caller:
    """Who shares what a signed link is for."""
    if any(len(query.getlist(name)) > 1 for name in ("link", "folder", "recursive")):
        raise LinkRefused("A link says each thing once.")
    try:
        if path in ("/playlist.m3u", "/playlist.xspf"):
            folder = normalize_folder(query.get("folder", ""))
            recursive = query.get("recursive", "false").lower() not in _FALSE
            return await callers.by_link(query["link"], Kind.PLAYLIST, folder, recursive=recursive)
        if path.startswith("/files/"):
            return await callers.by_link(query["link"], Kind.FILE, Key.at(SHARED, path[7:]).path)
    except InvalidName:
        pass  # nobody can have signed it
    raise LinkRefused("A link opens one file, or one playlist.")


def _login_page(request: Request) -> Response | None:
    """Where a person who comes by a browser is sent."""
    if not is_for_a_person(request):
        return None
    root = base_path(request.scope)
    path, query = request.scope["raw_path"].decode("latin-1"), request.scope["query_string"].decode("latin-1")
    asked = path.removeprefix(root) + (f"?{query}" if query else "")
    back = f"?next={quote(asked, safe='/')}" if request.method in ("GET", "HEAD") and asked != "/" else ""
    return RedirectResponse(
        f"{root}/login{back}", 303, headers={"cache-control": "no-store", "vary": "accept"}
    )
