"""The session cookie: its name, and requests from which a browser would lose it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers

from app.resources.session_cookies import is_accepted, is_dropped, name_of
from tests.conftest import filesystem
from tests.http.accounts.conftest import PASSWORD, AccountServer, run_account_server

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
def test_cookie_is_lost_when_page_is_http_and_base_url_is_https(
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
def test_cookie_is_valid_for_same_origin_requests_only(
    method: str, headers: dict[str, str], expected: bool
) -> None:
    assert is_accepted(method, Headers({"host": "nas.local:8000", **headers}), base_url=BASE) is expected


@pytest.fixture(scope="module")
def https_base_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AccountServer]:
    """A server whose base URL differs from the address that requests use."""
    folder = tmp_path_factory.mktemp("https")
    options: dict[str, Any] = {"base_url": f"{BASE}/media", "allowed_hosts": "nas.local"}
    with run_account_server(folder, filesystem(), **options) as account_server:
        account_server.new_user("admin@example.org")
        yield account_server


def test_login_page_over_http_links_to_base_url(https_base_server: AccountServer) -> None:
    html = {"accept": "text/html"}
    for target, link in (
        ("/login?next=/?folder=films", f"{BASE}/media/login?next=/?folder=films"),
        ("/sign-up?invite=abc", f"{BASE}/media/sign-up?invite=abc"),
    ):
        page = https_base_server.request("GET", target, headers=html)
        assert page.status_code == 200
        assert f'href="{link}"' in page.text
        assert 'type="password"' not in page.text
    form = {"email": "admin@example.org", "password": PASSWORD}
    refused = https_base_server.request(
        "POST", "/login", data=form, headers={**html, "origin": https_base_server.server.url}
    )
    assert refused.status_code == 403
    assert f'href="{BASE}/media/login"' in refused.text
    assert "set-cookie" not in refused.headers
    # Over https the form is shown, and programs log in over either.
    forwarded = {**html, "x-forwarded-proto": "https"}
    assert 'type="password"' in https_base_server.request("GET", "/login", headers=forwarded).text
    assert https_base_server.request("POST", "/login", json=form).status_code == 200


def test_write_is_refused_with_remedy_when_proxy_changes_origin(
    account_server: AccountServer, check_problem: Any
) -> None:
    """Browsers send no Sec-Fetch-Site over http, so only Origin and Host are compared."""
    user = account_server.new_user()
    origin = {"origin": "http://127.0.0.1"}  # the Host has a port
    form = {"email": user.email, "password": PASSWORD}
    responses: list[httpx.Response] = [
        account_server.request("POST", "/login", data=form, headers=origin),
        user.request("PUT", "/files/film.mp4", content=b"", headers=origin),
    ]
    for response in responses:
        assert "SEEKABLE_BASE_URL" in check_problem(response, 403)
    assert "SEEKABLE_BASE_URL" in check_problem(user.request("GET", "/files", headers=origin), 401)


def test_base_path_with_escapes_survives_login(tmp_path: Path) -> None:
    root = "/gr%C3%B6%C3%9Fe%25"
    with run_account_server(tmp_path, filesystem(), base_url=f"http://127.0.0.1{root}") as account_server:
        html = {"accept": "text/html"}
        for path in (f"{root}/files/", "/files/"):  # a proxy forwards the path unchanged, or strips it
            response = httpx.get(f"{account_server.server.url}{path}", headers=html, trust_env=False)
            assert response.status_code == 303
            assert response.headers["location"] == f"{root}/login?next=/files/"
        login = f"{account_server.server.url}{response.headers['location']}"
        assert httpx.get(login, headers=html, trust_env=False).status_code == 200
        user = {"email": "ann@example.org", "password": PASSWORD, "next": "/files/"}
        signed_up = httpx.post(f"{account_server.server.url}{root}/sign-up", data=user, trust_env=False)
        assert signed_up.status_code == 303
        assert signed_up.headers["location"].startswith(f"{root}/")
