"""The one table from errors to statuses, and the problem documents of RFC 9457."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Match

from app.accounts import errors as accounts
from app.events import connections
from app.http import errors as bodies
from app.http.content_negotiation import PAGE_VARIES_BY, asks_for_page
from app.http.ranges import RangeNotSatisfiable
from app.library.quotas import QuotaExceeded
from app.resources.dependencies import route_path
from app.resources.rendering import JSON, page
from app.resources.request_body import MERGE_PATCH, InvalidFields
from app.storage import errors as storage


class WebSocketRequired(Exception):
    """An HTTP request to a path that only serves WebSockets."""


class TooManyFolders(Exception):
    """A folder contains more folders than the storage lists."""


STATUS: dict[type[Exception], int] = {
    accounts.NotSignedIn: 401,
    accounts.WrongCredentials: 401,
    accounts.NotPermitted: 403,
    accounts.LinkRefused: 403,
    accounts.SignUpRefused: 403,
    accounts.UnknownRecord: 404,
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
    bodies.BadForm: 400,
    bodies.BadDigest: 400,
    bodies.IncompleteBody: 400,
    bodies.TooLarge: 413,
    bodies.UnsupportedForm: 415,
    bodies.BadPatch: 400,
    bodies.UnsupportedPatch: 415,
    InvalidFields: 422,
    RangeNotSatisfiable: 416,
    WebSocketRequired: 426,
    TooManyFolders: 501,
    QuotaExceeded: 507,
}

EXPECTED_ERRORS: tuple[type[Exception], ...] = (
    *STATUS,
    RequestValidationError,
    HTTPException,
    ClientDisconnect,
)
"""The errors that are responses. Any other is a bug, and goes to the log."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class Problem(BaseModel):
    """Why a request failed."""

    title: str = Field(description="The phrase of the status.", examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(description="What went wrong, and the remedy.", examples=["There is no such file."])


PROBLEMS = {
    400: ("BadRequest", "A name, a digest or the body is invalid."),
    401: ("Unauthorized", "The request has no credentials, or wrong ones."),
    403: ("Forbidden", "The caller may not do this, or the library is read-only."),
    404: ("NotFound", "There is no such thing, or it belongs to another account."),
    409: ("Conflict", "The name is taken."),
    412: ("PreconditionFailed", "The file is not the version that the request's conditions require."),
    413: ("ContentTooLarge", "The body is longer than the server permits."),
    415: ("UnsupportedMediaType", "The body has another type or encoding than the route reads."),
    416: ("RangeNotSatisfiable", "The file ends before the ranges begin."),
    422: ("UnprocessableContent", "A parameter, or a member of the body, is missing or invalid."),
    429: ("TooManyRequests", "There were too many attempts to log in."),
    503: ("ServiceUnavailable", "A database or a storage does not respond, or the server is being stopped."),
    507: ("InsufficientStorage", "The disk or the quota of the account is full."),
}
"""The names of problem responses in the OpenAPI document, and their descriptions."""


_PHRASES = {413: "Content Too Large", 416: "Range Not Satisfiable", 422: "Unprocessable Content"}
"""Phrases that Python has in older words before 3.13."""


def phrase(status: int) -> str:
    """Return the reason phrase of a status (RFC 9110 §15)."""
    return _PHRASES.get(status) or HTTPStatus(status).phrase


def problem_response(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSON(
        Problem(title=phrase(status), status=status, detail=printable(detail)),
        status,
        headers={"cache-control": "no-store", "x-content-type-options": "nosniff", **(headers or {})},
        media_type="application/problem+json",
    )


def printable(text: str) -> str:
    """Return the text with escapes for lone surrogates of a rejected name, which UTF-8 cannot encode."""
    return text.encode(errors="backslashreplace").decode()


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI references to problem responses with these statuses."""
    return {status: {"$ref": f"#/components/responses/{PROBLEMS[status][0]}"} for status in statuses}


@dataclass(frozen=True)
class Failure:
    """Why a request failed, before it is written as a problem document or as a page."""

    status: int
    detail: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return phrase(self.status)


async def error_response(request: HTTPConnection, error: Exception) -> Response:
    """Return the response to an error: a page to a browser that asks for one, else a problem document."""
    return failure_response(request, failure_of(request, error))


def failure_response(
    request: HTTPConnection,
    failure: Failure,
    as_page: Callable[[HTTPConnection, Failure], Response] | None = None,
) -> Response:
    """Return the response to a failure; `as_page` makes the page of one that refuses our assets as well."""
    method = request.scope.get("method")
    if method not in ("GET", "HEAD"):
        return problem_response(failure.status, failure.detail, failure.headers)
    failure = replace(failure, headers={**failure.headers, "vary": PAGE_VARIES_BY})
    if asks_for_page(request.scope["headers"]):
        return (as_page or failure_page)(request, failure)
    return problem_response(failure.status, failure.detail, failure.headers)


def failure_page(request: HTTPConnection, failure: Failure) -> Response:
    """Return the failure as a page, with the remedy and a link to the list."""
    query, path = request.query_params, route_path(request.scope)
    shown = query.get("play") or query.get("folder") if path == "/" else None  # the parameters of our page
    return page(
        request,
        "error.html",
        failure.status,
        {"cache-control": "no-store", **failure.headers},
        failure=failure,
        thing=printable(shown or path),
    )


def failure_of(request: HTTPConnection, error: Exception) -> Failure:
    """Return the failure that an error of the table means; any other error is a bug."""
    kind = next(kind for kind in type(error).__mro__ if kind in _FAILURES)
    return _FAILURES[kind](request, error)


_BASIC = 'Basic realm="Seekable", charset="UTF-8"'  # RFC 7617, for VLC and curl
BEARER = 'Bearer realm="Seekable"'
"""A challenge that makes no browser show its password dialog (RFC 6750)."""


def _challenge(headers: Headers) -> str:
    """Return the WWW-Authenticate of a 401.

    Our page has a login of its own, so its scripts and media get no challenge that opens the browser's
    password dialog. Only browsers send Sec-Fetch-Mode (Fetch Metadata).
    """
    return _BASIC if headers.get("sec-fetch-mode", "navigate") == "navigate" else BEARER


def _domain_error(request: HTTPConnection, error: Exception) -> Failure:
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    headers = {"retry-after": "5"} if status == 503 else {}
    if isinstance(error, accounts.TooManyAttempts):
        headers["retry-after"] = str(error.retry_after)
    if status == 401:
        headers["www-authenticate"] = _challenge(request.headers)
    if isinstance(error, accounts.ScopeTooSmall):
        headers["www-authenticate"] = 'Bearer error="insufficient_scope"'  # RFC 6750 §3.1
    if isinstance(error, WebSocketRequired):
        headers |= {"upgrade": "websocket", "connection": "upgrade"}  # RFC 9110 §7.8, §15.5.22
    if isinstance(error, RangeNotSatisfiable):
        headers["content-range"] = f"bytes */{error.size}"
    if isinstance(error, bodies.UnsupportedPatch):
        headers["accept-patch"] = MERGE_PATCH  # RFC 5789 §2.2
    return Failure(status, str(error), headers)


def _invalid_parameters(request: Request, error: RequestValidationError) -> Failure:
    faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
    return Failure(422, "; ".join(faults))


def _http_exception(request: Request, error: HTTPException) -> Failure:
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 405:
        headers["allow"] = ", ".join(_allowed_methods(request))
    detail = error.detail
    if detail == HTTPStatus(error.status_code).phrase:
        detail = f"{request.url.path}: {detail.lower()}."  # no method: HEAD and GET give the same headers
    return Failure(error.status_code, detail, headers)


def _allowed_methods(request: Request) -> list[str]:
    """Return all methods of a path; Starlette's 405 lists those of one route only (RFC 9110 §10.2.1)."""
    routes = request.app.router.routes
    return [
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]


def _client_disconnected(request: Request, error: Exception) -> Failure:
    # Never received: it only keeps a client that disconnects from being logged as a bug.
    return Failure(400, "The client disconnected before the end of its request.")


def _bug(request: Request, error: Exception) -> Failure:
    return Failure(500, "The server failed; its log has the details.")


_FAILURES: dict[type[Exception], Callable[[Any, Any], Failure]] = {
    **dict.fromkeys(STATUS, _domain_error),
    RequestValidationError: _invalid_parameters,
    HTTPException: _http_exception,
    ClientDisconnect: _client_disconnected,
    Exception: _bug,
}

Handler = Callable[[Any, Any], Coroutine[Any, Any, Response]]

HANDLERS: dict[int | type[Exception], Handler] = dict.fromkeys(_FAILURES, error_response)
