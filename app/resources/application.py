"""The application: all routes in the order in which they are matched, and what applies to all of them."""

from typing import Any, Literal
from urllib.parse import unquote_to_bytes

from fastapi import FastAPI
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.request_head import normalize_path
from app.resources import (
    account_items,
    accounts,
    autoindex,
    downloads,
    files,
    health,
    listing,
    manual,
    openapi,
    playlists,
    rendering,
    sockets,
    ui,
    upload_routes,
)
from app.resources.dependencies import base_path

# StreamMiddleware responds to every GET and HEAD whose path a route of downloads.router matches, before these
# routes are tried. A GET route below /files/, such as /files/count, would be documented and never called.
_FILES = (
    upload_routes.form_router,
    downloads.router,
    upload_routes.put_router,
    files.router,
    autoindex.router,
    listing.router,
    playlists.router,
)
_ACCOUNTS = (
    accounts.router,
    account_items.router,
    ui.account_pages,
)
_OTHERS = (
    health.router,
    openapi.router,
    ui.router,
    manual.router,
    sockets.router,
    rendering.ASSETS.router,
)


def routes(*, accounts: bool, metrics: Literal["off", "local", "open"]) -> list[BaseRoute]:
    """Return the routes as one flat list: nested routers would each be searched twice per request."""
    metrics_routers = () if metrics == "off" else (health.metrics_router(any_peer=metrics == "open"),)
    routers = (*_FILES, *(_ACCOUNTS if accounts else ()), *metrics_routers, *_OTHERS)
    return [route for router in routers for route in router.routes]


class Application(FastAPI):
    """FastAPI below the path of a proxy, with normalized targets and our OpenAPI document."""

    session_cookie: str | None = None
    """The name of the login cookie in the OpenAPI document; None without accounts."""
    base_path = ""
    """The path that a proxy puts this server below, decoded."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # FastAPI's own parameter is deprecated, and the server's is not set under `uvicorn app.main:app`.
        if self.base_path:
            scope["root_path"] = self.base_path
            if scope["type"] == "http" and scope["path"] == self.base_path:  # as a user types the address
                scope["path"], scope["raw_path"] = f"{self.base_path}/", scope["raw_path"] + b"/"
        if scope["type"] == "http" and (b"/." in scope["raw_path"] or b"//" in scope["raw_path"]):
            normalize_target(scope)
        await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            openapi.complete(super().openapi(), self.routes, cookie=self.session_cookie)
        return super().openapi()


def normalize_target(scope: Scope) -> None:
    """Remove dot and empty segments below /files/, before authentication and routes read the path.

    Some players, mpv among them, request the addresses of a playlist exactly as it contains them.
    """
    raw = scope["raw_path"]
    # A proxy may send the path that it puts this server below, or remove it.
    root = base_path(scope).encode()
    prefix = root if raw.startswith(root + b"/files/") else b""
    path = prefix + normalize_path(raw[len(prefix) :])
    if path != raw:
        scope["raw_path"] = path
        # Decoded as the server does; library_of rejects invalid UTF-8.
        scope["path"] = unquote_to_bytes(path).decode(errors="replace")


_NOSNIFF = (b"x-content-type-options", b"nosniff")


class NoSniffMiddleware:
    """Adds nosniff to every response that lacks it.

    Stored files, of which thousands are sent per second, and problem documents have it already.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_nosniff(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                if all(name != _NOSNIFF[0] for name, _ in headers):
                    message = {**message, "headers": [*headers, _NOSNIFF]}
            await send(message)

        await self._app(scope, receive, send_with_nosniff if scope["type"] == "http" else send)
