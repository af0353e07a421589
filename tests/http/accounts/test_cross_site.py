"""Cross-site requests: a page of another site cannot use the session cookie of its viewer."""

from typing import Any

import httpx
import pytest

from tests.http.accounts.conftest import PASSWORD, AccountServer, User, basic, bearer
from tests.support.sockets import Socket

FOREIGN: dict[str, dict[str, str]] = {
    "cross-site": {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
    "cross-site without an origin": {"sec-fetch-site": "cross-site"},
    "same-site": {"sec-fetch-site": "same-site", "origin": "http://other.127.0.0.1"},
    "same-site without an origin": {"sec-fetch-site": "same-site"},
    "an old browser": {"origin": "https://evil.example"},
    "a sandbox": {"origin": "null"},
    "another port": {"origin": "http://127.0.0.1:1"},
    "a name that ends like ours": {"origin": "http://evil-127.0.0.1"},
    "another scheme's": {"origin": "chrome-extension://abc"},
}

FORM = "application/x-www-form-urlencoded"
WRITES: list[tuple[str, str, dict[str, Any]]] = [
    ("PUT", "/files/film.mp4", {"content": b"evil"}),
    ("PUT", "/files/new.mp4", {"content": b"evil"}),
    ("DELETE", "/files/film.mp4", {}),
    ("PATCH", "/files/film.mp4", {"content": b'{"filename": "b"}'}),
    ("POST", "/file/upload", {"files": {"file": ("new.mp4", b"evil")}}),
    ("POST", "/logout", {}),
    ("POST", "/logout", {"content": b"a=b", "headers": {"content-type": "text/plain"}}),
    ("POST", "/login", {"data": {"email": "a@b", "password": PASSWORD}}),
    ("POST", "/sign-up", {"data": {"email": "evil@example.org", "password": PASSWORD}}),
    ("POST", "/account/password", {"data": {"password": PASSWORD, "new_password": "12345678"}}),
    ("POST", "/account/delete", {"data": {"password": PASSWORD}}),
    ("POST", "/account/delete", {"content": b"password=x", "headers": {"content-type": "text/plain"}}),
    ("POST", "/account/tokens", {"json": {"name": "evil", "scopes": ["read"]}}),
    (
        "POST",
        "/account/tokens",
        {"content": b'{"name": "evil", "scopes": ["read"]}', "headers": {"content-type": "text/plain"}},
    ),
    ("POST", "/account/links", {"json": {"path": "film.mp4"}}),
    ("POST", "/invites", {"json": {}}),
]


@pytest.mark.parametrize("site", FOREIGN)
def test_cross_site_page_cannot_write_with_cookie(
    site: str, account_server: AccountServer, check_problem: Any
) -> None:
    user = account_server.new_user()
    user.put("film.mp4", b"mine")
    for method, target, options in WRITES:
        headers = {**FOREIGN[site], **options.get("headers", {})}
        response = user.request(method, target, **{**options, "headers": headers})
        check_problem(response, 403)
        assert "set-cookie" not in response.headers
    assert (user.content("film.mp4"), user.paths()) == (b"mine", ["film.mp4"])
    assert user.request("GET", "/account/tokens").json() == {"items": []}
    assert user.request("GET", "/account/links").json() == {"items": []}


@pytest.mark.parametrize("site", FOREIGN)
def test_cross_site_page_cannot_read_with_cookie(site: str, user: User) -> None:
    """The page cannot read the response, but the load time of an image or a script leaks information."""
    user.put("film.mp4")
    for target in ("/files/film.mp4", "/files", "/account", "/"):
        assert user.request("GET", target, headers=FOREIGN[site]).status_code == 401


def test_user_is_logged_in_when_following_cross_site_link(user: User) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert user.request("GET", "/", headers=headers).status_code == 200
    assert user.request("POST", "/logout", headers=headers).status_code == 403


def test_same_origin_page_may_write(account_server: AccountServer, user: User) -> None:
    headers = {"sec-fetch-site": "same-origin", "origin": account_server.server.url, "sec-fetch-mode": "cors"}
    assert user.request("PUT", "/files/film.mp4", content=b"mine", headers=headers).status_code == 201
    form = {"sec-fetch-site": "same-origin", "origin": account_server.server.url, "accept": "text/html"}
    assert user.request("POST", "/logout", headers=form).status_code == 303


def test_program_without_browser_headers_may_write_with_cookie(user: User) -> None:
    assert user.request("PUT", "/files/film.mp4", content=b"mine").status_code == 201


@pytest.mark.parametrize("site", FOREIGN)
def test_cross_site_page_cannot_open_websocket_with_cookie(
    site: str, account_server: AccountServer, user: User
) -> None:
    if "origin" not in FOREIGN[site]:
        return  # browsers send one with every WebSocket
    headers = [f"{name}: {value}" for name, value in {**FOREIGN[site], **user.headers}.items()]
    for target in ("/", "/events"):
        with Socket(account_server.server, target, *headers) as socket:
            assert socket.status == 403
            assert socket.problem()["status"] == 403


def test_cors_origin_cannot_use_cookie(https_server: AccountServer) -> None:
    """With the cookie, a page of that site would have all rights of its viewer. Explicit credentials are
    accepted."""
    user = https_server.new_user()
    session_cookie = {"Cookie": f"__Host-seekable-443={user.session}"}
    origin = {"origin": "https://app.example.org", "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}

    def send_request(method: str, headers: dict[str, str], **options: Any) -> httpx.Response:
        return https_server.request(method, "/files/film.mp4", headers=headers | origin, **options)

    assert (
        https_server.request("PUT", "/files/film.mp4", headers=session_cookie, content=b"mine").status_code
        == 201
    )
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        refused = send_request(method, session_cookie, content=b"evil" if method == "PUT" else None)
        assert refused.status_code == 401
        assert "access-control-allow-credentials" not in refused.headers
        assert refused.headers["access-control-allow-origin"] in ("https://app.example.org", "*")
    for credentials in (bearer(user.new_token()), basic(user.email)):
        response = send_request("GET", credentials)
        assert (response.status_code, response.content) == (200, b"mine")
        assert "access-control-allow-credentials" not in response.headers
        assert send_request("PUT", credentials, content=b"mine").status_code == 204
    assert send_request("PUT", bearer("skb_x"), content=b"evil").status_code == 401
    with Socket(
        https_server.server, "/events", f"Origin: {origin['origin']}", f"Cookie: {session_cookie['Cookie']}"
    ) as socket:
        assert socket.status == 401
    token = f"Authorization: Bearer {user.new_token()}"
    with Socket(https_server.server, "/events", f"Origin: {origin['origin']}", token) as socket:
        assert socket.status == 101


@pytest.mark.parametrize("fetch_site", ["cross-site", "same-site", None])
def test_cors_origin_cannot_log_in(
    fetch_site: str | None, https_server: AccountServer, check_problem: Any
) -> None:
    """Not even to its own account: its viewers would then upload their films there."""
    body = {"email": https_server.new_user().email, "password": PASSWORD}
    headers = {"origin": "https://app.example.org"} | ({"sec-fetch-site": fetch_site} if fetch_site else {})
    for route in ("/login", "/sign-up"):
        for body_options in ({"json": body}, {"data": body}):
            refused = https_server.request("POST", route, headers=headers, **body_options)
            check_problem(refused, 403)
            assert "set-cookie" not in refused.headers
    for own_origin in (
        {"origin": "https://media.example.org"},
        {"origin": "null", "sec-fetch-site": "same-origin"},
    ):
        assert "set-cookie" in https_server.request("POST", "/login", headers=own_origin, data=body).headers


def test_preflight_needs_no_account(https_server: AccountServer) -> None:
    response = https_server.request(
        "OPTIONS",
        "/files/film.mp4",
        headers={
            "origin": "https://app.example.org",
            "access-control-request-method": "PUT",
            "access-control-request-headers": "authorization",
        },
    )
    assert response.status_code == 200
    assert "authorization" in response.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in response.headers


def test_cookie_is_secure_and_host_only_behind_https(https_server: AccountServer) -> None:
    https_server.new_account("https@example.org")
    body = {"email": "https@example.org", "password": PASSWORD}
    response = https_server.request("POST", "/login", json=body)
    assert response.status_code == 200
    (field,) = response.headers.get_list("set-cookie")
    pair, *attributes = field.split("; ")
    name, _, secret = pair.partition("=")
    assert name == "__Host-seekable-443"
    assert {attribute.lower() for attribute in attributes} == {
        "httponly",
        "samesite=lax",
        "secure",
        "path=/",
        f"max-age={90 * 86400}",
    }
    assert (
        https_server.request(
            "GET", "/account", headers={"Cookie": f"__Host-seekable-443={secret}"}
        ).status_code
        == 200
    )
    # Another host of the domain could set a cookie of any other name.
    assert https_server.request("GET", "/account", headers={"Cookie": f"session={secret}"}).status_code == 401
    logged_out = https_server.request("POST", "/logout", headers={"Cookie": f"__Host-seekable-443={secret}"})
    assert logged_out.status_code == 204
    cleared = logged_out.headers["set-cookie"].lower()
    assert cleared.startswith('__host-seekable-443=""; ')
    assert "; secure" in cleared
    assert "; path=/" in cleared
    assert "domain" not in cleared
    assert (
        https_server.request(
            "GET", "/account", headers={"Cookie": f"__Host-seekable-443={secret}"}
        ).status_code
        == 401
    )


def test_page_may_write_when_proxy_changes_host(https_server: AccountServer) -> None:
    """Origin is then that of the base URL, and Host the address that the proxy connects to."""
    user = https_server.new_user()
    headers = {
        "Cookie": f"__Host-seekable-443={user.session}",
        "origin": "https://media.example.org",
        "sec-fetch-site": "same-origin",
        "sec-fetch-mode": "cors",
    }
    assert https_server.request("PUT", "/files/film.mp4", headers=headers, content=b"mine").status_code == 201
    with Socket(
        https_server.server, "/events", *(f"{name}: {value}" for name, value in headers.items())
    ) as socket:
        assert socket.status == 101
