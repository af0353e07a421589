"""Who may knock: which peers, under which Host names, from pages of which sites."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.resources.problems import problem

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]*[a-z0-9_][a-z0-9._-]*)(?::[0-9]*)?")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

BASE_URL_HINT = (
    "If the page is this server's own, a proxy changes the Host: set SEEKABLE_BASE_URL to the address in the "
    "browser."
)


class Refused(Exception):
    """The request is not let in; `status` says how it is answered, `close` that nothing can follow it."""

    def __init__(self, status: int, detail: str, *, close: bool = False) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = {"connection": "close"} if close else {}


@dataclass(frozen=True)
class Admission:
    """The rules. `hosts` are names, IP literals (`[::1]` with brackets) and patterns (`*.example.org`, `*`);
    `origins` are those of sites that may write (`https://app.example.org`, `*`), besides our own."""

    open: bool
    hosts: frozenset[str]
    origins: frozenset[str]

    @classmethod
    def of(
        cls, *, everybody: bool, base_url: str | None, hosts: Iterable[str], origins: Iterable[str]
    ) -> "Admission":
        own = urlsplit(base_url or "")
        names = [*_LOOPBACK_NAMES, *hosts, *([own.netloc.rpartition("@")[2]] if base_url else [])]
        sites = [*origins, *([f"{own.scheme}://{own.netloc}"] if base_url else [])]
        return cls(
            everybody,
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
        """Raise Refused unless the request, or the handshake of a WebSocket, may come in.

        `peer` and `local` are the IP addresses of the two ends of the connection, if it has any.
        """
        if method == "CONNECT" or (_upgrades(headers) and _has_body(headers)):
            # Our own connection passes neither on. Under `uvicorn app.main:app` the parser takes the body for
            # the next request: only the end of the connection keeps it from being one.
            raise Refused(501, "Neither CONNECT nor an upgrade with a body is supported.", close=True)
        if not self.open and not is_loopback(peer):
            raise Refused(403, "Only this machine may connect, unless SEEKABLE_ACCESS=open is set.")
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
            raise Refused(400, "A request has one valid Host.")  # RFC 9112 3.2
        # The address that the connection came in at is no name that DNS could rebind.
        if name in self.hosts or "*" in self.hosts or (local is not None and name in (local, f"[{local}]")):
            return
        if any(name.endswith(pattern[1:]) for pattern in self.hosts if pattern.startswith("*.")):
            return
        raise Refused(421, "This server does not answer to that Host; see SEEKABLE_ALLOWED_HOSTS.")

    def _check_site(self, headers: Headers) -> None:
        """Browsers say where a write comes from (Fetch: Origin, Sec-Fetch-Site); other programs do not."""
        origin = headers.get("origin")
        if (origin is not None and self._is_cors(origin)) or is_from_our_page(headers):
            return
        raise Refused(
            403, f"Pages of other sites may not write here; see SEEKABLE_CORS_ORIGINS. {BASE_URL_HINT}"
        )

    def _check_origin(self, headers: Headers) -> None:
        """No browser asks before it opens a WebSocket to another site, and its page may read all of it."""
        if not all(is_own(origin, headers) or self._is_cors(origin) for origin in headers.getlist("origin")):
            raise Refused(
                403,
                "Pages of other sites may not open a WebSocket here; see SEEKABLE_CORS_ORIGINS. "
                f"{BASE_URL_HINT}",
            )

    def _is_cors(self, origin: str) -> bool:
        return origin.lower() in self.origins or "*" in self.origins


def names_of_machine(name: str) -> tuple[str, ...]:
    """Return the Host names that a machine of this name has: as it is, its first label, and that in mDNS.

    Other sites cannot have their own names resolve to them (RFC 6762 3), so none is a way in for rebinding.
    """
    label = name.lower().partition(".")[0]
    names = dict.fromkeys((name.lower(), label, f"{label}.local"))
    return tuple(one for one in names if label and hostname(one))


def is_from_our_page(headers: Headers, base_url: str | None = None) -> bool:
    """Whether a request comes from a page of ours, or from no page at all, as far as browsers declare it
    (Fetch: Sec-Fetch-Site, Origin). If they declare it to be of the same origin, it is: a proxy may have
    changed the Host that an Origin could be compared with."""
    site = headers.get("sec-fetch-site")
    if site == "same-origin":
        return True
    return site in (None, "none") and all(
        is_own(origin, headers, base_url) for origin in headers.getlist("origin")
    )


def is_own(origin: str, headers: Headers, base_url: str | None = None) -> bool:
    """Whether an Origin is that of our own pages: at the Host, or at the base URL, whatever the Host is."""
    base = urlsplit(base_url or "")
    if base_url and origin.lower() == f"{base.scheme}://{base.netloc}".lower():
        return True
    # Behind a proxy the scheme differs, so only the authority can be compared.
    return origin.lower().partition("://")[2] == headers.get("host", "").lower() != ""


def _upgrades(headers: Headers) -> bool:
    if not any(headers.getlist("upgrade")):
        return False
    options = ",".join(headers.getlist("connection")).lower().split(",")
    return "upgrade" in (option.strip() for option in options)


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


# Every request asks both of these, nearly always of the same few names and addresses.
@lru_cache(64)
def hostname(host: str) -> str | None:
    """A Host without its port, in lower case (RFC 9110 7.2); None when it is malformed."""
    match = _HOST.fullmatch(host.strip().lower())
    return match[1].rstrip(".") if match else None


@lru_cache(1024)
def is_loopback(address: str | None) -> bool:
    """Whether an IP address is this machine's own."""
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


class AdmissionMiddleware:
    """Asks before anything else of the program sees a request."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            client, server = scope.get("client"), scope.get("server")
            try:
                self._admission.check(
                    scope.get("method", "GET"),
                    Headers(scope=scope),
                    peer=client[0] if client else None,
                    local=server[0] if server else None,
                    version=scope["http_version"],
                    websocket=scope["type"] == "websocket",
                )
            except Refused as refused:
                await problem(refused.status, str(refused), refused.headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)
