"""The session cookie of a login (RFC 6265), and the requests that it authenticates."""

import re
from functools import lru_cache
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response

from app.http.addresses import is_loopback_host
from app.resources.middleware.host_guard import (
    SAFE_METHODS,
    hostname,
    is_from_our_page,
    is_own_origin,
)

_PORT = re.compile(r":0*([0-9]+)\Z")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


@lru_cache(64)  # called for every request of a browser
def name_of(base_url: str | None, *, scheme: str, host: str) -> str:
    """Return the name of the cookie at the address that the browser uses: the base URL, else the Host.

    Browsers send the cookies of a host to each of its ports (RFC 6265 §8.5), so the port and the path of that
    address are in the name. Replicas behind one address share the name.
    """
    address = urlsplit(base_url or f"{scheme}://{host}")
    port = _port(address.scheme, address.netloc)
    path = quote(address.path.strip("/"), safe="")
    name = f"seekable-{port}-{path}" if path else f"seekable-{port}"
    # With this prefix browsers accept it only from this host by https (RFC 6265bis §4.1.3.2).
    return f"__Host-{name}" if "https" in (address.scheme, scheme) else name


def read(request: HTTPConnection, base_url: str | None) -> str | None:
    """Return the session secret of the request's cookie; None without a cookie."""
    return request.cookies.get(_name(request, base_url)) or None


def store(
    response: Response, request: HTTPConnection, secret: str, base_url: str | None, *, lasts_s: int
) -> None:
    """Make the browser store the secret, hidden from scripts and from requests of other sites."""
    name = _name(request, base_url)
    response.set_cookie(
        name,
        secret,
        max_age=lasts_s,
        path="/",  # required by __Host-
        httponly=True,
        samesite="lax",
        secure=name.startswith("__Host-"),
    )


def delete(response: Response, request: HTTPConnection, base_url: str | None) -> None:
    name = _name(request, base_url)
    response.delete_cookie(name, path="/", httponly=True, samesite="lax", secure=name.startswith("__Host-"))


def is_accepted(method: str, headers: Headers, *, base_url: str | None) -> bool:
    """Return whether the cookie counts: not from another site's page, unless the user followed a link."""
    if is_from_our_page(headers, base_url):
        return True
    followed = method in SAFE_METHODS and headers.get("sec-fetch-mode") == "navigate"
    return followed and all(is_own_origin(origin, headers, base_url) for origin in headers.getlist("origin"))


def is_dropped(headers: Headers, *, scheme: str, base_url: str | None) -> bool:
    """Return whether the browser drops our cookie: the base URL has https, but the request was by http."""
    base = urlsplit(base_url or "")
    if base.scheme != "https" or scheme == "https":
        return False
    host = headers.get("host", "").lower()
    is_local = is_loopback_host(hostname(host) or "")
    if may_be_secure(headers) and not is_local:
        return False
    is_declared = "x-forwarded-proto" in headers or "forwarded" in headers  # a proxy declares http
    return is_declared or _authority("https", host) != _authority("https", base.netloc.lower())


def may_be_secure(headers: Headers) -> bool:
    """Return whether the browser considers our address trustworthy: https, or this machine.

    Only then it sends Fetch Metadata. Very old browsers never do.
    """
    return "sec-fetch-site" in headers


def _name(request: HTTPConnection, base_url: str | None) -> str:
    scheme = "https" if request.scope["scheme"] in ("https", "wss") else "http"
    return name_of(base_url, scheme=scheme, host=request.headers.get("host", ""))


def _port(scheme: str, authority: str) -> str:
    match = _PORT.search(authority)
    return match[1] if match else _DEFAULT_PORTS.get(scheme, "")


def _authority(scheme: str, authority: str) -> tuple[str | None, str]:
    return hostname(authority), _port(scheme, authority)
