"""PATCH of a file: moving and renaming."""

from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from app.accounts.errors import ScopeTooSmall
from app.library.patches import MAX_BYTES, MEDIA_TYPE, PatchTooLarge, UnsupportedPatch, patched
from app.resources.bodies import bounded, refuse_encoding
from app.resources.deps import CallerDep, KeyDep, Services, ServicesDep, base_url, changeable, owner_of
from app.resources.problems import problems
from app.resources.schemas import File
from app.resources.write_only import is_write_only, receipt_of_move
from app.storage.errors import AlreadyExists, NotFound, PathConflict
from app.storage.types import Expect, FileInfo, Key
from app.streaming.conditions import expectation
from app.uploads.parameters import word_of

router = APIRouter(tags=["files"])

_TOO_LARGE = f"A patch has at most {MAX_BYTES} bytes."

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
    target = patched(key, await bounded(request, MAX_BYTES, PatchTooLarge(_TOO_LARGE)))
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
