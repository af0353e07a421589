"""What people make for programs, and what they invite others with."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.accounts.callers import hashed
from app.accounts.models import Scope
from tests.http.accounts.conftest import NUMBERS, PASSWORD, Person, Private, basic, bearer, browser
from tests.sockets import Socket

Problem = Callable[[httpx.Response, int], str]


def made(person: Person, *scopes: str, name: str = "VLC") -> dict[str, Any]:
    answer = person.ask("POST", "/account/tokens", json={"name": name, "scopes": [*scopes]})
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    token: dict[str, Any] = answer.json()
    return token


# Tokens


def test_a_token_is_shown_once_and_works_until_it_is_revoked(
    private: Private, person: Person, other: Person, problem: Problem
) -> None:
    person.put("film.mp4", b"mine")
    token = made(person, "write", "read", name=" back\u00fcp ")
    assert token["name"] == "back\u00fcp"
    assert token["scopes"] == ["read", "write"]
    secret = token.pop("token")
    assert secret.startswith("skb_")
    assert len(secret) >= 40
    assert person.ask("GET", "/account/tokens").json() == {"items": [token]}
    assert private.ask("GET", "/files/film.mp4", headers=bearer(secret)).content == b"mine"
    problem(other.ask("DELETE", f"/account/tokens/{token['id']}"), 404)
    assert private.ask("GET", "/files/film.mp4", headers=bearer(secret)).status_code == 200
    assert person.ask("DELETE", f"/account/tokens/{token['id']}").status_code == 204
    refused = private.ask("GET", "/files/film.mp4", headers=bearer(secret))
    problem(refused, 401)
    problem(person.ask("DELETE", f"/account/tokens/{token['id']}"), 404)


def test_a_token_manages_no_account(
    private: Private, person: Person, admin: Person, problem: Problem
) -> None:
    person.put("film.mp4")
    link, token = person.link("film.mp4"), made(person, "read")
    for secret in (person.token(), admin.token()):
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
            answer = private.ask(method, target, headers=bearer(secret), json=body)
            assert answer.status_code == 403, (method, target, answer.text)
    assert len(person.ask("GET", "/account/tokens").json()["items"]) == 2
    assert private.open_link(link["url"]).status_code == 200


def test_tokens_of_no_sense_are_not_made(person: Person, problem: Problem) -> None:
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
        problem(person.ask("POST", "/account/tokens", json=body), 422)
    assert person.ask("GET", "/account/tokens").json() == {"items": []}


def test_a_websocket_takes_a_token_for_reading(private: Private, person: Person) -> None:
    for scopes, status in (((Scope.READ,), 101), ((Scope.WRITE,), 403), ((Scope.READ, Scope.WRITE), 101)):
        with Socket(private.server, "/events", f"Authorization: Bearer {person.token(*scopes)}") as socket:
            assert socket.status == status


def test_the_tokens_of_an_account_are_bounded(private: Private, problem: Problem) -> None:
    person = private.person()
    for _ in range(100):
        person.token(Scope.READ)
    answer = person.ask("POST", "/account/tokens", json={"name": "one more", "scopes": ["read"]})
    problem(answer, 403)


# Invites


@pytest.fixture
def invited(guarded: Private) -> Iterator[Callable[[str | None], httpx.Response]]:
    """Sign up with an invite, from an address where nobody was before."""
    with ExitStack() as stack:

        def invited(invite: str | None, email: str = "") -> httpx.Response:
            someone = stack.enter_context(browser(guarded.server))
            body = {
                "email": email or f"guest-{next(NUMBERS)}@example.org",
                "password": PASSWORD,
                "invite": invite,
            }
            return someone.post("/sign-up", json=body)

        yield invited


@pytest.fixture
def host(guarded: Private) -> Callable[..., httpx.Response]:
    """Requests of the administrator."""

    def host(method: str, target: str, **options: Any) -> httpx.Response:
        return guarded.ask(method, target, headers=basic("admin@example.org"), **options)

    return host


def test_an_invite_lets_one_person_in(guarded: Private, invited: Any, host: Any, problem: Problem) -> None:
    answer = host("POST", "/invites", json={})
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    made = answer.json()
    url = httpx.URL(made.pop("url"))
    assert (url.scheme, url.host, url.path) == ("https", "media.example.org", "/sign-up")
    assert made in host("GET", "/invites").json()["items"]
    secret = url.params["invite"]
    page = guarded.ask("GET", f"/sign-up?invite={secret}")
    assert page.status_code == 200
    assert secret in page.text
    assert invited(secret).status_code == 201
    assert made not in host("GET", "/invites").json()["items"]
    problem(invited(secret), 403)


def test_without_an_invite_that_counts_nobody_signs_up(
    guarded: Private, invited: Any, host: Any, problem: Problem
) -> None:
    expired, revoked = guarded.invite(timedelta(seconds=-1)), guarded.invite()
    host("DELETE", f"/invites/{hashed(revoked)}").raise_for_status()
    good = guarded.invite()
    for invite in (None, "", "x", expired, revoked, hashed(good), good + "x", good[:-1], "\0", "x" * 5000):
        # Neither does it tell who has an account.
        told = {problem(invited(invite, email), 403) for email in ("", "admin@example.org")}
        assert len(told) == 1
    assert invited(good, "not an address").status_code == 422
    assert invited(good, "admin@example.org").status_code == 409
    assert invited(good).status_code == 201, "what failed has not used it up"


def test_of_twenty_who_race_for_an_invite_one_gets_in(guarded: Private, invited: Any) -> None:
    invite = guarded.invite()
    with ThreadPoolExecutor(20) as pool:
        statuses = Counter(answer.status_code for answer in pool.map(invited, [invite] * 20))
    assert statuses == {201: 1, 403: 19}


def test_invites_are_for_administrators(guarded: Private, problem: Problem) -> None:
    guest = guarded.person()
    theirs = {"headers": basic(guest.email)}
    invite = hashed(guarded.invite())
    for method, target in (("GET", "/invites"), ("POST", "/invites"), ("DELETE", f"/invites/{invite}")):
        body = {"json": {}} if method == "POST" else {}
        problem(guarded.ask(method, target, **theirs, **body), 403)
    assert invite in {one.hash for one in guarded.store.invites()}


def test_invites_of_no_sense_are_not_made(host: Any, problem: Problem) -> None:
    for lasts in (0, -1, 1e300, 366 * 86400, "7", None, True, [1]):
        problem(host("POST", "/invites", json={"expires_in": lasts}), 422)
    problem(host("DELETE", "/invites/none"), 404)


@pytest.mark.parametrize("ended", ["token", "password"])
def test_a_playlist_that_was_fetched_ends_with_the_token_or_the_password(
    ended: str, private: Private, person: Person
) -> None:
    """Or who has lost the one would have all films for another day. What the person has shared stays."""
    person.put("film.mp4", b"mine")
    shared, token = person.link("film.mp4")["url"], person.token()
    playlist = private.ask("GET", "/playlist.m3u", headers=bearer(token)).text
    (entry,) = (line for line in playlist.splitlines() if line.startswith("http"))
    assert private.open_link(entry).content == b"mine"
    if ended == "token":
        (made,) = person.ask("GET", "/account/tokens").json()["items"]
        assert person.ask("DELETE", f"/account/tokens/{made['id']}").status_code == 204
    else:
        change = {"password": PASSWORD, "new_password": "another password"}
        assert person.ask("POST", "/account/password", json=change).status_code == 204
    assert private.open_link(entry).status_code == 403
    assert private.open_link(shared).content == b"mine"
