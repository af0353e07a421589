"""Normalization of request targets: raw path and path agree, below any base path."""

from typing import Any

import pytest

from app.resources.application import normalize_target
from app.resources.dependencies import route_path


def received_paths(raw_path: str, root_path: str = "") -> tuple[str, str]:
    """Return the raw path and the route path that routes receive."""
    scope: dict[str, Any] = {
        "type": "http",
        "raw_path": raw_path.encode(),
        "path": "?",
        "root_path": root_path,
    }
    normalize_target(scope)
    return scope["raw_path"].decode(), route_path(scope)


def test_path_and_raw_path_agree() -> None:
    assert received_paths("/files/a/../%C3%A9%20b") == ("/files/%C3%A9%20b", "/files/é b")
    assert received_paths("/files/a/../é") == ("/files/é", "/files/é")


@pytest.mark.parametrize("root", ["/tv", "/tv ä"])
def test_base_path_is_optional(root: str) -> None:
    raw = {"/tv": "/tv", "/tv ä": "/tv%20%C3%A4"}[root]
    assert received_paths(f"{raw}/files/a/../b", root) == (f"{raw}/files/b", "/files/b")
    assert received_paths("/files/a/../b", root) == ("/files/b", "/files/b")
    assert received_paths(f"{raw}/files/../../b", root) == (f"{raw}/files/../../b", "?")
