"""What a request says of its body before it comes."""

from fastapi import Request
from starlette.requests import HTTPConnection


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
