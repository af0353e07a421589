"""How a page is made: a template, the links in it, the policy it is sent with; errors as pages, too."""

import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from app.accounts.errors import AccountError
from app.http.content_disposition import is_inline
from app.resources.dependencies import Services, base_url, file_url
from app.resources.docs import Assets
from app.resources.errors import explained
from app.resources.problems import Problem
from app.storage.errors import StorageError
from app.storage.types import FileInfo

HEADERS = {
    # Scripts, styles and requests of this server alone; names are escaped, and this holds should one not be.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    # Not `no-referrer`: forms would then come from the origin `null`, which could be any site's.
    "referrer-policy": "same-origin",
    "cache-control": "private, no-cache",
}

_WEB = Path(str(files("app") / "web"))


def _release(folder: Path) -> str:
    contents = b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
    return f"page-{hashlib.sha256(contents).hexdigest()[:12]}"


ASSETS = Assets(_release(_WEB / "assets"), _WEB / "assets")


@dataclass(frozen=True)
class Links:
    """Where things are, as paths: so the browser stays with the host and the scheme that it came by."""

    base: str
    """What absolute addresses begin with, for programs other than the browser."""

    @property
    def root(self) -> str:
        """What comes before all paths, where a proxy put this server below one; else nothing."""
        return urlsplit(self.base).path

    def to(self, path: str, **query: object) -> str:
        """A path of this server, with what of the query is not empty."""
        given = {name: value for name, value in query.items() if value}
        return f"{self.root}{path}" + (f"?{urlencode(given, safe='/', quote_via=quote)}" if given else "")

    def file(self, info: FileInfo, **query: object) -> str:
        """The bytes of a file."""
        return self.to(file_url("", info.key), **query)

    def absolute(self, info: FileInfo) -> str:
        """The address of the bytes for other programs."""
        return file_url(self.base, info.key)

    def index(self, folder: str) -> str:
        """The page of links to all that is in a folder, however much that is."""
        return self.to(f"/files/{quote(folder)}/" if folder else "/files/")

    def asset(self, name: str) -> str:
        return self.to(f"{ASSETS.path}/{name}")


class PageRoute(APIRoute):
    """Tells errors as a page: who sees them here reads no JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def answer_in_html(request: Request) -> Response:
            try:
                return await answer(request)
            except (AccountError, StorageError, RequestValidationError) as error:
                return await error_page(request, error)

        return answer_in_html


async def error_page(request: Request, error: Exception) -> Response:
    """The answer to an error of the table, as a page."""
    told = await explained(request, error)
    problem = Problem.model_validate_json(bytes(told.body))
    kept = {name: value for name, value in told.headers.items() if name == "retry-after"}
    return page(request, "error.html", problem.status, kept, problem=problem, folder="")


def is_for_a_person(request: Request) -> bool:
    """Whether a browser asks that shows the answer; players and scripts take anything."""
    return "text/html" in request.headers.get("accept", "")


def kind_of(content_type: str) -> str:
    """What shows it on a page: `video`, `audio` or `image`; else "", and it is a link."""
    kind = content_type.partition("/")[0].lower()
    return kind if kind in ("video", "audio", "image") and is_inline(content_type) else ""


def page(
    request: Request,
    template: str,
    status: int = 200,
    headers: dict[str, str] | None = None,
    **context: object,
) -> Response:
    """An answer that is a page. Every template has `links`, `account`: who is signed in, or None, and
    `read_only`: whether no file can be changed."""
    services: Services = request.state.services
    links = Links(base_url(request, services.base_url))
    # trail: that the folder is not where the reader is, but on the way there.
    context = {"q": "", "order": "", "folder": "", "trail": False, **context}
    caller = getattr(request.state, "caller", None)
    account = caller.account if caller is not None else None
    shown = {"links": links, "account": account, "read_only": services.storage.read_only}
    text = _templates().get_template(template).render(**shown, **context)
    # What is somebody's is not shown to whoever goes back in the browser when they have logged out.
    kept = {"cache-control": "no-store"} if account is not None else {}
    return HTMLResponse(text, status, headers={**HEADERS, **kept, **(headers or {})})


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(_WEB / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters["kind"] = kind_of
    return templates
