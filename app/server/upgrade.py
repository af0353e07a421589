"""Requests that ask for another protocol on their connection: CONNECT and Upgrade. Pure.

The parser ends such a request at its head and takes the body for the next request. The connection therefore
decides here, from the head alone, before it parses a byte behind it.
"""

from collections.abc import Iterable
from enum import Enum

Headers = Iterable[tuple[bytes, bytes]]
"""Fields in their order, names in lower case."""

_IGNORED = {b"upgrade", b"http2-settings"}
"""Fields, and options of Connection."""


class Upgrade(Enum):
    """The outcome of a request that the parser takes for an upgrade."""

    REFUSED = "the connection ends"
    WEBSOCKET = "the WebSocket protocol takes over"
    IGNORED = "the request is answered as if it had not asked"


def upgrade_of(method: bytes, version: str, headers: Headers) -> Upgrade:
    """Return the outcome for the head of a request.

    CONNECT is refused (RFC 9110 §9.3.6). Only a WebSocket handshake without a body is an upgrade (RFC 6455
    §4.1); any other Upgrade is ignored, and so is each in HTTP/1.0 (RFC 9110 §7.8).
    """
    if method == b"CONNECT":
        return Upgrade.REFUSED
    fields = list(headers)
    if (
        method == b"GET"
        and version == "1.1"
        and _elements(b"upgrade", fields) == [b"websocket"]
        and b"upgrade" in _elements(b"connection", fields)
        and not _has_body(fields)
    ):
        return Upgrade.WEBSOCKET
    return Upgrade.IGNORED


def head_without_upgrade(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """Return the head of a request without its fields and connection options that ask for an upgrade."""
    lines = [b"%s %s HTTP/%s" % (method, target, version.encode())]
    for name, value in headers:
        if name in _IGNORED:
            continue
        if name == b"connection":
            options = (option.strip(b" \t") for option in value.split(b","))
            kept = b", ".join(option for option in options if option.lower() not in _IGNORED)
            lines.append(b"connection: " + kept)
        else:
            lines.append(b"%s: %s" % (name, value))
    return b"\r\n".join([*lines, b"", b""])


def _elements(name: bytes, headers: Headers) -> list[bytes]:
    """Return the elements of a list field, in lower case (RFC 9110 §5.6.1)."""
    values = b",".join(value for field, value in headers if field == name).lower().split(b",")
    return [element for value in values if (element := value.strip(b" \t"))]


def _has_body(headers: Headers) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b" \t0") != b"")
        for name, value in headers
    )
