"""Request targets inside /files/: RFC 3986 §5.2.4 for literal segments only, never out of /files/."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.http.request_head import normalize_path
from app.resources.dependencies import route_path
from app.resources.middleware.targets import TargetMiddleware

NORMALISED = {
    # dot segments
    "/files/lists/../first.mp4": "/files/first.mp4",
    "/files/a/b/../../c": "/files/c",
    "/files/a/./b": "/files/a/b",
    "/files/./a": "/files/a",
    "/files/a/.././b": "/files/b",
    "/files/.": "/files/",
    "/files/a/..": "/files/",
    "/files/a/.": "/files/a/",
    "/files/a/b/..": "/files/a/",
    "/files/a%2Fb/../c": "/files/c",
    "/files/%C3%A9/../c": "/files/c",
    # empty segments
    "/files//a": "/files/a",
    "/files/a//b": "/files/a/b",
    "/files///a///b": "/files/a/b",
    "/files/a//": "/files/a/",
    "/files//": "/files/",
    # both, as a client that resolves dot segments itself would send it
    "/files/a//../b": "/files/a/b",
    "/files//../a": "/files/a",
}
KEPT = [
    # nothing to remove
    *(
        "/files/a",
        "/files/a/b",
        "/files/",
        "/files",
        "/files/.a",
        "/files/a/..b",
        "/files/a./b",
        "/files/...",
    ),
    # out of /files/
    *("/files/..", "/files/../a", "/files/../health", "/files/a/../../b", "/files/a/../..", "/files/./../a"),
    # percent-encoded
    *("/files/%2e%2e/a", "/files/a/%2E/b", "/files/a/.%2e/b", "/files/a/../%2e%2e/b", "/files/%2e%2e/../b"),
    *("/files/a%2F..%2Fb", "/files/a%2F%2Fb", "/files/a/%2f/b"),
    # not inside /files/
    *(
        "/",
        "//",
        "/../files/a",
        "//files/a",
        "/x/../files/a",
        "/playlist.m3u/../files/a",
        "/stream/../files/a",
    ),
    *("/%66iles/a/../b", "/Files/a/../b", "/files../a", "/files%2Fa/../b"),
]


@pytest.mark.parametrize(("path", "expected"), NORMALISED.items(), ids=list(NORMALISED))
def test_literal_dot_and_empty_segments_are_removed(path: str, expected: str) -> None:
    assert normalize_path(path.encode()).decode() == expected
    assert normalize_path(expected.encode()).decode() == expected


@pytest.mark.parametrize("path", KEPT)
def test_path_is_kept_when_outside_files_or_encoded(path: str) -> None:
    assert normalize_path(path.encode()).decode() == path


@given(st.lists(st.sampled_from(["", ".", "..", "a", "%2e", "%2E%2e", "a%2f.."]), max_size=8))
def test_normalised_path_stays_inside_files_or_is_unchanged(segments: list[str]) -> None:
    path = normalize_path(("/files/" + "/".join(segments)).encode())
    segments_left = path.decode().removeprefix("/files/").split("/")
    assert path.startswith(b"/files/")
    if {".", ".."} & set(segments_left):  # dot segments that the name rules reject: nothing was removed
        assert segments_left == segments
    else:
        assert "" not in segments_left[:-1] or segments_left == segments


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
