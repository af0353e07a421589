"""Reading request headers as ASGI gives them."""

from collections.abc import Sequence

RawHeaders = Sequence[tuple[bytes, bytes]]
"""Names in lower case, values as they came."""


def lines(headers: RawHeaders, name: bytes) -> list[str]:
    """The value of every line of this name, without the whitespace around it (RFC 9110 5.5)."""
    return [value.decode("latin-1").strip(" \t") for key, value in headers if key == name]


def field(headers: RawHeaders, name: bytes) -> str | None:
    """The value of a list field, its lines joined by commas (RFC 9110 5.3); None when it is absent."""
    values = lines(headers, name)
    return ", ".join(values) if values else None


def single(headers: RawHeaders, name: bytes) -> str | None:
    """The value of a field that may stand only once (RFC 9110 5.3); None when it is absent or repeated."""
    values = lines(headers, name)
    return values[0] if len(values) == 1 else None
