"""The session cookie: its name, and the requests that it authenticates, as tables."""

import pytest
from starlette.datastructures import Headers

from app.resources.session_cookies import is_accepted, is_dropped, name_of

BASE = "https://media.example.org"


@pytest.mark.parametrize(
    ("base_url", "scheme", "host", "name"),
    [
        (None, "http", "nas.local:8000", "seekable-8000"),
        (None, "http", "nas.local:8001", "seekable-8001"),
        (None, "http", "nas.local", "seekable-80"),
        (None, "http", "[::1]:8000", "seekable-8000"),
        (None, "http", "[::1]", "seekable-80"),
        (None, "http", "", "seekable-80"),
        (None, "http", "nas.local:", "seekable-80"),
        (None, "http", "nas.local:99999", "seekable-99999"),
        (None, "https", "nas.local", "__Host-seekable-443"),
        (None, "https", "nas.local:8443", "__Host-seekable-8443"),
        ("http://nas.local:8080", "http", "127.0.0.1:8000", "seekable-8080"),
        ("http://nas.local/media", "http", "nas.local", "seekable-80-media"),
        ("http://nas.local/a/b", "http", "nas.local", "seekable-80-a%2Fb"),
        ("http://nas.local/a-b", "http", "nas.local", "seekable-80-a-b"),
        (BASE, "http", "10.0.0.1:8000", "__Host-seekable-443"),
        (f"{BASE}:8443/media", "http", "10.0.0.1:8000", "__Host-seekable-8443-media"),
        ("http://nas.local", "https", "nas.local", "__Host-seekable-80"),
    ],
)
def test_cookie_name_has_port_and_path_of_public_address(
    base_url: str | None, scheme: str, host: str, name: str
) -> None:
    assert name_of(base_url, scheme=scheme, host=host) == name


@pytest.mark.parametrize(
    ("base_url", "scheme", "headers", "expected"),
    [
        (None, "http", {"host": "nas.local:8000"}, False),
        ("http://nas.local", "http", {"host": "10.0.0.1:8000"}, False),
        (BASE, "https", {"host": "media.example.org"}, False),
        (BASE, "http", {"host": "10.0.0.1:8000"}, True),
        (BASE, "http", {"host": "127.0.0.1:8000"}, True),
        # A proxy terminates TLS without an X-Forwarded-Proto.
        (BASE, "http", {"host": "media.example.org"}, False),
        (BASE, "http", {"host": "media.example.org:443"}, False),
        (BASE, "http", {"host": "media.example.org:8080"}, True),
        (BASE, "http", {"host": "seekable:8000", "sec-fetch-site": "none"}, False),
        # A proxy reports http. If the browser reports a secure context, another proxy in front terminates
        # TLS.
        (BASE, "http", {"host": "media.example.org", "x-forwarded-proto": "http"}, True),
        (
            BASE,
            "http",
            {"host": "media.example.org", "x-forwarded-proto": "http", "sec-fetch-site": "none"},
            False,
        ),
        # Browsers treat this machine as a secure context even over http.
        (BASE, "http", {"host": "127.0.0.1:8000", "sec-fetch-site": "none"}, True),
        (BASE, "http", {"host": "localhost:8000", "sec-fetch-site": "none"}, True),
        (BASE, "http", {"host": "[::1]:8000", "sec-fetch-site": "none"}, True),
        ("https://localhost:8443", "http", {"host": "localhost:8443", "sec-fetch-site": "none"}, False),
    ],
)
def test_cookie_is_dropped_when_page_is_http_and_base_url_is_https(
    base_url: str | None, scheme: str, headers: dict[str, str], expected: bool
) -> None:
    assert is_dropped(Headers(headers), scheme=scheme, base_url=base_url) is expected


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("PUT", {}, True),
        ("PUT", {"origin": "http://nas.local:8000"}, True),
        ("PUT", {"origin": "http://nas.local"}, False),
        ("PUT", {"origin": BASE}, True),
        # A proxy drops the port of Host; Sec-Fetch-Site is still right.
        ("PUT", {"origin": "http://nas.local", "sec-fetch-site": "same-origin"}, True),
        ("PUT", {"origin": "http://evil.example", "sec-fetch-site": "none"}, False),
        ("PUT", {"origin": "http://nas.local:8000", "sec-fetch-site": "same-site"}, False),
        ("GET", {"sec-fetch-site": "cross-site"}, False),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, True),
        ("PUT", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, False),
    ],
)
def test_cookie_is_accepted_from_same_origin_only(
    method: str, headers: dict[str, str], expected: bool
) -> None:
    assert is_accepted(method, Headers({"host": "nas.local:8000", **headers}), base_url=BASE) is expected
