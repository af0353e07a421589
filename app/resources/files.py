"""Changes of stored files: upload, replace, move, delete; and the JSON of a file."""

from collections.abc import Iterable
from datetime import datetime
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from app.accounts.errors import ScopeTooSmall
from app.http.conditions import Verdict, evaluate, has_write_condition
from app.http.errors import BadPatch, TooLarge, UnsupportedPatch
from app.http.grammar import RawHeaders, field, value_without_parameters
from app.resources.dependencies import (
    KeyDep,
    PrincipalDep,
    Services,
    ServicesDep,
    base_url,
    file_url,
    is_write_only,
    owner_of,
    require_writable,
)
from app.resources.errors import problems
from app.resources.openapi import request_headers, response_headers
from app.resources.rendering import JSON
from app.resources.request_body import (
    MERGE_PATCH,
    bounded,
    parse_merge_patch,
    refuse_encoding,
)
from app.storage.errors import AlreadyExists, NotFound, PathConflict, VersionMismatch
from app.storage.file_text import fill, json_string, quote_path
from app.storage.types import Expect, Expectation, FileFields, FileInfo, Key

router = APIRouter()


class StoredFile(BaseModel):
    """A stored file."""

    id: str = Field(description="Stays the same when the file is replaced or moved.")
    path: str
    folder: str
    filename: str
    size: int = Field(description="Bytes.")
    mimetype: str
    etag: str = Field(description="The version, as in the ETag header, without its quotes.")
    sha256: str | None = Field(description="Hexadecimal; null until it is computed.")
    created_at: datetime
    updated_at: datetime
    url: str
    stream_url: str
    owner: str | None = Field(
        None,
        exclude_if=lambda owner: owner is None,
        description="The id of the account.",
    )


def json_format(folder: str, base_url: str, owner: str | None) -> str:
    """Return the `FolderFormat` of a folder: the JSON of a file as StoredFile documents it.

    Written out, because a model for each file would take a list of a thousand three times as long.
    """
    base, path = json_string(base_url)[:-1], json_string(folder)
    inside, address = (f"{path[1:-1]}/", f"{quote_path(folder)}/") if folder else ("", "")
    end = "" if owner is None else f',"owner":{json_string(owner)}'
    members = (
        '"id":"\0"',
        f'"path":"{inside}\0"',
        f'"folder":{path}',
        '"filename":"\0"',
        '"size":\0',
        '"mimetype":"\0"',
        '"etag":"\0"',
        '"sha256":\0',
        '"created_at":"\0"',
        '"updated_at":"\0"',
        f'"url":{base}/files/{address}\0"',
        f'"stream_url":{base}/stream/\0"{end}',
    )
    return f"{{{','.join(members)}}}".replace("%", "%%").replace("\0", "%s")  # no JSON contains NUL


def files_json(files: Iterable[FileFields], base_url: str, owner: str | None) -> bytes:
    """Return the JSON of files, with commas between them."""
    return fill(partial(json_format, base_url=base_url, owner=owner), files)


class Receipt(BaseModel):
    """The response to a token that may write and not read."""

    path: str
    etag: str | None = Field(None, exclude_if=lambda etag: etag is None)
    """The version, without quotes; only of an upload. That of a moved file could be the SHA-256 of bytes
    that another caller sent."""


CONDITIONS = ("If-Match", "If-Unmodified-Since")


@router.delete(
    "/files/{path:rest}",
    operation_id="files_delete",
    summary="Delete a file",
    dependencies=[Depends(require_writable)],
    status_code=204,
    response_class=Response,
    openapi_extra=request_headers(*CONDITIONS),
    responses={204: {"description": "Deleted."}, **problems(400, 403, 404, 412, 422, 503)},
)
async def delete_file(request: Request, services: ServicesDep, key: KeyDep) -> Response:
    """Delete a file. Downloads of it that have begun continue to their end."""
    current = await services.storage.stat(key)
    await services.library.remove(current, expect=expectation("DELETE", request.scope["headers"], current))
    return Response(status_code=204)


MAX_PATCH_BYTES = 64 << 10
_PATCHED = ("folder", "filename")

