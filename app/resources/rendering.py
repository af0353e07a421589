"""Representations of responses: JSON that ends with a newline, static assets, and pages of the templates."""

import hashlib
import os
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from app.http.content_disposition import is_inline
from app.resources.dependencies import Services, base_url, file_url
from app.storage.types import FileInfo

if TYPE_CHECKING:
    from jinja2 import Environment


class JSON(JSONResponse):
    """A model, a value or bytes of JSON. The newline at their end keeps a terminal's prompt on a line of its
    own."""

    def render(self, content: Any) -> bytes:
        if isinstance(content, BaseModel):
            content = content.model_dump_json().encode()
        return (content if isinstance(content, bytes) else super().render(content)) + b"\n"


class StaticAssets:
    """The files of a folder. Browsers cache them for good, so `release` must change whenever a file does."""

    def __init__(self, release: str, folder: str | os.PathLike[str]) -> None:
        self.path = f"/assets/{release}"
        self.router = APIRouter(include_in_schema=False)
        self.router.add_api_route(f"{self.path}/{{name}}", self._asset, methods=["GET", "HEAD"])
        self._files = StaticFiles(directory=folder, check_dir=False)

    async def get_unversioned(self, request: Request, name: str) -> Response:
        """Return one of the files for a path without the release."""
        return await self._get(request, name, "public, max-age=86400")

    async def _asset(self, request: Request, name: str) -> Response:
        return await self._get(request, name, "public, max-age=31536000, immutable")

    async def _get(self, request: Request, name: str, cache_control: str) -> Response:
        response = await self._files.get_response(name, request.scope)
        response.headers["cache-control"] = cache_control
        response.headers["x-content-type-options"] = "nosniff"
        return response


_HEADERS = {
    # Templates escape names; the policy is the second line of defence.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    # Not `no-referrer`: forms would then have the origin `null`, like those of any other site.
    "referrer-policy": "same-origin",
    "cache-control": "private, no-cache",
}

_WEB = Path(str(files("app") / "web"))


def _release(folder: Path) -> str:
    contents = b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
    return f"page-{hashlib.sha256(contents).hexdigest()[:12]}"


ASSETS = StaticAssets(_release(_WEB / "assets"), _WEB / "assets")


@dataclass(frozen=True)
class PageLinks:
    """Addresses for templates: paths, so that the browser stays at the host and scheme that it used."""

    base: str
    """The beginning of absolute addresses, for programs other than the browser."""

    @property
    def root(self) -> str:
        """The path that a proxy puts this server below, or ""."""
        return urlsplit(self.base).path

    def to(self, path: str, **query: object) -> str:
        """Return a path of this server with the non-empty parameters."""
        given = {name: value for name, value in query.items() if value}
        return f"{self.root}{path}" + (f"?{urlencode(given, safe='/', quote_via=quote)}" if given else "")

    def file(self, info: FileInfo, **query: object) -> str:
        return self.to(file_url("", info.key), **query)

    def absolute(self, info: FileInfo) -> str:
        return file_url(self.base, info.key)

    def index(self, folder: str) -> str:
        """Return the path of the autoindex of a folder, which lists everything in it."""
        return self.to(f"/files/{quote(folder)}/" if folder else "/files/")

    def asset(self, name: str) -> str:
        return self.to(f"{ASSETS.path}/{name}")


def media_kind(content_type: str) -> str:
    """Return the kind of element that shows the file: `video`, `audio`, `image`, or "" for a link."""
    kind = content_type.partition("/")[0].lower()
    return kind if kind in ("video", "audio", "image") and is_inline(content_type) else ""


def page(
    request: HTTPConnection,
    template: str,
    status: int = 200,
    headers: dict[str, str] | None = None,
    **context: object,
) -> Response:
    """Return a template as a response.

    Every template has `links`, `account` (None before a login), `needs_login` and `read_only`. `trail`
    makes the folder a link in the breadcrumbs, for pages that show something inside it.
    """
    services: Services = request.state.services
    principal = getattr(request.state, "principal", None)
    # Not for a link or a token: its holder may not know whose account it is.
    account = principal.account if principal is not None and principal.may_manage else None
    shared = {
        "links": PageLinks(base_url(request, services.base_url)),
        "account": account,
        "read_only": services.storage.read_only,
        "needs_login": services.accounts is not None and account is None,
    }
    context = {"q": "", "order": "", "folder": "", "trail": False, **context}
    text = _templates().get_template(template).render(**shared, **context)
    # After a logout the browser's Back button must not show private pages.
    kept = {"cache-control": "no-store"} if account is not None else {}
    return HTMLResponse(text, status, headers={**_HEADERS, **kept, **(headers or {})})


@cache
def style_source(name: str) -> str:
    """Return the source expression that allows an inline style of the templates (CSP 3 §2.3.1)."""
    style = _templates().get_template(name).render()
    return f"'sha256-{b64encode(hashlib.sha256(style.encode()).digest()).decode()}'"


@cache
def _templates() -> "Environment":
    # Imported here, because a server that only programs use shows no page. It takes 2 MiB.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415

    templates = Environment(
        loader=FileSystemLoader(_WEB / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters["kind"] = media_kind
    return templates
