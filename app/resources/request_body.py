"""Request bodies: bounds, encodings, and small ones as a form, JSON or a merge patch."""

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import HTTPConnection

from app.http.addresses import client_network
from app.http.errors import BadForm, BadPatch, BodyError, TooLarge, UnsupportedForm
from app.http.grammar import value_without_parameters

MAX_BYTES = 64 << 10
MAX_FIELDS = 20

MERGE_PATCH = "application/merge-patch+json"
"""The media type of a JSON Merge Patch (RFC 7396)."""

_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"

M = TypeVar("M", bound=BaseModel)


class InvalidFields(BodyError):
    """A field of a form or a member of a JSON object is missing or invalid."""


def body(model: type[BaseModel]) -> Any:
    """Return a dependency: the body as this model. Raises InvalidFields and the errors of `read_fields`."""

    async def parsed(request: Request) -> BaseModel:
        return validate(model, await read_fields(request))

    return Depends(parsed)


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI description of such a body, as JSON.

    Forms are for our page. A generated client would choose between two types of one schema at random.
    """
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {_JSON: {"schema": schema}}}}


async def read_fields(request: Request) -> dict[str, Any]:
    """Return the raw fields of a form or JSON object. Raises BadForm, TooLarge, UnsupportedForm."""
    refuse_encoding(request, UnsupportedForm)
    content = await bounded(request, MAX_BYTES, TooLarge(f"The body may have at most {MAX_BYTES} bytes."))
    kind = value_without_parameters(request.headers.get("content-type", ""))
    try:
        if kind == _JSON:
            members = json.loads(content.decode())
            if isinstance(members, dict):
                return members
            raise BadForm("The body must be a JSON object.")
        if kind == _FORM:
            text = content.decode()
            return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"))
        if kind == "multipart/form-data":
            parser = MultiPartParser(request.headers, _once(content), max_files=0, max_fields=MAX_FIELDS)
            return dict(await parser.parse())
    except (ValueError, RecursionError, MultiPartException):
        raise BadForm("The body is not valid for its Content-Type. Check both.") from None
    raise UnsupportedForm(f"Send a form, or JSON with Content-Type: {_JSON}.")


def validate(model: type[M], fields: Mapping[str, Any]) -> M:
    """Return the fields as a model; members that it does not have are ignored. Raises InvalidFields."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise InvalidFields(" ".join(map(_sentence, error.errors()))) from None


def _sentence(fault: Mapping[str, Any]) -> str:
    name = ".".join(map(str, fault["loc"]))
    if fault["type"] == "missing" or fault["input"] is None:
        return f"{name} is missing."
    problem = fault["ctx"]["error"] if fault["type"] == "value_error" else fault["msg"]
    return f"{name}: {str(problem).rstrip('.')}."


def parse_merge_patch(document: bytes) -> dict[str, Any]:
    """Return the members of a merge patch that is a JSON object in UTF-8. Raises BadPatch."""
    try:
        patch = json.loads(document.decode(), object_pairs_hook=_unique_members)
    except (ValueError, RecursionError):
        raise BadPatch("The body is not JSON in UTF-8. Check its syntax and its encoding.") from None
    if not isinstance(patch, dict):
        raise BadPatch("A patch is a JSON object with folder, filename or both.")
    return patch


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        # Two JSON parsers would disagree on which one counts (RFC 8259 §4).
        raise BadPatch("A member of the patch is there twice. Send each once.")
    return members


def is_json(request: Request) -> bool:
    """Return whether the body, and so the response, is JSON: programs send JSON, browsers forms."""
    return value_without_parameters(request.headers.get("content-type", "")) == _JSON


def declared_length(request: Request) -> int | None:
    """Return the Content-Length; None for a chunked body."""
    value = request.headers.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() else None


def refuse_encoding(request: Request, error: type[Exception]) -> None:
    """Raise the error if the body is encoded: clients may not support the encoding that we would store."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise error("The server does not decode request bodies. Send the body without a Content-Encoding.")
    if request.headers.get("transfer-encoding", "chunked").lower() != "chunked":
        raise error("The server decodes only the Transfer-Encoding chunked.")


async def bounded(request: Request, limit: int, error: Exception) -> bytes:
    """Return the whole body. Raises the error if it is longer than `limit` bytes."""
    content = bytearray()
    if (declared_length(request) or 0) <= limit:
        async for data in request.stream():
            content += data
            if len(content) > limit:
                break
        else:
            return bytes(content)
    raise error


def client_address(request: HTTPConnection) -> str:
    """Return the IP address of the client; "" on a Unix socket."""
    return request.client.host if request.client else ""


def client_key(request: HTTPConnection) -> str:
    """Return the address or network by which attempts of the client to log in are counted."""
    return client_network(client_address(request))


async def _once(content: bytes) -> AsyncGenerator[bytes, None]:
    yield content
