"""Requests with a token that may write and not read: they change what is stored, and learn nothing of it.

A write cannot hide its own outcome: whether it made a file or replaced one (201, 204), and that it was
refused so that nothing is lost or because there is nothing to change (404, 409). A request that could only
tell what is stored is refused (403), and nothing is looked up before the last byte of a body.
"""

from fastapi import Response
from pydantic import BaseModel
from starlette.datastructures import Headers

from app.accounts.errors import ScopeTooSmall
from app.accounts.principals import Caller
from app.storage.types import FileInfo

_CONDITIONS = ("if-match", "if-none-match", "if-unmodified-since")
"""Preconditions that count for writes (RFC 9110 13.1)."""


class Receipt(BaseModel):
    """What such a token wrote."""

    path: str
    etag: str | None = None
    """The version, without quotes; of an upload alone. That of a moved file would be the SHA-256 of bytes
    that another caller may have sent."""


def is_write_only(caller: Caller | None) -> bool:
    """Whether the caller may write and not read."""
    return caller is not None and not caller.may_read


def check_conditions(headers: Headers) -> None:
    """Raise ScopeTooSmall if a precondition asks what is stored."""
    asked = [name for name in _CONDITIONS if name in headers]
    if asked:
        raise ScopeTooSmall(
            f"A token for writing alone sends no {asked[0]}: its answer would tell what is stored."
        )


def receipt(info: FileInfo, status: int, headers: dict[str, str]) -> Response:
    """The answer to an upload."""
    body = Receipt(path=info.key.path, etag=info.etag).model_dump_json()
    return Response(
        body, status, headers={**headers, "etag": f'"{info.etag}"'}, media_type="application/json"
    )


def receipt_of_move(info: FileInfo) -> Response:
    """The answer to a move."""
    return Response(
        Receipt(path=info.key.path).model_dump_json(exclude_none=True), media_type="application/json"
    )
