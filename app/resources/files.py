"""Stored files: upload, replace, delete."""

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from app.accounts.errors import ScopeTooSmall
from app.accounts.principals import Caller
from app.http.conditions import Verdict, evaluate, has_write_condition
from app.http.digest_fields import declared_digests
from app.http.errors import BadPatch, IncompleteBody, TooLarge, UnsupportedForm, UnsupportedPatch
from app.http.grammar import RawHeaders, field, word_of
from app.http.merge_patch import MEDIA_TYPE, parse_merge_patch
from app.http.multipart import FormReader, boundary_of
from app.library.quotas import QuotaReservation
from app.resources.dependencies import (
    CallerDep,
    KeyDep,
    LibraryDep,
    Services,
    ServicesDep,
    base_url,
    changeable,
    file_url,
    owner_of,
)
from app.resources.problems import problems
from app.resources.request_body import bounded, length_of, refuse_encoding
from app.resources.schemas import File
from app.resources.write_only import is_write_only, receipt, receipt_of_move
from app.storage.errors import AlreadyExists, NotFound, PathConflict, VersionMismatch
from app.storage.types import Expect, Expectation, FileInfo, Key
from app.streaming.plan import repr_digest
from app.uploads.service import MAX_SID_LENGTH

forms = APIRouter(tags=["files"])
router = APIRouter(tags=["files"])

_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "folder": {
                            "type": "string",
                            "default": "",  # or the console fills in an example
                            "description": "Where to put it; the top if absent.",
                        },
                        "sid": {
                            "type": "string",
                            "maxLength": MAX_SID_LENGTH,
                            "default": "",
                            "description": "Who is told of the progress: what the WebSocket / said first.",
                        },
                    },
                }
            }
        },
    }
}
_RAW: dict[str, Any] = {
    "requestBody": {
        "required": False,  # none makes an empty file
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}

Sid = Annotated[
    str | None,
    Query(
        max_length=MAX_SID_LENGTH, description="Who is told of the progress: what the WebSocket / said first."
    ),
]


@forms.post(
    "/file/upload",
    dependencies=[Depends(changeable)],
    status_code=201,
    response_model=File,
    openapi_extra=_FORM,
    responses=problems(400, 403, 409, 413, 415, 422, 503, 507),
)
async def upload_file(
    request: Request,
    services: ServicesDep,
    library: LibraryDep,
    caller: CallerDep,
    folder: Annotated[str | None, Query(description="Where to put it, if no field says so.")] = None,
    sid: Sid = None,
) -> Response:
    """Store a new file from a form; never over another (409). The fields may come in any order."""
    form = FormReader(boundary_of(request.headers.get("content-type")))
    refuse_encoding(request, UnsupportedForm)
    async with _reserve(services, caller) as reservation:
        info = await services.uploads.receive_form(
            library,
            folder,
            form,
            request.stream(),
            length=length_of(request),
            sid=sid,
            reservation=reservation,
            early=not is_write_only(caller),
        )
    return _created(request, services, info, caller)


@router.put(
    "/files/{path:rest}",
    dependencies=[Depends(changeable)],
    response_model=File,
    status_code=201,
    openapi_extra=_RAW,
    responses={204: {"description": "Replaced."}, **problems(400, 403, 409, 412, 413, 415, 422, 503, 507)},
)
async def put_file(
    request: Request, services: ServicesDep, key: KeyDep, caller: CallerDep, sid: Sid = None
) -> Response:
    """Store the body at this path, as a new file (201) or over the one that is there (204)."""
    if "content-range" in request.headers:
        raise IncompleteBody("A PUT stores a whole file; Content-Range is not taken.")  # RFC 9110 14.5
    refuse_encoding(request, UnsupportedForm)
    content_type = request.headers.get("content-type")
    if content_type is not None and content_type.lower().startswith("multipart/form-data"):
        raise UnsupportedForm("A PUT stores its body as it is; forms go to POST /file/upload.")
    early = not is_write_only(caller)
    current = await _current(services, key) if early else None
    expect = expectation("PUT", request.scope["headers"], current)
    fields = request.headers
    declared = declared_digests(
        [*fields.getlist("content-digest"), *fields.getlist("repr-digest")],
        fields.getlist("digest"),
        fields.getlist("content-md5"),
    )
    try:
        async with _reserve(services, caller, replacing=current) as reservation:
            committed = await services.uploads.receive_raw(
                key,
                request.stream(),
                length=length_of(request),
                declared=declared,
                content_type=content_type,
                expect=expect,
                sid=sid,
                reservation=reservation,
                early=early,
            )
    except AlreadyExists as error:
        raise _as_precondition(error, expect) from None
    if committed.created:
        return _created(request, services, committed.info, caller)
    return Response(status_code=204, headers=_version(committed.info, caller))


@router.delete(
    "/files/{path:rest}",
    dependencies=[Depends(changeable)],
    status_code=204,
    response_class=Response,
    responses=problems(400, 403, 404, 412, 422, 503),
)
async def delete_file(request: Request, services: ServicesDep, key: KeyDep) -> Response:
    """Delete a file. Downloads of it that run go on to their end."""
    current = await services.storage.stat(key)
    await services.library.remove(current, expect=expectation("DELETE", request.scope["headers"], current))
    return Response(status_code=204)


def _reserve(
    services: Services, caller: Caller | None, *, replacing: FileInfo | None = None
) -> AbstractAsyncContextManager[QuotaReservation | None]:
    """Reserve a part of the caller's quota for an upload. Reserves nothing without accounts."""
    if caller is None or services.people is None:
        return nullcontext()
    early = not is_write_only(caller)
    return services.people.quotas.reserve(caller.account, replacing=replacing, early=early)


async def _current(services: Services, key: Key) -> FileInfo | None:
    try:
        return await services.storage.stat(key)
    except NotFound:
        return None


def _as_precondition(error: AlreadyExists, expect: Expectation) -> Exception:
    """What If-None-Match: * asked for is a precondition, not a name to be taken (RFC 9110 13.1.2)."""
    return VersionMismatch(str(error)) if expect is Expect.ABSENT else error


def _created(request: Request, services: Services, info: FileInfo, caller: Caller | None) -> Response:
    base = base_url(request, services.base_url)
    if is_write_only(caller):
        return receipt(info, 201, {"location": file_url(base, info.key)})
    file = File.of(info, base, owner_of(caller))
    return Response(
        file.model_dump_json(),
        201,
        headers={"location": file.url, **_version(info, caller)},
        media_type="application/json",
    )


def _version(info: FileInfo, caller: Caller | None) -> dict[str, str]:
    digest = {}
    if info.sha256 and not is_write_only(caller):
        digest = {"repr-digest": repr_digest(info.sha256)}
    return {"etag": f'"{info.etag}"', **digest}


MAX_PATCH_BYTES = 64 << 10
_TOO_LARGE = f"A patch has at most {MAX_PATCH_BYTES} bytes."
_PATCHED = ("folder", "filename")

_PATCH: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            MEDIA_TYPE: {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "folder": {
                            "type": ["string", "null"],
                            "description": "The folder to move it to; null or empty is the top.",
                        },
                        "filename": {"type": "string", "description": "The name to give it."},
                    },
                },
                "example": {"folder": "films", "filename": "another name.mp4"},
            }
        },
    }
}


