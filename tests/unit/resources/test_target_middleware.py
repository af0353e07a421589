"""Paths of request targets inside /files/: RFC 3986 5.2.4, literal segments only, never out of it."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette._utils import get_route_path

from app.resources.middleware.targets import TargetMiddleware, normalised

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
    # both, as the clients that resolve dots themselves would have sent it
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
    # encoded
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


@pytest.mark.parametrize(("path", "wanted"), NORMALISED.items(), ids=list(NORMALISED))
def test_literal_segments_are_removed(path: str, wanted: str) -> None:
    assert normalised(path.encode()).decode() == wanted
    assert normalised(wanted.encode()).decode() == wanted


@pytest.mark.parametrize("path", KEPT)
def test_a_path_is_kept(path: str) -> None:
    assert normalised(path.encode()).decode() == path


@given(st.lists(st.sampled_from(["", ".", "..", "a", "%2e", "%2E%2e", "a%2f.."]), max_size=8))
def test_a_normalised_path_stays_inside_files_or_is_refused(segments: list[str]) -> None:
    path = normalised(("/files/" + "/".join(segments)).encode())
    left = path.decode().removeprefix("/files/").split("/")
    assert path.startswith(b"/files/")
    if {".", ".."} & set(left):  # dots that the rule for names refuses: nothing was removed
        assert left == segments
    else:
        assert "" not in left[:-1] or left == segments


def seen(raw_path: str, root_path: str = "") -> tuple[str, str]:
    """What the program inside sees: the raw path, and the path that routes and access go by."""
    scope: dict[str, Any] = {
        "type": "http",
        "raw_path": raw_path.encode(),
        "path": "?",
        "root_path": root_path,
    }
    found: dict[str, Any] = {}

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        found.update(scope)

    asyncio.run(TargetMiddleware(inside)(scope, None, None))  # type: ignore[arg-type]  # which it only hands on
    return found["raw_path"].decode(), get_route_path(found)


def test_path_and_raw_path_agree() -> None:
    assert seen("/files/a/../%C3%A9%20b") == ("/files/%C3%A9%20b", "/files/é b")
    assert seen("/files/a/../é") == ("/files/é", "/files/é")


@pytest.mark.parametrize("root", ["/tv", "/tv ä"])
def test_a_base_path_may_be_there_or_not(root: str) -> None:
    raw = {"/tv": "/tv", "/tv ä": "/tv%20%C3%A4"}[root]
    assert seen(f"{raw}/files/a/../b", root) == (f"{raw}/files/b", "/files/b")
    assert seen("/files/a/../b", root) == ("/files/b", "/files/b")
    assert seen(f"{raw}/files/../../b", root) == (f"{raw}/files/../../b", "?")
