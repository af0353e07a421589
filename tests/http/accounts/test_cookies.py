"""What the cookie of a login is called, and where a browser would drop it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers

from app.resources.session_cookies import counts, is_lost, name_of
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
def test_name_has_the_port_and_the_path_of_the_address_in_the_browser(
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
        # A proxy that speaks https and does not say so.
        (BASE, "http", {"host": "media.example.org"}, False),
        (BASE, "http", {"host": "media.example.org:443"}, False),
        (BASE, "http", {"host": "media.example.org:8080"}, True),
        (BASE, "http", {"host": "seekable:8000", "sec-fetch-site": "none"}, False),
        # One that says that it speaks http; of a browser that knows better, one proxy of several says so.
        (BASE, "http", {"host": "media.example.org", "x-forwarded-proto": "http"}, True),
        (
            BASE,
            "http",
            {"host": "media.example.org", "x-forwarded-proto": "http", "sec-fetch-site": "none"},
            False,
        ),
        # Browsers trust this machine without https, too.
        (BASE, "http", {"host": "127.0.0.1:8000", "sec-fetch-site": "none"}, True),
        (BASE, "http", {"host": "localhost:8000", "sec-fetch-site": "none"}, True),
        (BASE, "http", {"host": "[::1]:8000", "sec-fetch-site": "none"}, True),
        ("https://localhost:8443", "http", {"host": "localhost:8443", "sec-fetch-site": "none"}, False),
    ],
)
def test_page_over_http_is_told_where_the_base_url_has_https(
    base_url: str | None, scheme: str, headers: dict[str, str], expected: bool
) -> None:
    assert is_lost(Headers(headers), scheme=scheme, base_url=base_url) is expected


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("PUT", {}, True),
        ("PUT", {"origin": "http://nas.local:8000"}, True),
        ("PUT", {"origin": "http://nas.local"}, False),
        ("PUT", {"origin": BASE}, True),
        # A proxy drops the port of the Host, and the browser knows better.
        ("PUT", {"origin": "http://nas.local", "sec-fetch-site": "same-origin"}, True),
        ("PUT", {"origin": "http://evil.example", "sec-fetch-site": "none"}, False),
        ("PUT", {"origin": "http://nas.local:8000", "sec-fetch-site": "same-site"}, False),
        ("GET", {"sec-fetch-site": "cross-site"}, False),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, True),
        ("PUT", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, False),
    ],
)
def test_cookie_counts_for_pages_of_ours_alone(method: str, headers: dict[str, str], expected: bool) -> None:
    assert counts(method, Headers({"host": "nas.local:8000", **headers}), base_url=BASE) is expected


@pytest.fixture(scope="module")
def https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AccountServer]:
    """A server whose base URL is another address than the one that it is asked at."""
    folder = tmp_path_factory.mktemp("https")
    options: dict[str, Any] = {"base_url": f"{BASE}/media", "allowed_hosts": "nas.local"}
    with run_account_server(folder, filesystem(), **options) as account_server:
        account_server.new_user("admin@example.org")
        yield account_server


def test_login_page_over_http_links_to_the_base_url(https: AccountServer) -> None:
    html = {"accept": "text/html"}
    for target, link in (
        ("/login?next=/?folder=films", f"{BASE}/media/login?next=/?folder=films"),
        ("/sign-up?invite=abc", f"{BASE}/media/sign-up?invite=abc"),
    ):
        page = https.request("GET", target, headers=html)
        assert page.status_code == 200
        assert f'href="{link}"' in page.text
        assert 'type="password"' not in page.text
    form = {"email": "admin@example.org", "password": PASSWORD}
    refused = https.request("POST", "/login", data=form, headers={**html, "origin": https.server.url})
    assert refused.status_code == 403
    assert f'href="{BASE}/media/login"' in refused.text
    assert "set-cookie" not in refused.headers
    # By https the form is there, and programs log in anywhere.
    forwarded = {**html, "x-forwarded-proto": "https"}
    assert 'type="password"' in https.request("GET", "/login", headers=forwarded).text
    assert https.request("POST", "/login", json=form).status_code == 200


def test_write_that_a_proxy_makes_look_foreign_is_refused_with_the_remedy(
    account_server: AccountServer, check_problem: Any
) -> None:
    """By browsers that send no Sec-Fetch-Site, as they do over http: in the same way as the login."""
    user = account_server.new_user()
    origin = {"origin": "http://127.0.0.1"}  # and Host has a port
    form = {"email": user.email, "password": PASSWORD}
    responses: list[httpx.Response] = [
        account_server.request("POST", "/login", data=form, headers=origin),
        user.request("PUT", "/files/film.mp4", content=b"", headers=origin),
    ]
    for response in responses:
        assert "SEEKABLE_BASE_URL" in check_problem(response, 403)
    assert "SEEKABLE_BASE_URL" in check_problem(user.request("GET", "/files", headers=origin), 401)


def test_base_path_with_escapes_leads_to_the_login_and_back(tmp_path: Path) -> None:
    root = "/gr%C3%B6%C3%9Fe%25"
    with run_account_server(tmp_path, filesystem(), base_url=f"http://127.0.0.1{root}") as account_server:
        html = {"accept": "text/html"}
        for path in (f"{root}/files/", "/files/"):  # a proxy passes the path on, or takes it away
            response = httpx.get(f"{account_server.server.url}{path}", headers=html, trust_env=False)
            assert response.status_code == 303
            assert response.headers["location"] == f"{root}/login?next=/files/"
        login = f"{account_server.server.url}{response.headers['location']}"
        assert httpx.get(login, headers=html, trust_env=False).status_code == 200
        user = {"email": "ann@example.org", "password": PASSWORD, "next": "/files/"}
        signed_up = httpx.post(f"{account_server.server.url}{root}/sign-up", data=user, trust_env=False)
        assert signed_up.status_code == 303
        assert signed_up.headers["location"].startswith(f"{root}/")
