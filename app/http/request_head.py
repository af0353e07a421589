"""The head of a request: its target (RFC 9112 §3.2, RFC 3986 §5.2.4) and upgrade (RFC 9110 §7.8). Pure."""

import re
from enum import Enum
from urllib.parse import unquote_to_bytes

Headers = list[tuple[bytes, bytes]]
"""Header lines in order, names in lower case."""

_ESCAPES = {byte: f"%{byte:02X}" for byte in range(0x80, 0x100)}
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#@]+)([/?#].*)?", re.DOTALL)


class InvalidTarget(ValueError):
    """An absolute-form target without a host, or with a scheme other than HTTP's."""


def percent_encoded(line: bytes) -> bytes:
    """Percent-encode the non-ASCII bytes of a request line: curl sends names unencoded."""
    return line.decode("latin-1").translate(_ESCAPES).encode()


def origin_form(target: bytes, version: str, headers: Headers) -> tuple[bytes, Headers]:
    """Return the origin form of an absolute target, and the headers with its authority as their Host.

    The authority replaces Host (RFC 9112 §3.2.2), so that every check and every link uses the same name.
    A missing Host in HTTP/1.1 and a repeated Host are left for the caller to reject (§3.2).
    Raises InvalidTarget.
    """
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise InvalidTarget("The request target (the URL in the request line) is not valid.")
    authority, rest = match[1], match[2] or b""
    if not rest.startswith(b"/"):
        rest = b"/" + rest
    hosts = sum(name == b"host" for name, _ in headers)
    if hosts == 1:
        headers = [(name, authority if name == b"host" else value) for name, value in headers]
    elif hosts == 0 and version == "1.0":
        headers = [(b"host", authority), *headers]
    return rest, headers


_FILES = b"/files/"
_DOTS = (b".", b"..")


def normalize_path(path: bytes) -> bytes:
    """Return a path below /files/ without dot segments and empty segments; any other path unchanged.

    Only literal segments count. A path that leads out of /files/, or contains an encoded dot segment
    (`%2e%2e`), is returned unchanged, so that the rule for names rejects it.
    """
    if not path.startswith(_FILES) or (b"/." not in path and b"//" not in path):
        return path
    segments = path[len(_FILES) :].split(b"/")
    if any(b"%2" in segment and unquote_to_bytes(segment) in _DOTS for segment in segments):
        return path
    kept: list[bytes] = []
    for segment in segments:
        if segment == b"..":
            if not kept:
                return path
            kept.pop()
        elif segment != b".":
            kept.append(segment)
    # Empty segments last: clients that resolve dots themselves make `a/b` of `a//../b`.
    names = [segment for segment in kept if segment]
    is_folder = bool(names) and segments[-1] in (b"", *_DOTS)
    return _FILES + b"/".join(names) + (b"/" if is_folder else b"")


_IGNORED = {b"upgrade", b"http2-settings"}
"""Fields and connection options to remove."""


class Upgrade(Enum):
    """The outcome of a request that llhttp treats as an upgrade."""

    REFUSED = "refuse it and close the connection"
    WEBSOCKET = "switch to the WebSocket protocol"
    IGNORED = "answer the request as if it had not asked"


def upgrade_of(method: bytes, version: str, headers: Headers) -> Upgrade:
    """Decide the outcome of an upgrade request.

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
    """Serialise the head of a request without the fields and connection options that ask for an upgrade."""
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
