"""Uploads: a form, or the body of a PUT, becomes a stored file."""

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from app.accounts.principals import Principal
from app.http.conditions import has_write_condition
from app.http.digest_fields import declared_digests
from app.http.errors import IncompleteBody, UnsupportedForm
from app.http.multipart import FormReader, boundary_of
from app.library.quotas import QuotaReservation
from app.resources.dependencies import (
    KeyDep,
    LibraryDep,
    PrincipalDep,
    Services,
    ServicesDep,
    base_url,
    file_url,
    is_write_only,
    library_of,
    owner_of,
    parse_query,
    require_writable,
    route_path,
)
from app.resources.errors import EXPECTED_ERRORS, error_response, problems
from app.resources.files import CONDITIONS, Receipt, StoredFile, expectation, files_json
from app.resources.openapi import request_headers, response_headers
from app.resources.rendering import JSON
from app.resources.request_body import declared_length, refuse_encoding
from app.storage.contract import SMALL_UPLOAD, find_file
from app.storage.errors import AlreadyExists, VersionMismatch
from app.storage.types import Expect, Expectation, FileFields, FileInfo, Key
from app.streaming.plan import repr_digest
from app.uploads.service import MAX_SID_LENGTH

SMALL_FORM = 64 << 10
"""Bytes of a form that arrives before a look-up of its name would end: only its commit finds a conflict."""

form_router = APIRouter()
put_router = APIRouter()

_SID = "The sid of a WebSocket at /, which then receives the progress of the upload."


