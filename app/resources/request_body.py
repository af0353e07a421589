"""Small bodies: the fields of a form, or the members of a JSON object."""

import json
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import HTTPConnection

from app.accounts.errors import BadCredentials
from app.http.errors import BadForm, TooLarge, UnsupportedForm
from app.http.grammar import word_of


def length_of(request: Request) -> int | None:
    """How many bytes are announced, if it is said."""
    value = request.headers.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() else None


def refuse_encoding(request: Request, error: type[Exception]) -> None:
    """Raise the error for a body that is encoded. What is stored is what is served, to clients that may not
    take its encoding."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise error("A body is taken as it is; send it without a Content-Encoding.")
    if request.headers.get("transfer-encoding", "chunked").lower() != "chunked":
        raise error("The only Transfer-Encoding that is decoded is chunked.")


async def bounded(request: Request, most: int, error: Exception) -> bytes:
    """The whole body, where it is short. Raises the error for one of more than so many bytes."""
    body = bytearray()
    if (length_of(request) or 0) <= most:
        async for data in request.stream():
            body += data
            if len(body) > most:
                break
        else:
            return bytes(body)
    raise error


def client_of(request: HTTPConnection) -> str:
    """The IP address that the request came from."""
    return request.client.host if request.client else ""


MAX_BYTES = 64 << 10
MAX_FIELDS = 20

_JSON = "application/json"


def is_json(request: Request) -> bool:
    """Whether the body is JSON, and so shall the answer be. Programs speak it, and people send forms."""
    return word_of(request.headers.get("content-type", "")) == _JSON


async def fields_of(request: Request) -> dict[str, Any]:
    """What the body says. BadForm, TooLarge, UnsupportedForm."""
    refuse_encoding(request, UnsupportedForm)
    body = await bounded(request, MAX_BYTES, TooLarge(f"Such a body has at most {MAX_BYTES} bytes."))
    kind = word_of(request.headers.get("content-type", ""))
    try:
        if kind == _JSON:
            members = json.loads(body.decode())
            if isinstance(members, dict):
                return members
            raise BadForm("The body is no JSON object.")
        if kind == "application/x-www-form-urlencoded":
            pairs = parse_qsl(
                body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"
            )
            return dict(pairs)
        if kind == "multipart/form-data":
            parser = MultiPartParser(request.headers, _once(body), max_files=0, max_fields=MAX_FIELDS)
            return dict(await parser.parse())
    except (ValueError, RecursionError, MultiPartException):
        raise BadForm("The body is not what its Content-Type says.") from None
    raise UnsupportedForm("The body is a form, or JSON.")


def text(fields: dict[str, Any], name: str, default: str | None = None) -> str:
    """A field that is a text. BadCredentials, if it is missing or something else."""
    value = fields.get(name)
    value = default if value is None else value  # as JSON says that there is none
    if not isinstance(value, str):
        raise BadCredentials(f"{name} is missing." if value is None else f"{name} is no text.")
    return value


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body
