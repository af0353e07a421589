"""How somebody is asked who they are (RFC 9110 11.6.1)."""

from starlette.datastructures import Headers

_BASIC = 'Basic realm="Seekable", charset="UTF-8"'  # RFC 7617; what VLC and curl speak
BEARER = 'Bearer realm="Seekable"'  # RFC 6750
"""A challenge that browsers pass over in silence."""


def challenge(headers: Headers) -> str:
    """What WWW-Authenticate says. What a page asks for, with a script or to show it, gets no answer that lets
    the browser itself ask for a password: the page has a login of its own."""
    is_part = headers.get("sec-fetch-mode", "navigate") != "navigate"  # Fetch Metadata; programs send none
    return BEARER if is_part else _BASIC
