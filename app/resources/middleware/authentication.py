"""Authentication of every request, and the end of its response when its caller is revoked meanwhile."""

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable
from functools import partial
from urllib.parse import quote

from starlette.datastructures import Headers, QueryParams
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from app.accounts.errors import LinkRefused, NotSignedIn, ScopeTooSmall, WrongCredentials
from app.accounts.links import LinkKind
from app.accounts.models import Scope as TokenScope
from app.accounts.principals import Authenticator, Generation, Principal
from app.accounts.revocation import RevocationMonitor
from app.http.content_negotiation import PAGE_VARIES_BY, asks_for_page
from app.resources import session_cookies
from app.resources.dependencies import AccountServices, Services, base_path, is_write_only, route_path
from app.resources.errors import EXPECTED_ERRORS, error_response
from app.resources.middleware.host_guard import BASE_URL_HINT, SAFE_METHODS
from app.resources.request_body import client_key
from app.storage.errors import InvalidName
from app.storage.types import SHARED, Key, normalize_folder
from app.streaming.file_response import REPEAT

PUBLIC_PATHS = (
    "/favicon.ico",
    "/help",
    "/login",
    "/sign-up",
    "/health",
    "/health/live",
    "/health/ready",
    "/metrics",
)
"""The paths that need no login."""

API_DOCS_PATHS = ("/docs", "/openapi.json")
"""The paths that need none unless SEEKABLE_API_DOCS=login: they contain nothing of an account."""

PUBLIC_FOLDERS = ("/assets/", "/help/")
"""The paths of scripts, styles and icons, and of the documentation; never of uploads."""

REVOKED = "The account, or the login, password, token or link of this request, was revoked meanwhile."

MAX_CREDENTIALS = 8192
"""Characters of an Authorization header."""

_FALSE = ("0", "f", "false", "n", "no", "off")
"""The values of a query flag that are not true, as pydantic reads it."""

_WRITE_CONDITIONS = ("if-match", "if-none-match", "if-unmodified-since")
"""The preconditions of writes (RFC 9110 §13.1)."""

log = logging.getLogger(__name__)


class AuthenticationMiddleware:
    """Puts the caller into the state of the request, and responds to all requests without one."""

    def __init__(self, app: ASGIApp, *, has_open_docs: bool) -> None:
        self._app = app
        self._public = frozenset((*PUBLIC_PATHS, *(API_DOCS_PATHS if has_open_docs else ())))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._is_public(scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive) if scope["type"] == "http" else WebSocket(scope, receive, send)
        accounts = request.state.services.accounts
        generation = accounts.service.authenticator.generation  # before the caller is looked up
        try:
            principal = scope["state"]["principal"] = await _authorized(request)
        except NotSignedIn as error:
            login = _login_redirect(request) if isinstance(request, Request) else None
            await (login or await error_response(request, error))(scope, receive, send)
        except EXPECTED_ERRORS as error:
            await (await error_response(request, error))(scope, receive, send)
        else:
            if isinstance(request, Request):
                send = partial(_send_restricted, send, accounts, generation, principal)
                await respond_until_revoked(self._app, scope, receive, send, accounts.revocation, principal)
            else:  # the routes of WebSockets watch their callers themselves
                await self._app(scope, receive, send)

    def _is_public(self, scope: Scope) -> bool:
        path = route_path(scope)
        return scope["type"] == "http" and (path in self._public or path.startswith(PUBLIC_FOLDERS))


def _login_redirect(request: Request) -> Response | None:
    """Return a redirect to the login page for browsers; None for other clients."""
    if not asks_for_page(request.scope["headers"]):
        return None
    root = base_path(request.scope)
    path, query = request.scope["raw_path"].decode("latin-1"), request.scope["query_string"].decode("latin-1")
    target = path.removeprefix(root) + (f"?{query}" if query else "")
    is_page = request.method in ("GET", "HEAD") and target != "/"
    location = f"{root}/login" + (f"?next={quote(target, safe='/')}" if is_page else "")
    return RedirectResponse(location, 303, headers={"cache-control": "no-store", "vary": PAGE_VARIES_BY})


async def _authorized(request: HTTPConnection) -> Principal:
    """Return the caller, if its rights include the method. Raises AccountError."""
    method = request.scope.get("method", "GET")
    services: Services = request.state.services
    principal = await _authenticated(request, method, services)
    scope = TokenScope.READ if method in SAFE_METHODS else TokenScope.WRITE
    if scope not in principal.scopes:
        raise ScopeTooSmall(f"This needs a token for {'reading' if scope is TokenScope.READ else 'writing'}.")
    if is_write_only(principal):
        _refuse_preconditions(request.headers)
    return principal


def _refuse_preconditions(headers: Headers) -> None:
    """Raise ScopeTooSmall for a precondition: its outcome reveals what is stored."""
    sent = [name for name in _WRITE_CONDITIONS if name in headers]
    if sent:
        raise ScopeTooSmall(
            f"{sent[0]} needs a token for reading as well: the response would reveal what is stored."
        )


