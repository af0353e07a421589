"""The middleware that normalizes request targets: raw path and path agree, below any base path."""

import asyncio
from typing import Any

import pytest

from app.resources.dependencies import route_path
from app.resources.middleware.targets import TargetMiddleware


def received_paths(raw_path: str, root_path: str = "") -> tuple[str, str]:
    """Return the raw path and the route path that the application receives."""
    scope: dict[str, Any] = {
        "type": "http",
        "raw_path": raw_path.encode(),
        "path": "?",
        "root_path": root_path,
    }
    received: dict[str, Any] = {}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        received.update(scope)

    asyncio.run(TargetMiddleware(application)(scope, None, None))  # type: ignore[arg-type]  # passed through unused
    return received["raw_path"].decode(), route_path(received)


def test_path_and_raw_path_agree() -> None:
    assert received_paths("/files/a/../%C3%A9%20b") == ("/files/%C3%A9%20b", "/files/é b")
    assert received_paths("/files/a/../é") == ("/files/é", "/files/é")


@pytest.mark.parametrize("root", ["/tv", "/tv ä"])
def test_base_path_is_optional(root: str) -> None:
    raw = {"/tv": "/tv", "/tv ä": "/tv%20%C3%A4"}[root]
    assert received_paths(f"{raw}/files/a/../b", root) == (f"{raw}/files/b", "/files/b")
    assert received_paths("/files/a/../b", root) == ("/files/b", "/files/b")
    assert received_paths(f"{raw}/files/../../b", root) == (f"{raw}/files/../../b", "?")