_STORED = {"headers": response_headers("Location", "ETag", "Repr-Digest")}
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "title": "FileUpload",
                    "description": "A form with a file.",
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "folder": {
                            "type": "string",
                            "default": "",  # or the API docs fill in an example
                            "description": "The folder to store it in; the top if absent.",
                        },
                        "sid": {
                            "type": "string",
                            "maxLength": MAX_SID_LENGTH,
                            "default": "",
                            "description": _SID,
                        },
                    },
                }
            }
        },
    }
}
_RAW: dict[str, Any] = {
    **request_headers(*CONDITIONS, "If-None-Match", "Content-Digest", "Repr-Digest"),
    "requestBody": {
        "required": False,  # without a body the file is empty
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
}

Sid = Annotated[str | None, Query(max_length=MAX_SID_LENGTH, description=_SID)]


@form_router.post(
    "/file/upload",
    operation_id="files_upload",
    summary="Upload a file from a form",
    dependencies=[Depends(require_writable)],
    status_code=201,
    response_model=StoredFile | Receipt,
    openapi_extra=_FORM,
    responses={
        201: {"description": "Stored.", **_STORED},
        **problems(400, 403, 409, 413, 415, 422, 503, 507),
    },
)
async def upload_file(
    request: Request,
    services: ServicesDep,
    library: LibraryDep,
    principal: PrincipalDep,
    folder: Annotated[str | None, Query(description="The folder, if the form has no such field.")] = None,
    sid: Sid = None,
) -> Response:
    """Store a new file from a form; never over another (409). The fields may come in any order."""
    form = FormReader(boundary_of(request.headers.get("content-type")))
    refuse_encoding(request, UnsupportedForm)
    async with _reserve(services, principal) as reservation:
        info = await services.uploads.receive_form(
            library,
            folder,
            form,
            request.stream(),
            length=declared_length(request),
            sid=sid,
            reservation=reservation,
            early=not (is_write_only(principal) or _is_at_most(SMALL_FORM, request)),
        )
    return _created(request, services, info, principal)


@put_router.put(
    "/files/{path:rest}",
    operation_id="files_put",
    summary="Store a file at a path",
    dependencies=[Depends(require_writable)],
    response_model=StoredFile | Receipt,
    status_code=201,
    openapi_extra=_RAW,
    responses={
        201: {"description": "Stored as a new file.", **_STORED},
        204: {"description": "Replaced.", "headers": response_headers("ETag", "Repr-Digest")},
        **problems(400, 403, 409, 412, 413, 415, 422, 503, 507),
    },
)
async def put_file(
    request: Request, services: ServicesDep, key: KeyDep, principal: PrincipalDep, sid: Sid = None
) -> Response:
    """Store the body at this path, as a new file (201) or over an existing one (204)."""
    if "content-range" in request.headers:  # RFC 9110 §14.5
        raise IncompleteBody("A PUT stores a whole file. Send it without a Content-Range.")
    refuse_encoding(request, UnsupportedForm)
    content_type = request.headers.get("content-type")
    if content_type is not None and content_type.lower().startswith("multipart/form-data"):
        raise UnsupportedForm("A PUT stores its body as it is. Send forms to POST /file/upload.")
    is_blind = is_write_only(principal)
    # The commit of a small file decides by itself, and sooner than a look-up. Only these need one.
    needs_current = has_write_condition(request.scope["headers"]) or _has_quota(services, principal)
    is_small = _is_at_most(SMALL_UPLOAD, request)
    current = None
    if not is_blind and (needs_current or not is_small):
        current = await find_file(services.storage, key)
    expect = expectation("PUT", request.scope["headers"], current)
    fields = request.headers
    declared = declared_digests(
        [*fields.getlist("content-digest"), *fields.getlist("repr-digest")],
        fields.getlist("digest"),
        fields.getlist("content-md5"),
    )
    try:
        async with _reserve(services, principal, replacing=current) as reservation:
            committed = await services.uploads.receive_raw(
                key,
                request.stream(),
                length=declared_length(request),
                declared=declared,
                content_type=content_type,
                expect=expect,
                sid=sid,
                reservation=reservation,
                early=not (is_blind or is_small),
            )
    except AlreadyExists as error:
        raise _as_precondition(error, expect) from None
    if committed.created:
        return _created(request, services, committed.info, principal)
    return Response(status_code=204, headers=_version(committed.info, principal))


def _is_at_most(size: int, request: Request) -> bool:
    """Return whether the client sends a body of at most so many bytes, without waiting for a 100."""
    length = declared_length(request)
    return length is not None and length <= size and "expect" not in request.headers


def _has_quota(services: Services, principal: Principal | None) -> bool:
    if principal is None or services.accounts is None:
        return False
    return services.accounts.quotas.of(principal.account) is not None


def _reserve(
    services: Services, principal: Principal | None, *, replacing: FileInfo | None = None
) -> AbstractAsyncContextManager[QuotaReservation | None]:
    """Reserve quota for an upload; without accounts, nothing."""
    if principal is None or services.accounts is None:
        return nullcontext()
    early = not is_write_only(principal)
    return services.accounts.quotas.reserve(principal.account, replacing=replacing, early=early)


def _as_precondition(error: AlreadyExists, expect: Expectation) -> Exception:
    """Return the error that `If-None-Match: *` makes of an existing file: 412, not 409 (RFC 9110 §13.1.2)."""
    return VersionMismatch(str(error)) if expect is Expect.ABSENT else error


def _created(request: Request, services: Services, info: FileInfo, principal: Principal | None) -> Response:
    base = base_url(request, services.base_url)
    if is_write_only(principal):
        content: Receipt | bytes = Receipt(path=info.key.path, etag=info.etag)
    else:
        content = files_json([FileFields.of(info)], base, owner_of(principal))
    headers = {"location": file_url(base, info.key), **_version(info, principal)}
    return JSON(content, 201, headers=headers)


def _version(info: FileInfo, principal: Principal | None) -> dict[str, str]:
    digest = {}
    if info.sha256 and not is_write_only(principal):
        digest = {"repr-digest": repr_digest(info.sha256)}
    return {"etag": f'"{info.etag}"', **digest}


class _PutQuery(BaseModel):
    sid: Sid = None


class _FormQuery(_PutQuery):
    folder: str | None = None


class UploadMiddleware:
    """Responds to requests of the routes above; FastAPI only documents them.

    A client may upload hundreds of small files per second, and FastAPI takes longer to route a request and to
    solve the dependencies of its endpoint than the event loop needs for all the rest.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("PUT", "POST"):
            path = route_path(scope)
            for route in _ROUTES:
                if scope["method"] in (route.methods or ()) and (match := route.path_regex.match(path)):
                    # As a router does: the metrics and library_of read the route.
                    scope.update(route=route, endpoint=route.endpoint, path_params=match.groupdict())
                    request = Request(scope, receive)
                    try:
                        response = await _stored(request)
                    except EXPECTED_ERRORS as error:
                        response = await error_response(request, error)
                    await response(scope, receive, send)
                    return
        await self._app(scope, receive, send)


_ROUTES = [
    route for router in (form_router, put_router) for route in router.routes if isinstance(route, APIRoute)
]


async def _stored(request: Request) -> Response:
    """Call the endpoint with what it depends on, in FastAPI's order. Raises EXPECTED_ERRORS."""
    scope = request.scope
    services: Services = scope["state"]["services"]
    principal: Principal | None = scope["state"].get("principal")
    await require_writable(services)
    library, raw = library_of(scope), scope["query_string"]
    response: Response
    if scope["endpoint"] is put_file:
        key = Key.at(library, scope["path_params"]["path"])
        sid = parse_query(_PutQuery, raw).sid if raw else None
        response = await put_file(request, services, key, principal, sid)
    else:
        query = parse_query(_FormQuery, raw)
        response = await upload_file(request, services, library, principal, query.folder, query.sid)
    return response
