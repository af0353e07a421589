"""The client and scheme that proxies name: X-Forwarded-For, X-Forwarded-Proto, Forwarded (RFC 7239)."""

import asyncio
import re
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache, partial
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

Headers = Collection[tuple[bytes, bytes]]
Client = tuple[str, int]
"""An address, or another text that names nothing we trust, and a port; 0 if none is named."""

UNKNOWN = "unknown"
"""The address of a client that a malformed Forwarded names (RFC 7239 6.2): never one of this machine."""

LOOPBACK = ("127.0.0.0/8", "::1")
"""The networks of this machine."""

MAX_ADDRESS = 64
"""Characters of the longest text that may be an address."""

_SCHEMES = frozenset({"http", "https", "ws", "wss"})

# One pair, and what ends it. No two ways lead through it, so that a refusal takes linear time. An unquoted
# value may hold more than a token does: some proxies quote neither ports nor IPv6 addresses.
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

Trusts = Callable[[str], bool]

_FOR, _PROTO, _FORWARDED = b"x-forwarded-for", b"x-forwarded-proto", b"forwarded"
_FIELDS = frozenset((_FOR, _PROTO, _FORWARDED))


def trusting(networks: Sequence[str]) -> Trusts:
    """Return the rule whether an address is in one of the networks."""
    # Of functions at the top of a module, because `--reload` pickles the configuration that holds it.
    return partial(_is_in_one, tuple(networks))


def _is_in_one(networks: tuple[str, ...], text: str) -> bool:
    return len(text) <= MAX_ADDRESS and _is_known_in_one(networks, text)


@lru_cache(4096)
def _is_known_in_one(networks: tuple[str, ...], text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    return any(address in network for network in _parsed(networks))


@lru_cache
def _parsed(networks: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(network) for network in networks)


_is_here = trusting(LOOPBACK)


def forwarded(headers: Headers, trusts: Trusts) -> tuple[Client | None, str | None]:
    """Return the client and the scheme that the fields of a trusted proxy name; None where none does.

    X-Forwarded-For and X-Forwarded-Proto win over Forwarded, because proxies that write them pass on a
    Forwarded that a client wrote. Only a client of another machine that Forwarded names counts more than one
    of this machine, or a proxy, in X-Forwarded-For: a proxy that writes Forwarded passes that on, too.
    """
    if _FIELDS.isdisjoint([name for name, _ in headers]):  # so it is for most requests of this machine
        return None, None
    fields: dict[bytes, list[str]] = {name: [] for name in _FIELDS}
    for name, value in headers:
        if name in fields:
            fields[name].append(value.decode("latin-1"))
    addresses, schemes, elements = (", ".join(fields[name]) for name in (_FOR, _PROTO, _FORWARDED))
    hops = [_client(address) for address in addresses.split(",") if address.strip(" \t")]
    client = _nearest(hops, trusts) if hops else None
    scheme = _scheme(schemes.partition(",")[0])
    is_near = client is None or trusts(client[0]) or _is_here(client[0])
    if elements and (is_near or scheme is None):
        other, other_scheme = _of_forwarded(elements, trusts)
        if is_near and other is not None and not trusts(other[0]):
            client = other
        client, scheme = client or other, scheme or other_scheme
    return client, scheme


def _of_forwarded(value: str, trusts: Trusts) -> tuple[Client | None, str | None]:
    """Return the client of a Forwarded, and the scheme by which it reached the first proxy that we trust."""
    try:
        elements = list(_elements(value))
    except ValueError:
        return (UNKNOWN, 0), None
    named = [(_client(element["for"]), element) for element in elements if "for" in element]
    if not named:
        return None, _scheme(elements[0].get("proto", "")) if elements else None
    client = _nearest([client for client, _ in named], trusts)
    # The last that is so: those before it may be the client's own invention.
    chosen = [element for one, element in named if one == client][-1]
    return client, _scheme(chosen.get("proto", ""))


def _elements(value: str) -> Iterator[dict[str, str]]:
    """The elements of a Forwarded: parameters by lower-case name (RFC 7239 4). Raises ValueError."""
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


def _nearest(clients: Sequence[Client], trusts: Trusts) -> Client:
    """The last that is no proxy we trust: each proxy appends its peer. If all are, the first."""
    return next((client for client in reversed(clients) if not trusts(client[0])), clients[0])


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
    """Gives requests of trusted proxies the client and the scheme that their headers name."""

    def __init__(self, app: Any, trusted: Sequence[str]) -> None:
        self._app = app
        self._trusts = trusting(trusted)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            peer = scope.get("client")
            if peer is not None and self._trusts(peer[0]):
                client, scheme = forwarded(scope["headers"], self._trusts)
                if client is not None:
                    scope["client"] = client
                if scheme is not None:
                    is_websocket = scope["type"] == "websocket"
                    scope["scheme"] = scheme.replace("http", "ws") if is_websocket else scheme
        await self._app(scope, receive, send)


CLIENT = ("127.0.0.1", 0)
"""The peer: a program of this machine, as a peer on loopback is, and believed where that one is."""

SERVER = ("localhost", 80)
"""Our end, for a request without Host; a path is no authority of a URL."""


def is_unix(transport: asyncio.BaseTransport) -> bool:
    """Return whether the connection came in over a Unix socket."""
    connected = transport.get_extra_info("socket")
    return connected is not None and connected.family == socket.AF_UNIX