@router.patch(
    "/files/{path:rest}",
    dependencies=[Depends(changeable)],
    response_model=File,
    openapi_extra=_PATCH,
    responses=problems(400, 403, 404, 409, 412, 413, 415, 422, 503, 507),
)
async def move_file(request: Request, services: ServicesDep, key: KeyDep, caller: CallerDep) -> Response:
    """Move or rename a file; never over another (409). Its id and version stay, and so do the names that
    the body does not mention."""
    _check_type(request)
    target = renamed_key(key, await bounded(request, MAX_PATCH_BYTES, TooLarge(_TOO_LARGE)))
    if is_write_only(caller):
        return receipt_of_move(await _moved_unseen(services, key, target))
    current = await services.storage.stat(key)
    expect = expectation("PATCH", request.scope["headers"], current)
    info = await services.library.rename(key, target, expect=expect)
    file = File.of(info, base_url(request, services.base_url), owner_of(caller))
    # As in RFC 5789 2.1: the ETag is that of what Content-Location names.
    return Response(
        file.model_dump_json(),
        headers={"content-location": file.url, "etag": f'"{info.etag}"'},
        media_type="application/json",
    )


async def _moved_unseen(services: Services, key: Key, target: Key) -> FileInfo:
    """Move the file for a caller that may not learn which of the two names is there if it cannot."""
    if key == target:
        raise ScopeTooSmall("This patch changes nothing; to look at a file takes a token for reading.")
    try:
        return await services.library.rename(key, target, expect=Expect.ANY)
    except (NotFound, AlreadyExists, PathConflict):
        raise NotFound("There is no such file, or its new name is taken.") from None


def _check_type(request: Request) -> None:
    if word_of(request.headers.get("content-type", "")) != MEDIA_TYPE:
        raise UnsupportedPatch(f"A file is moved or renamed by a body with Content-Type: {MEDIA_TYPE}.")
    refuse_encoding(request, UnsupportedPatch)


def renamed_key(key: Key, document: bytes) -> Key:
    """Return the key that a merge patch of `folder` and `filename` makes of a key; `folder: null` is the top.

    Raises BadPatch, and InvalidName for names that no file can have.
    """
    patch = parse_merge_patch(document)
    unknown = [name for name in patch if name not in _PATCHED]
    if unknown:
        raise BadPatch(f"Only folder and filename can be changed, not {', '.join(unknown)[:200]}.")
    names = {"folder": key.folder, "filename": key.filename} | patch
    if names["folder"] is None:
        names["folder"] = ""  # null removes a member (RFC 7396 §2)
    for name in _PATCHED:
        if not isinstance(names[name], str):
            raise BadPatch(f"The {name} is a string{' or null' if name == 'folder' else ''}.")
    return Key.of(key.library, names["folder"], names["filename"])


def expectation(method: str, headers: RawHeaders, current: FileInfo | None) -> Expectation:
    """Return the state that a change may rely on, from its preconditions and what is stored now.

    ANY without a precondition, else the state that they were compared with: it has to hold still until the
    change takes effect (RFC 9110 §13.2.2). Raises VersionMismatch when they fail.
    """
    if current is None:
        return _expectation_of_nothing(headers)
    if evaluate(method, headers, current) is not Verdict.PROCEED:
        raise VersionMismatch(
            "What is stored there is not the version that the request's conditions ask for."
        )
    return current.etag if has_write_condition(headers) else Expect.ANY


def _expectation_of_nothing(headers: RawHeaders) -> Expectation:
    if field(headers, b"if-match") is not None:
        raise VersionMismatch("Nothing is stored there, and the request's conditions ask for a version.")
    # Without a modification date, If-Unmodified-Since is ignored (RFC 9110 §13.1.4).
    return Expect.ABSENT if field(headers, b"if-none-match") is not None else Expect.ANY
