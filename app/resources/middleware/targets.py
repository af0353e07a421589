"""Paths of request targets inside /files/, without dot segments and empty segments (RFC 3986 5.2.4).

Some players, mpv among them, send the addresses of a playlist's entries as the playlist has them.
"""

from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Receive, Scope, Send

from app.resources.dependencies import base_path

FILES = b"/files/"

_DOTS = (b".", b"..")


def normalised(path: bytes) -> bytes:
    """Return a path below /files/ without its dot segments and empty segments; any other path as it is.

    Only literal segments count. A path that leads out of /files/, or that holds an encoded dot segment
    (`%2e%2e`), is returned as it is, dots included, so that the rule for names refuses it.
    """
    if not path.startswith(FILES) or (b"/." not in path and b"//" not in path):
        return path
    segments = path[len(FILES) :].split(b"/")
    if any(b"%2" in segment and unquote_to_bytes(segment) in _DOTS for segment in segments):
        return path
    kept: list[bytes] = []
    for segment in segments:
        if segment == b"..":
            if not kept:
                return path
            kept.pop()
        elif segment != b".":
            kept.append(segment)
    # Empty segments last: `a//../b` is `a/b` to the clients that resolve dots themselves.
    names = [segment for segment in kept if segment]
    is_folder = bool(names) and segments[-1] in (b"", *_DOTS)
    return FILES + b"/".join(names) + (b"/" if is_folder else b"")


class TargetMiddleware:
    """Normalises targets for everything inside it: routes and the check of access see one path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raw = scope["raw_path"]
            if b"/." in raw or b"//" in raw:
                _normalise(scope, raw)
        await self._app(scope, receive, send)


def _normalise(scope: Scope, raw: bytes) -> None:
    # A proxy may pass the path that it puts this server below, or leave it out.
    root = base_path(scope).encode()
    prefix = root if raw.startswith(root + FILES) else b""
    path = prefix + normalised(raw[len(prefix) :])
    if path != raw:
        scope["raw_path"] = path
        # As the server decodes it; library_of refuses what is not UTF-8.
        scope["path"] = unquote_to_bytes(path).decode(errors="replace")
