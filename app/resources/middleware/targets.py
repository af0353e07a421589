"""Normalizes request targets below /files/, before authentication and routes read the path.

Some players, mpv among them, request the addresses of a playlist exactly as it contains them.
"""

from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.request_head import normalize_path
from app.resources.dependencies import base_path


class TargetMiddleware:
    """Removes dot segments and empty segments, so that everything inside it reads one path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raw = scope["raw_path"]
            if b"/." in raw or b"//" in raw:
                _normalize(scope, raw)
        await self._app(scope, receive, send)


def _normalize(scope: Scope, raw: bytes) -> None:
    # A proxy may send the path that it puts this server below, or remove it.
    root = base_path(scope).encode()
    prefix = root if raw.startswith(root + b"/files/") else b""
    path = prefix + normalize_path(raw[len(prefix) :])
    if path != raw:
        scope["raw_path"] = path
        # Decoded as the server does; library_of rejects invalid UTF-8.
        scope["path"] = unquote_to_bytes(path).decode(errors="replace")
