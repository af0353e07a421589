"""What ends is over within 5 s, whoever ended it: sessions, tokens, links, passwords and whole accounts."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from app.accounts.models import SigningKey
from app.accounts.passwords import Passwords
from app.accounts.principals import hashed, now
from tests.conftest import BACKENDS
from tests.http.accounts.conftest import PASSWORD, AccountServer, User, basic, bearer, run_account_server
from tests.http.accounts.test_links import token_of
from tests.http.accounts.test_sockets import POLICY_VIOLATION, socket
from tests.http.conftest import RawConnection, check_problem
from tests.support import noise
from tests.support.sockets import TEXT, Socket
from tests.support.together import Outcomes, Together

NEW = "another good password"
FILM = 6 << 20
"""Bytes, more than the kernels keep for a client that does not read."""

waiting = Together("waiting")
"""The server looks anew every two seconds, and they all wait for that: each on accounts of its own."""


@pytest.fixture(scope="module")
def everywhere(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Outcomes]]:
    """All of them over every backend, at the same time."""
    with ExitStack() as stack:
        servers = {
            backend: stack.enter_context(run_account_server(tmp_path_factory.mktemp(backend), new_library()))
            for backend, new_library in BACKENDS.items()
        }
        for account_server in servers.values():
            account_server.new_user("admin@example.org")

        def begun(account_server: AccountServer) -> Outcomes:
            return stack.enter_context(waiting.begun(request, lambda _: (account_server.for_thread(stack),)))

        yield {backend: begun(account_server) for backend, account_server in servers.items()}


@pytest.fixture(scope="module", name="waiting", params=BACKENDS)
def begun(request: pytest.FixtureRequest, everywhere: dict[str, Outcomes]) -> Outcomes:
    return everywhere[request.param]


End = Callable[[AccountServer, User], object]


def change_password(account_server: AccountServer, user: User) -> object:
    return user.request(
        "POST", "/account/password", json={"password": PASSWORD, "new_password": "another good one"}
    ).raise_for_status()


def delete(account_server: AccountServer, user: User) -> object:
    return user.request("POST", "/account/delete", json={"password": PASSWORD}).raise_for_status()


def revoke(account_server: AccountServer, user: User) -> object:
    (token,) = user.request("GET", "/account/tokens").json()["items"]
    return user.request("DELETE", f"/account/tokens/{token['id']}").raise_for_status()


# What ends it, and which of the three kinds of sockets then close: by cookie, by password, by token.
ENDS: dict[str, tuple[End, set[str]]] = {
    "logout": (lambda _, user: user.request("POST", "/logout").raise_for_status(), {"cookie"}),
    "logout elsewhere": (
        lambda account_server, one: account_server.store.remove_session(hashed(one.session)),
        {"cookie"},
    ),
    "a new password": (change_password, {"cookie", "password"}),
    "a token revoked": (revoke, {"token"}),
    "an account disabled elsewhere": (
        lambda account_server, one: account_server.store.set_disabled(one.account.id, True),
        {"cookie", "password", "token"},
    ),
    "an account deleted": (delete, {"cookie", "password", "token"}),
}


@contextmanager
def sockets(account_server: AccountServer, user: User) -> Iterator[dict[str, list[Socket]]]:
    with ExitStack() as stack:
        shown = {
            "cookie": user.headers,
            "password": basic(user.email),
            "token": bearer(user.new_token()),
        }
        opened = {
            kind: [
                stack.enter_context(socket(account_server, target, headers)) for target in ("/", "/events")
            ]
            for kind, headers in shown.items()
        }
        for one in (one for pair in opened.values() for one in pair):
            assert one.status == 101
            one.json()
        yield opened


@waiting
def test_they_are_closed_within_5_s_of_what_ends_them(account_server: AccountServer) -> None:
    """All ends at once, each of an account of its own: so it takes one wait."""
    with ExitStack() as stack:
        opened = {}
        for name, (end, _) in ENDS.items():
            user = account_server.new_user()
            opened[name] = stack.enter_context(sockets(account_server, user))
            end(account_server, user)
        ended = time.monotonic()
        for name, (_, closed) in ENDS.items():
            for kind in closed:
                for one in opened[name][kind]:
                    assert one.close_code() == POLICY_VIOLATION, (name, kind)
                    assert time.monotonic() < ended + 5, (name, kind)
        time.sleep(max(0.0, ended + 3 - time.monotonic()))
        for name, (_, closed) in ENDS.items():
            for kind in {"cookie", "password", "token"} - closed:
                session, events = opened[name][kind]
                session.send(TEXT, b"?")
                assert session.json() == {"pong": True}, (name, kind)
                assert events.is_silent(0.01), (name, kind)


@contextmanager
def transfers(
    account_server: AccountServer, user: User
) -> Iterator[dict[str, tuple[RawConnection, RawConnection]]]:
    """A download that is read slowly and an upload that is sent slowly, of each kind of caller."""
    with ExitStack() as stack:
        shown = {
            "cookie": user.headers,
            "password": basic(user.email),
            "token": bearer(user.new_token()),
            "link": {},
        }

        def connection(buffer: int | None = None) -> RawConnection:
            return stack.enter_context(
                closing(RawConnection("127.0.0.1", account_server.server.port, buffer))
            )

        link = user.new_link("film.mp4")["url"].rpartition("?")[2]
        opened = {}
        for kind, headers in shown.items():
            fields = [f"{name}: {value}" for name, value in headers.items()]
            download, upload = connection(4096), connection()
            download.request("GET", f"/files/film.mp4?{link if kind == 'link' else ''}", *fields)
            assert download.socket.recv(1000).startswith(b"HTTP/1.1 200 ")
            if kind != "link":
                upload.request("PUT", f"/files/new-{kind}", *fields, f"Content-Length: {FILM}")
                upload.send(bytes(1000))
            opened[kind] = download, upload
        yield opened


def is_cut(download: RawConnection, *, within: float) -> bool:
    """Whether the connection ends before its answer does. What is under way in the kernels comes first."""
    download.socket.settimeout(within)
    size = 0
    try:
        while data := download.socket.recv(1 << 20):
            size += len(data)
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return size < FILM - 1000


@waiting
def test_transfers_of_a_revoked_caller_end_within_5_s(account_server: AccountServer) -> None:
    """All at once, for it takes one wait; those of other callers go on."""
    ends: dict[str, tuple[End, set[str]]] = {
        **{name: ENDS[name] for name in ("logout", "a new password", "a token revoked")},
        "a link revoked elsewhere": (remove_links, {"link"}),
        "an account disabled elsewhere": (disable, {"cookie", "password", "token", "link"}),
        "an account deleted": (delete, {"cookie", "password", "token", "link"}),
    }
    with ExitStack() as stack:
        opened = {}
        for name, (end, _) in ends.items():
            user = account_server.new_user()
            user.put("film.mp4", noise(FILM))
            opened[name] = user, stack.enter_context(transfers(account_server, user))
            end(account_server, user)
        ended = time.monotonic()
        time.sleep(4.5)
        for name, (_, cut) in ends.items():
            user, kinds = opened[name]
            for kind, (download, upload) in kinds.items():
                within = max(0.1, ended + 6 - time.monotonic())
                assert is_cut(download, within=within) == (kind in cut), (name, kind)
                if kind == "link":
                    continue
                if kind in cut:
                    upload.socket.settimeout(within)
                    assert upload.receive_response("PUT").status_code == 401, (name, kind)
                else:
                    upload.send(bytes(FILM - 1000))
                    assert upload.receive_response("PUT").status_code == 201, (name, kind)


def disable(account_server: AccountServer, user: User) -> None:
    account_server.store.set_disabled(user.account.id, True)


def remove_links(account_server: AccountServer, user: User) -> None:
    for link in account_server.store.links(user.account.id):
        account_server.store.remove_link(user.account.id, link.id)


@waiting
def test_what_another_process_ends_is_over_within_5_s(account_server: AccountServer) -> None:
    """A session, a token, a link, a password and a whole account: all at once, for it takes one wait."""
    one, two, changed, disabled = (account_server.new_user() for _ in range(4))
    for user in (one, two, changed, disabled):
        user.put("film.mp4")
    kept = account_server.new_session(one.account)
    token = two.new_token()
    stored = account_server.store.token(hashed(token))
    assert stored is not None
    links = {user: user.new_link("film.mp4") for user in (two, disabled)}
    shown = {
        "a session": one.headers,
        "a token": bearer(token),
        "the session of a password": changed.headers,
        "a password": basic(changed.email),
        "the session of an account": disabled.headers,
        "the password of an account": basic(disabled.email),
        "the token of an account": bearer(disabled.new_token()),
    }
    others = (account_server.cookie(kept), two.headers, basic(one.email))

    def responses() -> dict[str, int]:
        found = {
            name: account_server.request("GET", "/files/film.mp4", headers=headers).status_code
            for name, headers in shown.items()
            if name != "a password"  # which would be counted as guessed
        }
        opened = [account_server.open_link(link["url"]).status_code for link in links.values()]
        return found | dict(zip(("a link", "the link of an account"), opened, strict=True))

    assert {*responses().values()} == {200}
    assert account_server.request("GET", "/files/film.mp4", headers=shown["a password"]).status_code == 200
    account_server.store.remove_session(hashed(one.session))
    account_server.store.remove_token(two.account.id, stored.id)
    account_server.store.remove_link(two.account.id, links[two]["id"])
    assert account_server.store.set_password(changed.account.id, Passwords().hash(NEW), version=1)
    account_server.store.set_disabled(disabled.account.id, True)
    ended = time.monotonic()
    # The new password counts at once, though the account was looked up a moment ago.
    login = account_server.request("POST", "/login", json={"email": changed.email, "password": NEW})
    assert login.status_code == 200
    assert account_server.request("GET", "/files/film.mp4", headers=shown["a password"]).status_code == 401
    while 200 in responses().values():
        assert time.monotonic() < ended + 5, responses()
        time.sleep(0.1)
    expected = dict.fromkeys(responses(), 401) | {"a link": 403, "the link of an account": 403}
    assert responses() == expected
    for headers in others:
        assert account_server.request("GET", "/files/film.mp4", headers=headers).status_code == 200
    refused = account_server.request("POST", "/login", json={"email": disabled.email, "password": PASSWORD})
    assert check_problem(refused, 401) == "The email address or the password is wrong."


@waiting
def test_links_expire(account_server: AccountServer) -> None:
    user = account_server.new_user()
    user.put("film.mp4")
    brief = user.new_link("film.mp4", expires_in=4)
    assert account_server.open_link(brief["url"]).status_code == 200
    deadline = time.monotonic() + 8
    while account_server.open_link(brief["url"]).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    check_problem(account_server.open_link(brief["url"]), 403)
    assert datetime.now(UTC) >= datetime.fromisoformat(brief["expires_at"])
    assert user.request("GET", "/account/links").json() == {"items": []}
    for expires_in, status in (
        (1, 201),
        (365 * 86400, 201),
        (365 * 86400 + 1, 422),
        (0, 422),
        (-1, 422),
        (0.5, 422),
        (1e300, 422),
        (10**30, 422),
        (True, 422),
        ("60", 422),
        (None, 422),
    ):
        response = user.request("POST", "/account/links", json={"path": "film.mp4", "expires_in": expires_in})
        assert response.status_code == status, (expires_in, response.text)


@waiting
def test_the_keys_rotate_and_what_the_last_two_signed_goes_on(account_server: AccountServer) -> None:
    user = account_server.new_user()
    user.put("film.mp4")
    first = user.new_link("film.mp4")["url"]
    store = account_server.store

    def rotate() -> None:
        keys = store.signing_keys()
        newest = SigningKey(uuid4().hex, uuid4().hex, max(now(), keys[0].created_at + timedelta(seconds=1)))
        store.add_signing_key(newest, keep=[keys[0].id])
        time.sleep(2.2)  # until the server has looked anew

    rotate()
    second = user.new_link("film.mp4")["url"]
    assert token_of(first).partition(".")[2] != token_of(second).partition(".")[2]
    assert [account_server.open_link(url).status_code for url in (first, second)] == [200, 200]
    listed = {link["url"] for link in user.request("GET", "/account/links").json()["items"]}
    assert first not in listed
    assert {account_server.open_link(url).status_code for url in listed} == {200}, "signed anew"
