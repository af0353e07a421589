"""Pages of other sites get nothing done with the cookie of somebody who looks at them."""

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
def test_no_page_of_another_site_writes_with_a_cookie(
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
def test_no_page_of_another_site_reads_with_a_cookie(site: str, user: User) -> None:
    """It could not see the answer, but what an image or a script needs to load tells something."""
    user.put("film.mp4")
    for target in ("/files/film.mp4", "/files", "/account", "/"):
        assert user.request("GET", target, headers=FOREIGN[site]).status_code == 401


def test_who_follows_a_link_on_another_page_is_logged_in(user: User) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert user.request("GET", "/", headers=headers).status_code == 200
    assert user.request("POST", "/logout", headers=headers).status_code == 403


def test_our_own_pages_write(account_server: AccountServer, user: User) -> None:
    headers = {"sec-fetch-site": "same-origin", "origin": account_server.server.url, "sec-fetch-mode": "cors"}
    assert user.request("PUT", "/files/film.mp4", content=b"mine", headers=headers).status_code == 201
    form = {"sec-fetch-site": "same-origin", "origin": account_server.server.url, "accept": "text/html"}
    assert user.request("POST", "/logout", headers=form).status_code == 303


def test_a_program_that_sends_no_such_headers_writes_with_a_cookie(user: User) -> None:
    assert user.request("PUT", "/files/film.mp4", content=b"mine").status_code == 201


@pytest.mark.parametrize("site", FOREIGN)
def test_no_page_of_another_site_opens_a_websocket_with_a_cookie(
    site: str, account_server: AccountServer, user: User
) -> None:
    if "origin" not in FOREIGN[site]:
        return  # browsers always send one
    headers = [f"{name}: {value}" for name, value in {**FOREIGN[site], **user.headers}.items()]
    for target in ("/", "/events"):
        with Socket(account_server.server, target, *headers) as socket:
            assert socket.status == 403
            assert socket.problem()["status"] == 403


def test_a_site_that_may_use_the_server_does_not_do_so_with_a_cookie(https_server: AccountServer) -> None:
    """Or it could do all that the person may who happens to look at it; a token it has been given counts."""
    user = https_server.new_user()
    theirs = {"Cookie": f"__Host-seekable-443={user.session}"}
    origin = {"origin": "https://app.example.org", "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}

    def send_request(method: str, headers: dict[str, str], **options: Any) -> httpx.Response:
        return https_server.request(method, "/files/film.mp4", headers=headers | origin, **options)

    assert https_server.request("PUT", "/files/film.mp4", headers=theirs, content=b"mine").status_code == 201
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        refused = send_request(method, theirs, content=b"evil" if method == "PUT" else None)
        assert refused.status_code == 401
        assert "access-control-allow-credentials" not in refused.headers
        assert refused.headers["access-control-allow-origin"] in ("https://app.example.org", "*")
    for shown in (bearer(user.new_token()), basic(user.email)):
        response = send_request("GET", shown)
        assert (response.status_code, response.content) == (200, b"mine")
        assert "access-control-allow-credentials" not in response.headers
        assert send_request("PUT", shown, content=b"mine").status_code == 204
    assert send_request("PUT", bearer("skb_x"), content=b"evil").status_code == 401
    with Socket(
        https_server.server, "/events", f"Origin: {origin['origin']}", f"Cookie: {theirs['Cookie']}"
    ) as socket:
        assert socket.status == 401
    token = f"Authorization: Bearer {user.new_token()}"
    with Socket(https_server.server, "/events", f"Origin: {origin['origin']}", token) as socket:
        assert socket.status == 101


@pytest.mark.parametrize("told", ["cross-site", "same-site", None])
def test_a_site_that_may_use_the_server_logs_nobody_in(
    told: str | None, https_server: AccountServer, check_problem: Any
) -> None:
    """Not to an account of its own either, into which they would then put their films."""
    body = {"email": https_server.new_user().email, "password": PASSWORD}
    theirs = {"origin": "https://app.example.org"} | ({"sec-fetch-site": told} if told else {})
    for route in ("/login", "/sign-up"):
        for sent in ({"json": body}, {"data": body}):
            refused = https_server.request("POST", route, headers=theirs, **sent)
            check_problem(refused, 403)
            assert "set-cookie" not in refused.headers
    for ours in (
        {"origin": "https://media.example.org"},
        {"origin": "null", "sec-fetch-site": "same-origin"},
    ):
        assert "set-cookie" in https_server.request("POST", "/login", headers=ours, data=body).headers


def test_a_preflight_is_answered_without_an_account(https_server: AccountServer) -> None:
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


def test_behind_https_the_cookie_is_for_this_host_and_for_https_alone(https_server: AccountServer) -> None:
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
    # Another name is what some other host of the domain could have set.
    assert https_server.request("GET", "/account", headers={"Cookie": f"session={secret}"}).status_code == 401
    gone = https_server.request("POST", "/logout", headers={"Cookie": f"__Host-seekable-443={secret}"})
    assert gone.status_code == 204
    cleared = gone.headers["set-cookie"].lower()
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


def test_the_page_behind_a_proxy_that_changes_the_host_writes(https_server: AccountServer) -> None:
    """The browser's Origin is that of the base URL then, and the Host the one that the proxy connects to."""
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
