"""The documentation of this version at /help/, for all clients: the Markdown files of docs/ as pages."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.metadata import version
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, RedirectResponse, Response

from app.resources.dependencies import base_path, base_url
from app.resources.rendering import page
from app.resources.ui import PageRoute
from app.storage.errors import NotFound

if TYPE_CHECKING:
    from markdown_it.token import Token

ROOT = "/help/"

_EXAMPLE_URL = re.compile(r"\b(http|ws)://([^/@\s]*@)?127\.0\.0\.1:8000")
"""The address in the commands of the documentation: with a user, and as a WebSocket, too."""

_MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class HelpPage:
    """A Markdown file as HTML, with the address of its server still that of the examples (`at_server`)."""

    name: str
    """The last segment of its path; "" for the first page."""
    title: str
    html: str


def docs_folder() -> Path:
    """Return the folder of the Markdown files, in a checkout or in an installed wheel."""
    package = Path(str(files("app")))
    inside, beside = package / "docs", package.parent / "docs"
    return inside if inside.is_dir() else beside


@cache
def pages() -> dict[str, HelpPage]:
    """Return all pages by name: the first page, then the others in the order in which its links name them."""
    folder = docs_folder()
    index = (folder / "index.md").read_text(encoding="utf-8")
    names = dict.fromkeys(re.findall(r"\]\(([\w-]+)\.md\)", index))
    return {
        name: rendered(name, (folder / f"{name or 'index'}.md").read_text(encoding="utf-8"))
        for name in ("", *names)
    }


def rendered(name: str, markdown: str) -> HelpPage:
    """Return the page of a Markdown file. HTML in it is shown as text."""
    # Imported here, because few servers show the documentation. It takes 1.5 MiB.
    from markdown_it import MarkdownIt  # noqa: PLC0415

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    for token in _all_tokens(tokens):
        if token.type == "link_open":
            token.attrs["href"] = page_address(str(token.attrs["href"]))
    for opening, content in pairwise(tokens):
        if opening.type == "heading_open":
            opening.attrs["id"] = anchor(content.content)
    html = parser.renderer.render(tokens, parser.options, {})
    # Regions that scroll must be reachable with the keyboard.
    table = '<div class="wide" role="region" aria-label="Table" tabindex="0"><table>'
    html = html.replace("<table>", table).replace("</table>", "</table></div>")
    html = html.replace("<pre>", '<pre tabindex="0">')
    return HelpPage(name, tokens[1].content, html)


def at_server(html: str, base_url: str) -> str:
    """Return the page with the address of a server in place of that of the examples."""
    scheme, _, rest = base_url.partition("://")
    secure = "s" if scheme == "https" else ""
    return _EXAMPLE_URL.sub(lambda found: f"{found[1]}{secure}://{found[2] or ''}{escape(rest)}", html)


def _all_tokens(tokens: list["Token"]) -> Iterator["Token"]:
    for token in tokens:
        yield token
        yield from token.children or ()


def page_address(link: str) -> str:
    """Return the address of the page for a link between Markdown files; other links as they are."""
    found = re.fullmatch(r"([\w-]+)\.md(#.*)?", link)
    if found is None:
        return link
    name = found[1] if found[1] != "index" else "./"
    return name + (found[2] or "")


def anchor(heading: str) -> str:
    """Return the id of a heading: in small letters, with hyphens for spaces and without punctuation."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower()))


router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.head("/help")
@router.get("/help")
async def redirect_to_first_page(request: Request) -> Response:
    """A redirect to the first page, below which the addresses of the others are relative."""
    return RedirectResponse(f"{base_path(request.scope)}{ROOT}", 308)


@router.head("/help/{name}")
@router.get("/help/{name}")
async def page_or_image(request: Request, name: str) -> Response:
    return _image(name) or _page(request, name)


@router.head(ROOT)
@router.get(ROOT)
async def first_page(request: Request) -> Response:
    return _page(request, "")


@cache
def _images() -> dict[str, Path]:
    """Return all images by name: a name from a request may be one that the system refuses to look for."""
    return {path.name: path for path in docs_folder().iterdir() if path.suffix in _MEDIA_TYPES}


def _image(name: str) -> Response | None:
    """Return an image of the documentation; None for other names."""
    path = _images().get(name)
    if path is None:
        return None
    headers = {"cache-control": "no-cache"}
    return FileResponse(path, media_type=_MEDIA_TYPES[path.suffix], headers=headers)


def _page(request: Request, name: str) -> Response:
    found = pages().get(name)
    if found is None:
        raise NotFound(f"The documentation has no page “{name}”.")
    content = at_server(found.html, base_url(request, request.state.services.base_url))
    return page(
        request,
        "help.html",
        title=found.title,
        name=name,
        pages=pages().values(),
        content=content,
        version=version("seekable"),
    )
