"""Tokens for programs, and invites."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.accounts.models import Scope, hash_secret
from tests.http.accounts.conftest import NUMBERS, PASSWORD, AccountServer, User, basic, bearer, browser
from tests.support import each_backend
from tests.support.sockets import Socket

CheckProblem = Callable[[httpx.Response, int], str]


def create_token(user: User, *scopes: str, name: str = "VLC") -> dict[str, Any]:
    response = user.request("POST", "/account/tokens", json={"name": name, "scopes": [*scopes]})
    assert response.status_code == 201, response.text
    assert response.headers["cache-control"] == "no-store"
    token: dict[str, Any] = response.json()
    return token


# Tokens


def test_token_is_shown_once_and_works_until_revoked(
    account_server: AccountServer, user: User, other_user: User, check_problem: CheckProblem
) -> None:
    user.put("film.mp4", b"mine")
    token = create_token(user, "write", "read", name=" back\u00fcp ")
    assert token["name"] == "back\u00fcp"
    assert token["scopes"] == ["read", "write"]
    secret = token.pop("token")
    assert secret.startswith("skb_")
    assert len(secret) >= 40
    assert user.request("GET", "/account/tokens").json() == {"items": [token]}
    assert account_server.request("GET", "/files/film.mp4", headers=bearer(secret)).content == b"mine"
    check_problem(other_user.request("DELETE", f"/account/tokens/{token['id']}"), 404)
    assert account_server.request("GET", "/files/film.mp4", headers=bearer(secret)).status_code == 200
    assert user.request("DELETE", f"/account/tokens/{token['id']}").status_code == 204
    refused = account_server.request("GET", "/files/film.mp4", headers=bearer(secret))
    check_problem(refused, 401)
    check_problem(user.request("DELETE", f"/account/tokens/{token['id']}"), 404)


def test_token_cannot_manage_accounts(
    account_server: AccountServer, user: User, admin: User, check_problem: CheckProblem
) -> None:
    user.put("film.mp4")
    link, token = user.new_link("film.mp4"), create_token(user, "read")
    for secret in (user.new_token(), admin.new_token()):
        for method, target, body in (
            ("GET", "/account", None),
            ("POST", "/account/password", {"password": PASSWORD, "new_password": "12345678"}),
            ("POST", "/account/delete", {"password": PASSWORD}),
            ("GET", "/account/tokens", None),
            ("POST", "/account/tokens", {"name": "more", "scopes": ["read", "write"]}),
            ("DELETE", f"/account/tokens/{token['id']}", None),
            ("GET", "/account/links", None),
            ("POST", "/account/links", {"path": "film.mp4"}),
            ("DELETE", f"/account/links/{link['id']}", None),
            ("GET", "/invites", None),
            ("POST", "/invites", {}),
            ("DELETE", "/invites/1", None),
            ("GET", "/settings", None),
        ):
            response = account_server.request(method, target, headers=bearer(secret), json=body)
            assert response.status_code == 403, (method, target, response.text)
    assert len(user.request("GET", "/account/tokens").json()["items"]) == 2
    assert account_server.open_link(link["url"]).status_code == 200


def test_invalid_token_request_is_rejected(user: User, check_problem: CheckProblem) -> None:
    for body in (
        {},
        {"name": "VLC"},
        {"name": "VLC", "scopes": []},
        {"name": "VLC", "scopes": ["read", "admin"]},
        {"name": "VLC", "scopes": ["READ"]},
        {"name": "VLC", "scopes": "read"},
        {"name": "VLC", "scopes": {"read": True}},
        {"name": "VLC", "scopes": [["read"]]},
        {"name": "VLC", "scopes": [None]},
        {"name": "", "scopes": ["read"]},
        {"name": "  ", "scopes": ["read"]},
        {"name": "x" * 101, "scopes": ["read"]},
        {"name": "a\nb", "scopes": ["read"]},
        {"name": "a\0b", "scopes": ["read"]},
        {"name": 5, "scopes": ["read"]},
        {"scopes": ["read"]},
    ):
        check_problem(user.request("POST", "/account/tokens", json=body), 422)
    assert user.request("GET", "/account/tokens").json() == {"items": []}


def test_websocket_requires_token_with_read_scope(account_server: AccountServer, user: User) -> None:
    for scopes, status in (((Scope.READ,), 101), ((Scope.WRITE,), 403), ((Scope.READ, Scope.WRITE), 101)):
        with Socket(
            account_server.server, "/events", f"Authorization: Bearer {user.new_token(*scopes)}"
        ) as socket:
            assert socket.status == status


def test_tokens_per_account_are_bounded(account_server: AccountServer, check_problem: CheckProblem) -> None:
    user = account_server.new_user()
    for _ in range(100):
        user.new_token(Scope.READ)
    response = user.request("POST", "/account/tokens", json={"name": "one more", "scopes": ["read"]})
    check_problem(response, 403)


# Invites


@pytest.fixture
def sign_up_with(https_server: AccountServer) -> Iterator[Callable[[str | None], httpx.Response]]:
    """Return a function that signs up with an invite, from an unused address."""
    with ExitStack() as stack:

        def sign_up_with(invite: str | None, email: str = "") -> httpx.Response:
            client = stack.enter_context(browser(https_server.server))
            body = {
                "email": email or f"guest-{next(NUMBERS)}@example.org",
                "password": PASSWORD,
                "invite": invite,
            }
            return client.post("/sign-up", json=body)

        yield sign_up_with


@pytest.fixture
def admin_request(https_server: AccountServer) -> Callable[..., httpx.Response]:
    """Return a function that sends requests as the administrator."""

    def admin_request(method: str, target: str, **options: Any) -> httpx.Response:
        return https_server.request(method, target, headers=basic("admin@example.org"), **options)

    return admin_request


def test_invite_admits_one_sign_up(
    https_server: AccountServer, sign_up_with: Any, admin_request: Any, check_problem: CheckProblem
) -> None:
    response = admin_request("POST", "/invites", json={})
    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    create_token = response.json()
    url = httpx.URL(create_token.pop("url"))
    assert (url.scheme, url.host, url.path) == ("https", "media.example.org", "/sign-up")
    assert create_token in admin_request("GET", "/invites").json()["items"]
    secret = url.params["invite"]
    page = https_server.request("GET", f"/sign-up?invite={secret}")
    assert page.status_code == 200
    assert secret in page.text
    assert sign_up_with(secret).status_code == 201
    assert create_token not in admin_request("GET", "/invites").json()["items"]
    check_problem(sign_up_with(secret), 403)


def test_sign_up_requires_valid_invite(
    https_server: AccountServer, sign_up_with: Any, admin_request: Any, check_problem: CheckProblem
) -> None:
    expired, revoked = https_server.new_invite(timedelta(seconds=-1)), https_server.new_invite()
    admin_request("DELETE", f"/invites/{hash_secret(revoked)}").raise_for_status()
    good = https_server.new_invite()
    for invite in (
        None,
        "",
        "x",
        expired,
        revoked,
        hash_secret(good),
        good + "x",
        good[:-1],
        "\0",
        "x" * 5000,
    ):
        # The error does not reveal whether an account exists.
        details = {check_problem(sign_up_with(invite, email), 403) for email in ("", "admin@example.org")}
        assert len(details) == 1
    assert sign_up_with(good, "not an address").status_code == 422
    assert sign_up_with(good, "admin@example.org").status_code == 409
    assert sign_up_with(good).status_code == 201, "failed attempts do not use up the invite"


@each_backend
def test_one_of_twenty_concurrent_uses_of_an_invite_wins(
    https_server: AccountServer, sign_up_with: Any
) -> None:
    invite = https_server.new_invite()
    with ThreadPoolExecutor(20) as pool:
        statuses = Counter(response.status_code for response in pool.map(sign_up_with, [invite] * 20))
    assert statuses == {201: 1, 403: 19}


def test_invites_require_administrator(https_server: AccountServer, check_problem: CheckProblem) -> None:
    guest = https_server.new_user()
    credentials = {"headers": basic(guest.email)}
    invite = hash_secret(https_server.new_invite())
    for method, target in (("GET", "/invites"), ("POST", "/invites"), ("DELETE", f"/invites/{invite}")):
        body = {"json": {}} if method == "POST" else {}
        check_problem(https_server.request(method, target, **credentials, **body), 403)
    assert invite in {one.hash for one in https_server.store.invites.list()}


def test_invalid_invite_request_is_rejected(admin_request: Any, check_problem: CheckProblem) -> None:
    for expires_in in (0, -1, 1e300, 366 * 86400, "7", None, True, [1]):
        check_problem(admin_request("POST", "/invites", json={"expires_in": expires_in}), 422)
    assert "already used or revoked" in check_problem(admin_request("DELETE", "/invites/none"), 404)


@pytest.mark.parametrize("ended", ["token", "password"])
def test_fetched_playlist_ends_with_its_token_or_password(
    ended: str, account_server: AccountServer, user: User
) -> None:
    """Otherwise a revoked token would keep access for a day. Links that the user shared stay valid."""
    user.put("film.mp4", b"mine")
    shared, token = user.new_link("film.mp4")["url"], user.new_token()
    playlist = account_server.request("GET", "/playlist.m3u", headers=bearer(token)).text
    (entry,) = (line for line in playlist.splitlines() if line.startswith("http"))
    assert account_server.open_link(entry).content == b"mine"
    if ended == "token":
        (create_token,) = user.request("GET", "/account/tokens").json()["items"]
        assert user.request("DELETE", f"/account/tokens/{create_token['id']}").status_code == 204
    else:
        change = {"password": PASSWORD, "new_password": "another password"}
        assert user.request("POST", "/account/password", json=change).status_code == 204
    assert account_server.open_link(entry).status_code == 403
    assert account_server.open_link(shared).content == b"mine"
