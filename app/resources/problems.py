"""How errors are told: problem documents (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.responses import Response


class Problem(BaseModel):
    """Why a request failed."""

    title: str
    status: int
    detail: str


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """A problem document as an answer."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=_printable(detail))
    return Response(
        body.model_dump_json(),
        status,
        headers={"cache-control": "no-store", "x-content-type-options": "nosniff", **(headers or {})},
        media_type="application/problem+json",
    )


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of answers with these statuses."""
    content = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def _printable(text: str) -> str:
    # Names that were refused may hold lone surrogates, which no JSON can.
    return text.encode(errors="backslashreplace").decode()


_BASIC = 'Basic realm="Seekable", charset="UTF-8"'  # RFC 7617; what VLC and curl speak
BEARER = 'Bearer realm="Seekable"'  # RFC 6750
"""A challenge that browsers pass over in silence."""


def challenge(headers: Headers) -> str:
    """What WWW-Authenticate says. What a page asks for, with a script or to show it, gets no answer that lets
    the browser itself ask for a password: the page has a login of its own."""
    is_part = headers.get("sec-fetch-mode", "navigate") != "navigate"  # Fetch Metadata; programs send none
    return BEARER if is_part else _BASIC
