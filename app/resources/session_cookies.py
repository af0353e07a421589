"""The cookie of a login (RFC 6265), and which requests it counts for."""

import re
from functools import lru_cache
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response

from app.resources.middleware.host_guard import SAFE_METHODS, hostname, is_from_our_page, is_loopback, is_own

_PORT = re.compile(r":0*([0-9]+)\Z")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


@lru_cache(64)  # asked by each request that a login makes
def name_of(base_url: str | None, *, scheme: str, host: str) -> str:
    """Return the name of the cookie at the address that the browser uses: the base URL, else the Host.

    Browsers send the cookies of a host to each of its ports (RFC 6265 §8.5), so the port and the path below
    which the server is reached are in the name. Servers that share an address share the name, whatever their
    own ports are.
    """
    address = urlsplit(base_url or f"{scheme}://{host}")
    port = _port(address.scheme, address.netloc)
    path = quote(address.path.strip("/"), safe="")
    name = f"seekable-{port}-{path}" if path else f"seekable-{port}"
    # With this prefix browsers take it from this very host alone, by https (RFC 6265bis 4.1.3.2).
    return f"__Host-{name}" if "https" in (address.scheme, scheme) else name


def secret_in(request: HTTPConnection, base_url: str | None) -> str | None:
    """What the browser's cookie holds, if there is one."""
    return request.cookies.get(_name(request, base_url)) or None


def give(
    response: Response, request: HTTPConnection, secret: str, base_url: str | None, *, lasts_s: int
) -> None:
    """Let the browser keep the secret: not for scripts, and not for requests that other sites make."""
    name = _name(request, base_url)
    response.set_cookie(
        name,
        secret,
        max_age=lasts_s,
        path="/",  # as __Host- demands
        httponly=True,
        samesite="lax",
        secure=name.startswith("__Host-"),
    )


def take(response: Response, request: HTTPConnection, base_url: str | None) -> None:
    """Let the browser forget it."""
    name = _name(request, base_url)
    response.delete_cookie(name, path="/", httponly=True, samesite="lax", secure=name.startswith("__Host-"))


def counts(method: str, headers: Headers, *, base_url: str | None) -> bool:
    """Whether a cookie says that a person wants this: not if a page of another site asks. A link on another
    page may be followed all the same."""
    if is_from_our_page(headers, base_url):
        return True
    followed = method in SAFE_METHODS and headers.get("sec-fetch-mode") == "navigate"
    return followed and all(is_own(origin, headers, base_url) for origin in headers.getlist("origin"))


def is_lost(headers: Headers, *, scheme: str, base_url: str | None) -> bool:
    """Whether the browser that shows this page drops our cookie, because the base URL has https and the page
    came by http. Unless that is certain, the page is taken to have come by https."""
    base = urlsplit(base_url or "")
    if base.scheme != "https" or scheme == "https":
        return False
    host = headers.get("host", "").lower()
    is_here = hostname(host) == "localhost" or is_loopback((hostname(host) or "").strip("[]"))
    if may_be_secure(headers) and not is_here:
        return False
    is_said = "x-forwarded-proto" in headers or "forwarded" in headers  # by a proxy, that it was http
    return is_said or _authority("https", host) != _authority("https", base.netloc.lower())


def may_be_secure(headers: Headers) -> bool:
    """Whether a browser takes our address for trustworthy: https, or this machine. Only then it sends
    Fetch Metadata. (Very old browsers send none at all.)"""
    return "sec-fetch-site" in headers


def _name(request: HTTPConnection, base_url: str | None) -> str:
    scheme = "https" if request.scope["scheme"] in ("https", "wss") else "http"
    return name_of(base_url, scheme=scheme, host=request.headers.get("host", ""))


def _port(scheme: str, authority: str) -> str:
    match = _PORT.search(authority)
    return match[1] if match else _DEFAULT_PORTS.get(scheme, "")


def _authority(scheme: str, authority: str) -> tuple[str | None, str]:
    return hostname(authority), _port(scheme, authority)
