"""The cookie of a login (RFC 6265)."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response

from app.resources.admission import SAFE_METHODS, is_own

_OWN_SITES = ("none", "same-origin")
"""In a Sec-Fetch-Site."""


def secret_in(request: HTTPConnection, *, secure: bool) -> str | None:
    """What the browser's cookie holds, if there is one."""
    return request.cookies.get(_name(request, secure)) or None


def give(response: Response, request: HTTPConnection, secret: str, *, secure: bool, lasts_s: int) -> None:
    """Let the browser keep the secret: not for scripts, and not for requests that other sites make."""
    response.set_cookie(
        _name(request, secure),
        secret,
        max_age=lasts_s,
        path="/",  # as __Host- demands
        httponly=True,
        samesite="lax",
        secure=_is_secure(request, secure),
    )


def take(response: Response, request: HTTPConnection, *, secure: bool) -> None:
    """Let the browser forget it."""
    response.delete_cookie(
        _name(request, secure), path="/", httponly=True, samesite="lax", secure=_is_secure(request, secure)
    )


def counts(method: str, headers: Headers, *, base_url: str | None) -> bool:
    """Whether a cookie says that a person wants this: not if a page of another site asks. Browsers tell
    (Fetch: Sec-Fetch-Site, Origin); a link on another page may be followed all the same. Ours are at the
    base URL, too, whatever Host a proxy asks for."""
    if not _is_ours(headers, base_url):
        return False
    followed = method in SAFE_METHODS and headers.get("sec-fetch-mode") == "navigate"
    return headers.get("sec-fetch-site", "none") in _OWN_SITES or followed


def may_be_given(headers: Headers, *, base_url: str | None) -> bool:
    """Whether a page of ours asks for one, or no page at all. One of another site, though it may write here,
    would log people in to an account of its own choice."""
    site = headers.get("sec-fetch-site")
    return _is_ours(headers, base_url) if site is None else site in _OWN_SITES


def _is_ours(headers: Headers, base_url: str | None) -> bool:
    base = urlsplit(base_url or "")
    ours = f"{base.scheme}://{base.netloc}".lower()
    return all(is_own(origin, headers) or origin.lower() == ours for origin in headers.getlist("origin"))


def _name(request: HTTPConnection, secure: bool) -> str:
    # With this prefix browsers take it from nobody but this very host, by https (RFC 6265bis 4.1.3.2).
    return "__Host-session" if _is_secure(request, secure) else "session"


def _is_secure(request: HTTPConnection, secure: bool) -> bool:
    return secure or request.scope["scheme"] in ("https", "wss")