_PATCH: dict[str, Any] = {
    **request_headers(*CONDITIONS),
    "requestBody": {
        "required": True,
        "content": {
            MERGE_PATCH: {
                "schema": {
                    "title": "FileMove",
                    "description": "The members of a file to change, as a merge patch (RFC 7396).",
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
    },
}


@router.patch(
    "/files/{path:rest}",
    operation_id="files_move",
    summary="Move or rename a file",
    dependencies=[Depends(require_writable)],
    response_model=StoredFile | Receipt,
    openapi_extra=_PATCH,
    responses={
        200: {"description": "Moved.", "headers": response_headers("Content-Location")},
        **problems(400, 403, 404, 409, 412, 413, 415, 422, 503, 507),
    },
)
async def move_file(
    request: Request, services: ServicesDep, key: KeyDep, principal: PrincipalDep
) -> Response:
    """Move or rename a file; never over another (409). Its id and version stay, and so does the name or
    folder that the body omits."""
    _check_type(request)
    too_large = TooLarge(f"A patch may have at most {MAX_PATCH_BYTES} bytes.")
    target = renamed_key(key, await bounded(request, MAX_PATCH_BYTES, too_large))
    if is_write_only(principal):
        info = await _move_blindly(services, key, target)
        return JSON(Receipt(path=info.key.path))
    current = await services.storage.stat(key)
    expect = expectation("PATCH", request.scope["headers"], current)
    info = await services.library.rename(key, target, expect=expect)
    base = base_url(request, services.base_url)
    file = files_json([FileFields.of(info)], base, owner_of(principal))
    # The ETag is that of the resource at Content-Location (RFC 5789 §2.1).
    return JSON(file, headers={"content-location": file_url(base, info.key), "etag": f'"{info.etag}"'})


async def _move_blindly(services: Services, key: Key, target: Key) -> FileInfo:
    """Move the file for a caller that may not read: a failure does not reveal which of the names exists."""
    if key == target:
        raise ScopeTooSmall("This patch changes nothing. Reading a file needs a token for reading.")
    try:
        return await services.library.rename(key, target, expect=Expect.ANY)
    except (NotFound, AlreadyExists, PathConflict):
        raise NotFound("There is no such file, or its new name is taken.") from None


def _check_type(request: Request) -> None:
    if value_without_parameters(request.headers.get("content-type", "")) != MERGE_PATCH:
        raise UnsupportedPatch(f"To move or rename a file, send a body with Content-Type: {MERGE_PATCH}.")
    refuse_encoding(request, UnsupportedPatch)


def renamed_key(key: Key, document: bytes) -> Key:
    """Return the key after a merge patch; `folder: null` is the top. Raises BadPatch, InvalidName."""
    patch = parse_merge_patch(document)
    unknown = [name for name in patch if name not in _PATCHED]
    if unknown:
        raise BadPatch(f"A patch can change only folder and filename, not {', '.join(unknown)[:200]}.")
    names = {"folder": key.folder, "filename": key.filename} | patch
    if names["folder"] is None:
        names["folder"] = ""  # null removes a member (RFC 7396 §2)
    for name in _PATCHED:
        if not isinstance(names[name], str):
            raise BadPatch(f"The {name} must be a string{' or null' if name == 'folder' else ''}.")
    return Key.of(key.library, names["folder"], names["filename"])


def expectation(method: str, headers: RawHeaders, current: FileInfo | None) -> Expectation:
    """Return the state that the storage must check when the change takes effect.

    ANY without a precondition, else the state that satisfied the preconditions (RFC 9110 §13.2.2). Raises
    VersionMismatch when they fail.
    """
    if current is None:
        return _expectation_of_absent(headers)
    if evaluate(method, headers, current) is not Verdict.PROCEED:
        raise VersionMismatch(
            "The stored file is not the version that the request's conditions require. Reload it and "
            "try again."
        )
    return current.etag if has_write_condition(headers) else Expect.ANY


def _expectation_of_absent(headers: RawHeaders) -> Expectation:
    if field(headers, b"if-match") is not None:
        raise VersionMismatch(
            "There is no such file, and If-Match requires that it exists. To create the file, omit If-Match."
        )
    # Without a modification date, If-Unmodified-Since is ignored (RFC 9110 §13.1.4).
    return Expect.ABSENT if field(headers, b"if-none-match") is not None else Expect.ANY
