"""Request targets, as tables."""

import time

import pytest

from app.http.request_head import InvalidTarget, origin_form, percent_encoded

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
