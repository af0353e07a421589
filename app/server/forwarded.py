"""The client and scheme behind trusted proxies: X-Forwarded-For, X-Forwarded-Proto, Forwarded (RFC 7239)."""

import asyncio
import re
import socket
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from app.http.addresses import AddressMatcher, address_matcher, is_loopback

Headers = Collection[tuple[bytes, bytes]]
Client = tuple[str, int]
"""An address (or another, untrusted identifier) and a port; 0 if the port is missing."""

UNKNOWN = "unknown"
"""The address of the client when Forwarded is malformed (RFC 7239 §6.2): not a loopback address."""

_SCHEMES = frozenset({"http", "https", "ws", "wss"})

# One pair with its delimiter. Unambiguous, so that a mismatch takes linear time. An unquoted value may
# contain more than a token: some proxies quote neither ports nor IPv6 addresses.
_PAIR = re.compile(
    r"""
    [ \t]* (?:
        ( [!#$%&'*+.^_`|~0-9A-Za-z-]+ ) =
        ( "(?:[^"\\]|\\.)*" | [^\s;,"\\]+ )
        [ \t]*
    )?
    ( [;,] | \Z )
    """,
    re.VERBOSE,
)
_HOST_PORT = re.compile(r"\[([^\]]*)\](?::(.*))?|([^:]*)(?::([^:]*))?")

_FOR, _PROTO, _FORWARDED = b"x-forwarded-for", b"x-forwarded-proto", b"forwarded"
_FIELDS = frozenset((_FOR, _PROTO, _FORWARDED))


def forwarded_client(headers: Headers, is_trusted: AddressMatcher) -> tuple[Client | None, str | None]:
    """Return the client and the scheme from the headers of a trusted proxy; None for each that is missing.

    X-Forwarded-For and X-Forwarded-Proto take precedence over Forwarded, because proxies that set them pass
    on a Forwarded from the client. The exception: a remote client in Forwarded takes precedence over a
    loopback or proxy address in X-Forwarded-For, which a proxy that sets Forwarded passes on likewise.
    """
    if _FIELDS.isdisjoint([name for name, _ in headers]):  # the common case
        return None, None
    fields: dict[bytes, list[str]] = {name: [] for name in _FIELDS}
    for name, value in headers:
        if name in fields:
            fields[name].append(value.decode("latin-1"))
    addresses, schemes, elements = (", ".join(fields[name]) for name in (_FOR, _PROTO, _FORWARDED))
    hops = [_client(address) for address in addresses.split(",") if address.strip(" \t")]
    client = _nearest(hops, is_trusted) if hops else None
    scheme = _scheme(schemes.partition(",")[0])
    is_near = client is None or is_trusted(client[0]) or is_loopback(client[0])
    if elements and (is_near or scheme is None):
        other, other_scheme = _of_forwarded(elements, is_trusted)
        if is_near and other is not None and not is_trusted(other[0]):
            client = other
        client, scheme = client or other, scheme or other_scheme
    return client, scheme


def _of_forwarded(value: str, is_trusted: AddressMatcher) -> tuple[Client | None, str | None]:
    """Return the client from Forwarded, and the scheme of its connection to the first trusted proxy."""
    try:
        elements = list(_elements(value))
    except ValueError:
        return (UNKNOWN, 0), None
    named = [(_client(element["for"]), element) for element in elements if "for" in element]
    if not named:
        return None, _scheme(elements[0].get("proto", "")) if elements else None
    client = _nearest([client for client, _ in named], is_trusted)
    # The last match, because the client may have forged those before it.
    chosen = [element for one, element in named if one == client][-1]
    return client, _scheme(chosen.get("proto", ""))


def _elements(value: str) -> Iterator[dict[str, str]]:
    """Yield the elements of Forwarded: parameters by lower-case name (RFC 7239 §4). Raises ValueError."""
    element: dict[str, str] = {}
    position = 0
    while position < len(value):
        pair = _PAIR.match(value, position)
        if pair is None or (pair[1] or "").lower() in element:
            raise ValueError("malformed")
        if pair[1]:
            quoted = pair[2].startswith('"')
            element[pair[1].lower()] = re.sub(r"\\(.)", r"\1", pair[2][1:-1]) if quoted else pair[2]
        if pair[3] != ";" and element:
            yield element
            element = {}
        position = pair.end()
    if element:
        yield element


def _nearest(clients: Sequence[Client], is_trusted: AddressMatcher) -> Client:
    """Return the last untrusted client, since each proxy appends its peer; if all are trusted, the first."""
    return next((client for client in reversed(clients) if not is_trusted(client[0])), clients[0])


def _client(text: str) -> Client:
    text = text.strip(" \t")
    match = _HOST_PORT.fullmatch(text)
    if match is None:  # an IPv6 address without brackets
        return text, 0
    host, port = (match[1], match[2]) if match[1] is not None else (match[3], match[4])
    return host, int(port) if port and re.fullmatch("[0-9]{1,5}", port) else 0


def _scheme(text: str) -> str | None:
    text = text.strip(" \t").lower()
    return text if text in _SCHEMES else None


class ProxyHeadersMiddleware:
    """ASGI middleware that sets the client and scheme of requests from trusted proxies."""

    def __init__(self, app: Any, trusted: Sequence[str]) -> None:
        self._app = app
        self._is_trusted = address_matcher(trusted)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            peer = scope.get("client")
            if peer is not None and self._is_trusted(peer[0]):
                client, scheme = forwarded_client(scope["headers"], self._is_trusted)
                if client is not None:
                    scope["client"] = client
                if scheme is not None:
                    is_websocket = scope["type"] == "websocket"
                    scope["scheme"] = scheme.replace("http", "ws") if is_websocket else scheme
        await self._app(scope, receive, send)


UNIX_CLIENT = ("127.0.0.1", 0)
"""The client address of a connection over a Unix socket: a program of this machine, trusted like loopback."""

UNIX_SERVER = ("localhost", 80)
"""The server address of such a connection, for requests without Host."""


def is_unix(transport: asyncio.BaseTransport) -> bool:
    connected = transport.get_extra_info("socket")
    return connected is not None and connected.family == socket.AF_UNIX
