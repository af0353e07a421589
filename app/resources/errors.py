"""The one table from errors to statuses."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Match

from app.accounts import errors as accounts
from app.events import connections
from app.http import errors as bodies
from app.http.merge_patch import MEDIA_TYPE
from app.http.ranges import RangeNotSatisfiable
from app.library.quotas import QuotaExceeded
from app.resources.autoindex import TooManyFolders
from app.resources.problems import challenge, problem
from app.resources.sockets import NoWebSocket
from app.storage import errors as storage

STATUS: dict[type[Exception], int] = {
    accounts.NotSignedIn: 401,
    accounts.WrongCredentials: 401,
    accounts.NotPermitted: 403,
    accounts.LinkRefused: 403,
    accounts.SignUpRefused: 403,
    accounts.UnknownAccount: 404,
    accounts.EmailTaken: 409,
    accounts.LastAdministrator: 409,
    accounts.BadCredentials: 422,
    accounts.TooManyAttempts: 429,
    storage.ReadOnly: 403,
    storage.InvalidName: 400,
    storage.InvalidCursor: 400,
    storage.NotFound: 404,
    storage.AlreadyExists: 409,
    storage.PathConflict: 409,
    storage.VersionMismatch: 412,
    storage.Truncated: 500,
    storage.StorageUnavailable: 503,
    storage.OutOfSpace: 507,
    connections.TooManyConnections: 503,
    NoWebSocket: 426,
    bodies.BadForm: 400,
    bodies.BadDigest: 400,
    bodies.IncompleteBody: 400,
    bodies.TooLarge: 413,
    bodies.UnsupportedForm: 415,
    bodies.BadPatch: 400,
    bodies.UnsupportedPatch: 415,
    RangeNotSatisfiable: 416,
    TooManyFolders: 501,
    QuotaExceeded: 507,
}

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


async def _domain(request: HTTPConnection, error: Exception) -> Response:
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    headers = {"retry-after": "5"} if status == 503 else {}
    if isinstance(error, accounts.TooManyAttempts):
        headers["retry-after"] = str(error.retry_after)
    if status == 401:
        headers["www-authenticate"] = challenge(request.headers)
    if isinstance(error, accounts.ScopeTooSmall):
        headers["www-authenticate"] = 'Bearer error="insufficient_scope"'  # RFC 6750 3.1
    if isinstance(error, NoWebSocket):
        headers |= {"upgrade": "websocket", "connection": "upgrade"}  # RFC 9110 7.8, 15.5.22
    if isinstance(error, RangeNotSatisfiable):
        headers["content-range"] = f"bytes */{error.size}"
    if isinstance(error, bodies.UnsupportedPatch):
        headers["accept-patch"] = MEDIA_TYPE  # RFC 5789 2.2
    return problem(status, str(error), headers)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
    return problem(422, "; ".join(faults))


async def _http(request: Request, error: HTTPException) -> Response:
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 405:
        headers["allow"] = ", ".join(_allowed(request))
    detail = error.detail
    if detail == HTTPStatus(error.status_code).phrase:
        detail = f"{request.url.path}: {detail.lower()}."  # no method: HEAD and GET give the same headers
    return problem(error.status_code, detail, headers)


def _allowed(request: Request) -> list[str]:
    """All methods of a path: the router's own 405 names those of one route only (RFC 9110 10.2.1)."""
    routes = request.app.router.routes
    return [
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]


async def _left(request: Request, error: Exception) -> Response:
    # Nobody reads this answer. A client that leaves is no error.
    return problem(400, "The client left before the end of its request.")


async def _unexpected(request: Request, error: Exception) -> Response:
    return problem(500, "The server made a mistake; its log says more.")


Handler = Callable[[Any, Any], Coroutine[Any, Any, Response]]

HANDLERS: dict[int | type[Exception], Handler] = {
    **dict.fromkeys(STATUS, _domain),
    RequestValidationError: _invalid,
    HTTPException: _http,
    ClientDisconnect: _left,
    Exception: _unexpected,
}


EXPECTED: tuple[type[Exception], ...] = (*STATUS, RequestValidationError, HTTPException, ClientDisconnect)
"""Errors that are answers. Any other is a mistake of the program, for the log."""


async def explained(request: HTTPConnection, error: Exception) -> Response:
    """The answer to an error of the table, for who tells it otherwise."""
    handler = next(HANDLERS[kind] for kind in type(error).__mro__ if kind in HANDLERS)
    return await handler(request, error)
