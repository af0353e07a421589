"""Logins at addresses where a browser would drop the session cookie."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import filesystem
from tests.http.accounts.conftest import PASSWORD, AccountServer, run_account_server

BASE = "https://media.example.org"


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
