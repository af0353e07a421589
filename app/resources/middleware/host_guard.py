"""The first check of every request: its peer, its Host, and the site of the page that sent it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import cors
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.addresses import is_loopback
from app.resources.dependencies import Services, base_path
from app.resources.errors import Failure, failure_response, problem_response
from app.resources.rendering import page, style_source

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]*[a-z0-9_][a-z0-9._-]*)(?::[0-9]*)?")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

PROXY_HEADERS = frozenset({"forwarded", "via", "x-forwarded-for", "x-real-ip"})
"""Headers that only proxies send."""

BASE_URL_HINT = (
    "If this is the server's own page, a proxy changed the Host: set SEEKABLE_BASE_URL to the address in the "
    "browser."
)


class RequestRefused(Exception):
    """The guard refuses the request with this status; `close` ends the connection too."""

    def __init__(self, status: int, detail: str, *, close: bool = False) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = {"connection": "close"} if close else {}


@dataclass(frozen=True)
class HostGuard:
    any_peer: bool
    """Whether peers other than this machine may connect."""
    hosts: frozenset[str]
    """Names, IP literals (`[::1]` with brackets) and patterns (`*.example.org`, `*`)."""
    origins: frozenset[str]
    """Origins of other sites that may write (`https://app.example.org`, `*`)."""

    @classmethod
    def of(
        cls, *, any_peer: bool, base_url: str | None, hosts: Iterable[str], origins: Iterable[str]
    ) -> "HostGuard":
        """Return the rules with the loopback names and the base URL added to `hosts` and `origins`."""
        base = urlsplit(base_url or "")
        names = [*_LOOPBACK_NAMES, *hosts, *([base.netloc.rpartition("@")[2]] if base_url else [])]
        sites = [*origins, *([f"{base.scheme}://{base.netloc}"] if base_url else [])]
        return cls(
            any_peer,
            frozenset(hostname(name) or name.lower().partition(":")[0] for name in names),  # or a pattern
            frozenset(site.rstrip("/").lower() for site in sites),
        )

    def check(
        self,
        method: str,
        headers: Headers,
        *,
        peer: str | None,
        local: str | None,
        version: str = "1.1",
        websocket: bool = False,
    ) -> None:
        """Raise RequestRefused unless the request, or the handshake of a WebSocket, is allowed.

        `peer` and `local` are the IP addresses of the two ends of the connection, None on a Unix socket.
        """
        if method == "CONNECT" or (_upgrades(headers) and _has_body(headers)):
            # Our own connection passes neither on. Under `uvicorn app.main:app` the parser reads the body as
            # the next request, unless the connection ends.
            raise RequestRefused(
                501, "The server supports neither CONNECT nor an upgrade with a body.", close=True
            )
        if not self.any_peer and not is_loopback(peer or ""):
            raise RequestRefused(
                403, "Only this machine may connect. To admit others, set SEEKABLE_ACCESS=accounts, or open."
            )
        hosts = headers.getlist("host")
        if hosts or version != "1.0":
            self._check_host(hosts, local)
        if method not in SAFE_METHODS:
            self._check_site(headers)
        if websocket:
            self._check_origin(headers)

    def _check_host(self, hosts: list[str], local: str | None) -> None:
        name = hostname(hosts[0]) if len(hosts) == 1 else None
        if name is None:
            raise RequestRefused(400, "Send one valid Host header.")  # RFC 9112 §3.2
        # DNS rebinding cannot change the address that the connection arrived at.
        if name in self.hosts or "*" in self.hosts or (local is not None and name in (local, f"[{local}]")):
            return
        if any(name.endswith(pattern[1:]) for pattern in self.hosts if pattern.startswith("*.")):
            return
        raise RequestRefused(
            421, "This server has no such Host. To use the name, add it to SEEKABLE_ALLOWED_HOSTS."
        )

    def _check_site(self, headers: Headers) -> None:
        """Refuse writes by pages of other sites (Fetch: Origin, Sec-Fetch-Site); only browsers send these."""
        origin = headers.get("origin")
        if (origin is not None and self._is_cors(origin)) or is_from_our_page(headers):
            return
        raise RequestRefused(
            403,
            "Pages of other sites may not write here. To allow a site, add it to SEEKABLE_CORS_ORIGINS. "
            f"{BASE_URL_HINT}",
        )

    def _check_origin(self, headers: Headers) -> None:
        """Refuse WebSockets of other sites: CORS does not apply, so the page could read everything."""
        origins = headers.getlist("origin")
        if not all(is_own_origin(origin, headers) or self._is_cors(origin) for origin in origins):
            raise RequestRefused(
                403,
                "Pages of other sites may not open a WebSocket here. To allow a site, add it to "
                f"SEEKABLE_CORS_ORIGINS. {BASE_URL_HINT}",
            )

    def _is_cors(self, origin: str) -> bool:
        return origin.lower() in self.origins or "*" in self.origins


def names_of_machine(name: str) -> tuple[str, ...]:
    """Return the Host names of a machine: its name, the first label of it, and that label in mDNS.

    Other sites cannot register names that end in these (RFC 6762 §3), so DNS rebinding cannot use them.
    """
    label = name.lower().partition(".")[0]
    names = dict.fromkeys((name.lower(), label, f"{label}.local"))
    return tuple(one for one in names if label and hostname(one))


def is_from_our_page(headers: Headers, base_url: str | None = None) -> bool:
    """Return whether a request comes from our own page, or from no page (Fetch: Sec-Fetch-Site, Origin).

    `same-origin` is believed without a look at Origin: a proxy may have changed the Host to compare it with.
    """
    site = headers.get("sec-fetch-site")
    if site == "same-origin":
        return True
    return site in (None, "none") and all(
        is_own_origin(origin, headers, base_url) for origin in headers.getlist("origin")
    )


def is_own_origin(origin: str, headers: Headers, base_url: str | None = None) -> bool:
    """Return whether an Origin is that of our own pages: at the Host, or at the base URL."""
    base = urlsplit(base_url or "")
    if base_url and origin.lower() == f"{base.scheme}://{base.netloc}".lower():
        return True
    # Behind a proxy the scheme differs, so compare the authority only.
    return origin.lower().partition("://")[2] == headers.get("host", "").lower() != ""


def _upgrades(headers: Headers) -> bool:
    if not any(headers.getlist("upgrade")):
        return False
    options = ",".join(headers.getlist("connection")).lower().split(",")
    return "upgrade" in (option.strip() for option in options)


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


# Cached: every request calls both of these, nearly always with the same few arguments.
@lru_cache(64)
def hostname(host: str) -> str | None:
    """Return a Host without its port, in lower case (RFC 9110 §7.2); None if it is malformed."""
    match = _HOST.fullmatch(host.strip().lower())
    return match[1].rstrip(".") if match else None


class HostGuardMiddleware:
    """Refuses requests before any other part of the program reads them."""

    def __init__(self, app: ASGIApp, guard: HostGuard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            client, server = scope.get("client"), scope.get("server")
            try:
                self._guard.check(
                    scope.get("method", "GET"),
                    Headers(scope=scope),
                    peer=client[0] if client else None,
                    local=server[0] if server else None,
                    version=scope["http_version"],
                    websocket=scope["type"] == "websocket",
                )
            except RequestRefused as refused:
                failure = Failure(refused.status, str(refused), refused.headers)
                await failure_response(HTTPConnection(scope), failure, _refusal_page)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _refusal_page(request: HTTPConnection, failure: Failure) -> Response:
    """Return a page that loads nothing: the guard refuses the requests for its style, too."""
    policy = (
        f"default-src 'none'; style-src {style_source('refused.css')}; form-action 'none'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
    headers = {"cache-control": "no-store", "content-security-policy": policy, **failure.headers}
    home = _admitted_address(request) if failure.status == 421 else f"{base_path(request.scope)}/"
    host = hostname(request.headers.get("host", ""))
    return page(request, "refused.html", failure.status, headers, failure=failure, home=home, host=host)


def _admitted_address(request: HTTPConnection) -> str:
    """Return an address of this server that the guard admits; "" if the browser may not reach it."""
    services: Services = request.state.services
    server = request.scope.get("server")
    if services.base_url:
        return f"{services.base_url}/"
    if server is None or server[1] is None or not PROXY_HEADERS.isdisjoint(request.headers):
        return ""
    host = f"[{server[0]}]" if ":" in server[0] else server[0]
    return f"{request.scope['scheme']}://{host}:{server[1]}/"


_PRIVATE_NETWORK = "access-control-request-private-network"


class CORSMiddleware(cors.CORSMiddleware):
    """Starlette's middleware, with private networks for the configured sites and problem documents."""

    def preflight_response(self, request_headers: Headers) -> Response:
        named = request_headers["origin"] in self.allow_origins
        if named and _PRIVATE_NETWORK in request_headers:
            # A page of the internet requests an address of a home network (WICG Private Network Access §3.2).
            # Starlette would allow that to every site, `*` too, or to none.
            without = [
                (name, value) for name, value in request_headers.raw if name != _PRIVATE_NETWORK.encode()
            ]
            response = super().preflight_response(Headers(raw=without))
            response.headers["access-control-allow-private-network"] = "true"
        else:
            response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        reason = bytes(response.body).decode()
        return problem_response(response.status_code, f"{reason}; see SEEKABLE_CORS_ORIGINS.", kept)
