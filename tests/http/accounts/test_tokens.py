"""What people make for programs, and what they invite others with."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.accounts.models import Scope
from app.accounts.principals import hashed
from tests.http.accounts.conftest import NUMBERS, PASSWORD, AccountServer, User, basic, bearer, browser
from tests.support import each_backend
from tests.support.sockets import Socket

CheckProblem = Callable[[httpx.Response, int], str]


def made(user: User, *scopes: str, name: str = "VLC") -> dict[str, Any]:
    response = user.request("POST", "/account/tokens", json={"name": name, "scopes": [*scopes]})
    assert response.status_code == 201, response.text
    assert response.headers["cache-control"] == "no-store"
    token: dict[str, Any] = response.json()
    return token


# Tokens


@each_backend
def test_a_token_is_shown_once_and_works_until_it_is_revoked(
    account_server: AccountServer, user: User, other_user: User, check_problem: CheckProblem
) -> None:
    user.put("film.mp4", b"mine")
    token = made(user, "write", "read", name=" back\u00fcp ")
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


def test_a_token_manages_no_account(
    account_server: AccountServer, user: User, admin: User, check_problem: CheckProblem
) -> None:
    user.put("film.mp4")
    link, token = user.new_link("film.mp4"), made(user, "read")
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


def test_tokens_of_no_sense_are_not_made(user: User, check_problem: CheckProblem) -> None:
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


def test_a_websocket_takes_a_token_for_reading(account_server: AccountServer, user: User) -> None:
    for scopes, status in (((Scope.READ,), 101), ((Scope.WRITE,), 403), ((Scope.READ, Scope.WRITE), 101)):
        with Socket(
            account_server.server, "/events", f"Authorization: Bearer {user.new_token(*scopes)}"
        ) as socket:
            assert socket.status == status


def test_the_tokens_of_an_account_are_bounded(
    account_server: AccountServer, check_problem: CheckProblem
) -> None:
    user = account_server.new_user()
    for _ in range(100):
        user.new_token(Scope.READ)
    response = user.request("POST", "/account/tokens", json={"name": "one more", "scopes": ["read"]})
    check_problem(response, 403)


# Invites


@pytest.fixture
def invited(https_server: AccountServer) -> Iterator[Callable[[str | None], httpx.Response]]:
    """Sign up with an invite, from an address where nobody was before."""
    with ExitStack() as stack:

        def invited(invite: str | None, email: str = "") -> httpx.Response:
            someone = stack.enter_context(browser(https_server.server))
            body = {
                "email": email or f"guest-{next(NUMBERS)}@example.org",
                "password": PASSWORD,
                "invite": invite,
            }
            return someone.post("/sign-up", json=body)

        yield invited


@pytest.fixture
def host(https_server: AccountServer) -> Callable[..., httpx.Response]:
    """Requests of the administrator."""

    def host(method: str, target: str, **options: Any) -> httpx.Response:
        return https_server.request(method, target, headers=basic("admin@example.org"), **options)

    return host


def test_an_invite_lets_one_person_in(
    https_server: AccountServer, invited: Any, host: Any, check_problem: CheckProblem
) -> None:
    response = host("POST", "/invites", json={})
    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    made = response.json()
    url = httpx.URL(made.pop("url"))
    assert (url.scheme, url.host, url.path) == ("https", "media.example.org", "/sign-up")
    assert made in host("GET", "/invites").json()["items"]
    secret = url.params["invite"]
    page = https_server.request("GET", f"/sign-up?invite={secret}")
    assert page.status_code == 200
    assert secret in page.text
    assert invited(secret).status_code == 201
    assert made not in host("GET", "/invites").json()["items"]
    check_problem(invited(secret), 403)


def test_without_an_invite_that_counts_nobody_signs_up(
    https_server: AccountServer, invited: Any, host: Any, check_problem: CheckProblem
) -> None:
    expired, revoked = https_server.new_invite(timedelta(seconds=-1)), https_server.new_invite()
    host("DELETE", f"/invites/{hashed(revoked)}").raise_for_status()
    good = https_server.new_invite()
    for invite in (None, "", "x", expired, revoked, hashed(good), good + "x", good[:-1], "\0", "x" * 5000):
        # Neither does it tell who has an account.
        told = {check_problem(invited(invite, email), 403) for email in ("", "admin@example.org")}
        assert len(told) == 1
    assert invited(good, "not an address").status_code == 422
    assert invited(good, "admin@example.org").status_code == 409
    assert invited(good).status_code == 201, "what failed has not used it up"


@each_backend
def test_of_twenty_who_race_for_an_invite_one_gets_in(https_server: AccountServer, invited: Any) -> None:
    invite = https_server.new_invite()
    with ThreadPoolExecutor(20) as pool:
        statuses = Counter(response.status_code for response in pool.map(invited, [invite] * 20))
    assert statuses == {201: 1, 403: 19}


def test_invites_are_for_administrators(https_server: AccountServer, check_problem: CheckProblem) -> None:
    guest = https_server.new_user()
    theirs = {"headers": basic(guest.email)}
    invite = hashed(https_server.new_invite())
    for method, target in (("GET", "/invites"), ("POST", "/invites"), ("DELETE", f"/invites/{invite}")):
        body = {"json": {}} if method == "POST" else {}
        check_problem(https_server.request(method, target, **theirs, **body), 403)
    assert invite in {one.hash for one in https_server.store.invites()}


def test_invites_of_no_sense_are_not_made(host: Any, check_problem: CheckProblem) -> None:
    for lasts in (0, -1, 1e300, 366 * 86400, "7", None, True, [1]):
        check_problem(host("POST", "/invites", json={"expires_in": lasts}), 422)
    check_problem(host("DELETE", "/invites/none"), 404)


@pytest.mark.parametrize("ended", ["token", "password"])
def test_a_playlist_that_was_fetched_ends_with_the_token_or_the_password(
    ended: str, account_server: AccountServer, user: User
) -> None:
    """Or who has lost the one would have all films for another day. What the person has shared stays."""
    user.put("film.mp4", b"mine")
    shared, token = user.new_link("film.mp4")["url"], user.new_token()
    playlist = account_server.request("GET", "/playlist.m3u", headers=bearer(token)).text
    (entry,) = (line for line in playlist.splitlines() if line.startswith("http"))
    assert account_server.open_link(entry).content == b"mine"
    if ended == "token":
        (made,) = user.request("GET", "/account/tokens").json()["items"]
        assert user.request("DELETE", f"/account/tokens/{made['id']}").status_code == 204
    else:
        change = {"password": PASSWORD, "new_password": "another password"}
        assert user.request("POST", "/account/password", json=change).status_code == 204
    assert account_server.open_link(entry).status_code == 403
    assert account_server.open_link(shared).content == b"mine"