async def _authenticated(request: HTTPConnection, method: str, services: Services) -> Principal:
    """Return the caller by its signed link, Authorization header or session cookie, in this order."""
    assert services.accounts is not None
    authenticator = services.accounts.service.authenticator
    if b"link=" in request.scope["query_string"] and method in SAFE_METHODS:
        query = request.query_params
        if "link" in query:
            return await _by_link(authenticator, route_path(request.scope), query)
    authorization = request.headers.getlist("authorization")
    if authorization:
        return await _by_authorization(authenticator, authorization, client_key(request))
    secret = session_cookies.read(request, services.base_url)
    if secret is None:
        raise NotSignedIn("This needs an account. Log in, or send a password or a token.")
    if not session_cookies.is_accepted(method, request.headers, base_url=services.base_url):
        raise NotSignedIn(f"A login does not count for pages of other sites. {BASE_URL_HINT}")
    try:
        return await authenticator.by_session(secret)
    except WrongCredentials as error:
        raise NotSignedIn(str(error)) from None


async def _by_authorization(authenticator: Authenticator, fields: list[str], address: str) -> Principal:
    scheme, _, credentials = fields[0].strip().partition(" ")
    if len(fields) > 1 or len(fields[0]) > MAX_CREDENTIALS:
        raise WrongCredentials(f"Send one Authorization header, of at most {MAX_CREDENTIALS:,} characters.")
    match scheme.lower():
        case "bearer":
            return await authenticator.by_token(credentials.strip())
        case "basic":
            return await authenticator.by_password(*_parse_basic(credentials.strip()), address)
    raise WrongCredentials("Use the Authorization scheme Basic or Bearer.")


def _parse_basic(credentials: str) -> tuple[str, str]:
    """Return the name and the password (RFC 7617)."""
    try:
        name, colon, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        name, colon, password = "", "", ""
    if not colon:
        raise WrongCredentials("Basic credentials must be base64 of NAME:PASSWORD in UTF-8.")
    return name, password


async def _by_link(authenticator: Authenticator, path: str, query: QueryParams) -> Principal:
    """Return the account whose signed link opens this path."""
    if any(len(query.getlist(name)) > 1 for name in ("link", "folder", "recursive")):
        raise LinkRefused("A link may not repeat a parameter.")
    try:
        if path in ("/playlist.m3u", "/playlist.xspf"):
            folder = normalize_folder(query.get("folder", ""))
            recursive = query.get("recursive", "false").lower() not in _FALSE
            return await authenticator.by_link(query["link"], LinkKind.PLAYLIST, folder, recursive=recursive)
        if path.startswith("/files/"):
            return await authenticator.by_link(query["link"], LinkKind.FILE, Key.at(SHARED, path[7:]).path)
    except InvalidName:
        pass  # no link can have been signed for it
    raise LinkRefused("A link opens one file or one playlist, not this address.")


async def _send_restricted(
    send: Send, accounts: AccountServices, generation: Generation, principal: Principal, message: Message
) -> None:
    """Send a message. A permission to repeat the answer ends when the caller would be looked up again."""
    permission = message.get(REPEAT)
    if permission:
        known_until = accounts.service.authenticator.known_until(principal)
        permission["until"] = min(permission["until"], known_until)
        permission["validity"] = generation
        permission["rest"] = partial(_rest, permission["rest"], accounts.revocation, principal)
    await send(message)


def _rest(
    rest: Callable[[int, int], ASGIApp],
    revocation: RevocationMonitor,
    principal: Principal,
    start: int,
    stop: int,
) -> ASGIApp:
    """Return the application that sends the rest of a repeated answer until the caller is revoked."""
    return partial(
        _send_until_revoked,
        rest(start, stop),
        revocation=revocation,
        principal=principal,
        started=True,
    )


async def respond_until_revoked(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    revocation: RevocationMonitor,
    principal: Principal,
) -> None:
    """Let the application respond until the caller is revoked.

    Then a response that has begun is aborted, and a body that has not ended is rejected. A change whose body
    has arrived is carried out.
    """
    if scope["method"] in SAFE_METHODS:
        await _send_until_revoked(app, scope, receive, send, revocation, principal)
        return
    body = _RevocableBody(receive)
    with revocation.watch(principal, body.revoke):
        await app(scope, body.receive, send)


async def _send_until_revoked(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    revocation: RevocationMonitor,
    principal: Principal,
    *,
    started: bool = False,
) -> None:
    """Let the application respond until the caller is revoked; `started` if the response has begun."""

    async def send_noting_start(message: Message) -> None:
        nonlocal started
        started = True
        await send(message)

    try:
        async with asyncio.timeout(None) as admission:
            with revocation.watch(principal, partial(admission.reschedule, 0)):
                await app(scope, receive, send_noting_start)
    except TimeoutError:
        if not admission.expired():
            raise
        if not started:
            response = await error_response(Request(scope, receive), NotSignedIn(REVOKED))
            await response(scope, receive, send)
            return
        log.info("The response for %r was aborted: its caller was revoked", scope["path"])


class _RevocableBody:
    """The body of a request, which can be rejected while it arrives."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._waiting: asyncio.Timeout | None = None
        self._is_revoked = False

    def revoke(self) -> None:
        """Make the pending call of receive(), or the next one, raise NotSignedIn."""
        self._is_revoked = True
        if self._waiting is not None:
            self._waiting.reschedule(0)

    async def receive(self) -> Message:
        if not self._is_revoked:
            try:
                async with asyncio.timeout(None) as waiting:
                    self._waiting = waiting
                    return await self._receive()
            except TimeoutError:
                if not self._is_revoked:
                    raise
            finally:
                self._waiting = None
        raise NotSignedIn(REVOKED)
