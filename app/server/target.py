"""The target of a request as the program reads it: in origin form and ASCII (RFC 9112 §3.2). Pure."""

import re

Headers = list[tuple[bytes, bytes]]
"""Fields in their order, names in lower case."""

_ESCAPES = {byte: f"%{byte:02X}" for byte in range(0x80, 0x100)}
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#@]+)([/?#].*)?", re.DOTALL)


class InvalidTarget(ValueError):
    """An absolute form that names no host, or no scheme of HTTP."""


def escaped(line: bytes) -> bytes:
    """Return a request line with its bytes beyond ASCII percent-encoded: curl sends names raw."""
    return line.decode("latin-1").translate(_ESCAPES).encode()


def origin_form(target: bytes, version: str, headers: Headers) -> tuple[bytes, Headers]:
    """Return the origin form of an absolute target, and the headers with its authority as their Host.

    The authority replaces Host (RFC 9112 §3.2.2), so that every check and every link of the program uses the
    same name. A missing Host in HTTP/1.1 and several of them stay as they are: they are errors (§3.2).
    Raises InvalidTarget.
    """
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise InvalidTarget("The target of the request is not valid.")
    authority, rest = match[1], match[2] or b""
    if not rest.startswith(b"/"):
        rest = b"/" + rest
    hosts = sum(name == b"host" for name, _ in headers)
    if hosts == 1:
        headers = [(name, authority if name == b"host" else value) for name, value in headers]
    elif hosts == 0 and version == "1.0":
        headers = [(b"host", authority), *headers]
    return rest, headers
