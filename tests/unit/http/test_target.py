"""Request targets, as tables."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.http.request_head import InvalidTarget, normalize_path, origin_form, percent_encoded

HOST = [(b"accept", b"*/*"), (b"host", b"localhost")]


@pytest.mark.parametrize(
    ("target", "form", "authority"),
    [
        (b"http://a", b"/", b"a"),
        (b"http://a/", b"/", b"a"),
        (b"HTTP://A:80/b?c", b"/b?c", b"A:80"),
        (b"https://a.example:8443/b", b"/b", b"a.example:8443"),
        (b"http://a?b=c", b"/?b=c", b"a"),
        (b"http://a#b", b"/#b", b"a"),
        (b"http://[::1]:8000/b", b"/b", b"[::1]:8000"),
        (b"http://a/http://b/c", b"/http://b/c", b"a"),
        (b"http://a//b", b"//b", b"a"),
    ],
)
def test_absolute_form_becomes_origin_form_and_host(target: bytes, form: bytes, authority: bytes) -> None:
    assert origin_form(target, "1.1", HOST) == (form, [(b"accept", b"*/*"), (b"host", authority)])


@pytest.mark.parametrize(
    "target",
    [b"", b"a", b"http:/a", b"http://", b"http:///a", b"http://?a", b"http://u:p@a/", b"http://a@b@c/",
     b"ftp://a/", b"a:80", b"xhttp://a/", b"urn:a"],
)  # fmt: skip
def test_malformed_target_raises(target: bytes) -> None:
    with pytest.raises(InvalidTarget):
        origin_form(target, "1.1", HOST)


@pytest.mark.parametrize(
    ("version", "hosts", "expected"),
    [
        ("1.1", [], []),
        ("1.0", [], [b"a"]),
        ("1.1", [b"x", b"y"], [b"x", b"y"]),
        ("1.0", [b"x", b"y"], [b"x", b"y"]),
        ("1.0", [b"x"], [b"a"]),
    ],
)
def test_origin_form_leaves_missing_or_repeated_host_as_it_is(
    version: str, hosts: list[bytes], expected: list[bytes]
) -> None:
    _, headers = origin_form(b"http://a/", version, [(b"host", host) for host in hosts])
    assert headers == [(b"host", host) for host in expected]


def test_escaped_percent_encodes_non_ascii_bytes() -> None:
    assert (
        percent_encoded("GET /é/%20/🎬?ü HTTP/1.1".encode())
        == b"GET /%C3%A9/%20/%F0%9F%8E%AC?%C3%BC HTTP/1.1"
    )
    assert percent_encoded(b"\xff\x80a") == b"%FF%80a"


def test_escaping_many_bytes_does_not_block_the_event_loop() -> None:
    began = time.process_time()
    percent_encoded(b"\xff" * (1 << 20))  # four times the most that the event loop reads at once
    assert time.process_time() - began < 0.1


# Paths below /files/: RFC 3986 §5.2.4 for literal segments only, never out of /files/.

NORMALIZED = {
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


@pytest.mark.parametrize(("path", "expected"), NORMALIZED.items(), ids=list(NORMALIZED))
def test_literal_dot_and_empty_segments_are_removed(path: str, expected: str) -> None:
    assert normalize_path(path.encode()).decode() == expected
    assert normalize_path(expected.encode()).decode() == expected


@pytest.mark.parametrize("path", KEPT)
def test_path_is_kept_when_outside_files_or_encoded(path: str) -> None:
    assert normalize_path(path.encode()).decode() == path


@given(st.lists(st.sampled_from(["", ".", "..", "a", "%2e", "%2E%2e", "a%2f.."]), max_size=8))
def test_normalized_path_stays_inside_files_or_is_unchanged(segments: list[str]) -> None:
    path = normalize_path(("/files/" + "/".join(segments)).encode())
    segments_left = path.decode().removeprefix("/files/").split("/")
    assert path.startswith(b"/files/")
    if {".", ".."} & set(segments_left):  # dot segments that the name rules reject: nothing was removed
        assert segments_left == segments
    else:
        assert "" not in segments_left[:-1] or segments_left == segments
