"""Revocation: a session, token, link, password or account stops working within 5 s of its end."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from app.accounts.models import SigningKey, hash_secret, now
from app.accounts.passwords import Passwords
from tests.conftest import filesystem
from tests.http.accounts.conftest import PASSWORD, AccountServer, User, basic, bearer, run_account_server
from tests.http.accounts.test_links import token_of
from tests.http.accounts.test_sockets import POLICY_VIOLATION, open_socket
from tests.http.conftest import RawConnection, check_problem
from tests.support import noise
from tests.support.sockets import TEXT, Socket
from tests.support.together import Outcomes, Together

NEW_PASSWORD = "another good password"
FILM_SIZE = 6 << 20
"""In bytes: more than the socket buffers hold for a client that does not read."""

concurrent = Together("waiting")
"""Tests that wait for the two-second poll of the server run at the same time, each with its own accounts."""


@pytest.fixture(scope="module", name="waiting")
def concurrent_outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    """Run these tests on SQLite; test_replicas.py repeats revocation on the other backends."""
    with (
        ExitStack() as stack,
        run_account_server(tmp_path_factory.mktemp("revocation"), filesystem()) as account_server,
    ):
        account_server.new_user("admin@example.org")

        def server_for_thread(name: str) -> tuple[AccountServer]:
            return (account_server.for_thread(stack),)

        yield stack.enter_context(concurrent.begun(request, server_for_thread))


EndAccess = Callable[[AccountServer, User], object]


def change_password(account_server: AccountServer, user: User) -> object:
    return user.request(
        "POST", "/account/password", json={"password": PASSWORD, "new_password": "another good one"}
    ).raise_for_status()


def delete(account_server: AccountServer, user: User) -> object:
    return user.request("POST", "/account/delete", json={"password": PASSWORD}).raise_for_status()


def revoke(account_server: AccountServer, user: User) -> object:
    (token,) = user.request("GET", "/account/tokens").json()["items"]
    return user.request("DELETE", f"/account/tokens/{token['id']}").raise_for_status()


# Ends of access, and the sockets that each closes: those opened by cookie, by password or by token.
ENDS: dict[str, tuple[EndAccess, set[str]]] = {
    "logout": (lambda _, user: user.request("POST", "/logout").raise_for_status(), {"cookie"}),
    "logout elsewhere": (
        lambda account_server, one: account_server.store.sessions.remove(hash_secret(one.session)),
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
def open_sockets(account_server: AccountServer, user: User) -> Iterator[dict[str, list[Socket]]]:
    with ExitStack() as stack:
        credentials = {
            "cookie": user.headers,
            "password": basic(user.email),
            "token": bearer(user.new_token()),
        }
        opened = {
            kind: [
                stack.enter_context(open_socket(account_server, target, headers))
                for target in ("/", "/events")
            ]
            for kind, headers in credentials.items()
        }
        for one in (one for pair in opened.values() for one in pair):
            assert one.status == 101
            one.json()
        yield opened


@concurrent
def test_sockets_close_within_5_s_of_revocation(account_server: AccountServer) -> None:
    """Each end has its own account, so one wait covers all of them."""
    with ExitStack() as stack:
        opened = {}
        for name, (end, _) in ENDS.items():
            user = account_server.new_user()
            opened[name] = stack.enter_context(open_sockets(account_server, user))
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
    """Open a slowly read download and a slowly sent upload for each kind of credentials."""
    with ExitStack() as stack:
        credentials = {
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
        for kind, headers in credentials.items():
            fields = [f"{name}: {value}" for name, value in headers.items()]
            download, upload = connection(4096), connection()
            download.request("GET", f"/files/film.mp4?{link if kind == 'link' else ''}", *fields)
            assert download.socket.recv(1000).startswith(b"HTTP/1.1 200 ")
            if kind != "link":
                upload.request("PUT", f"/files/new-{kind}", *fields, f"Content-Length: {FILM_SIZE}")
                upload.send(bytes(1000))
            opened[kind] = download, upload
        yield opened


def is_cut(download: RawConnection, *, within: float) -> bool:
    """Return whether the connection closes before the response is complete, after what the kernel has
    buffered."""
    download.socket.settimeout(within)
    size = 0
    try:
        while data := download.socket.recv(1 << 20):
            size += len(data)
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return size < FILM_SIZE - 1000


@concurrent
def test_transfers_end_within_5_s_of_revocation(account_server: AccountServer) -> None:
    """Transfers with other credentials continue. One wait covers all of them."""
    ends: dict[str, tuple[EndAccess, set[str]]] = {
        **{name: ENDS[name] for name in ("logout", "a new password", "a token revoked")},
        "a link revoked elsewhere": (remove_links, {"link"}),
        "an account disabled elsewhere": (disable, {"cookie", "password", "token", "link"}),
        "an account deleted": (delete, {"cookie", "password", "token", "link"}),
    }
    with ExitStack() as stack:
        opened = {}
        for name, (end, _) in ends.items():
            user = account_server.new_user()
            user.put("film.mp4", noise(FILM_SIZE))
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
                    upload.send(bytes(FILM_SIZE - 1000))
                    assert upload.receive_response("PUT").status_code == 201, (name, kind)


def disable(account_server: AccountServer, user: User) -> None:
    account_server.store.set_disabled(user.account.id, True)


def remove_links(account_server: AccountServer, user: User) -> None:
    for link in account_server.store.links.list(user.account.id):
        account_server.store.links.remove(link.id, account_id=user.account.id)


@concurrent
def test_revocation_by_another_process_takes_effect_within_5_s(account_server: AccountServer) -> None:
    """A session, a token, a link, a password and an account end together, so one wait covers all of them."""
    one, two, changed, disabled = (account_server.new_user() for _ in range(4))
    for user in (one, two, changed, disabled):
        user.put("film.mp4")
    kept_session = account_server.new_session(one.account)
    token = two.new_token()
    token_record = account_server.store.tokens.get(hash_secret(token))
    assert token_record is not None
    links = {user: user.new_link("film.mp4") for user in (two, disabled)}
    credentials = {
        "a session": one.headers,
        "a token": bearer(token),
        "the session of a password": changed.headers,
        "a password": basic(changed.email),
        "the session of an account": disabled.headers,
        "the password of an account": basic(disabled.email),
        "the token of an account": bearer(disabled.new_token()),
    }
    other_credentials = (account_server.cookie(kept_session), two.headers, basic(one.email))

    def responses() -> dict[str, int]:
        found = {
            name: account_server.request("GET", "/files/film.mp4", headers=headers).status_code
            for name, headers in credentials.items()
            if name != "a password"  # it would count as a wrong password
        }
        opened = [account_server.open_link(link["url"]).status_code for link in links.values()]
        return found | dict(zip(("a link", "the link of an account"), opened, strict=True))

    assert {*responses().values()} == {200}
    assert (
        account_server.request("GET", "/files/film.mp4", headers=credentials["a password"]).status_code == 200
    )
    account_server.store.sessions.remove(hash_secret(one.session))
    account_server.store.tokens.remove(token_record.id, account_id=two.account.id)
    account_server.store.links.remove(links[two]["id"], account_id=two.account.id)
    assert account_server.store.set_password(changed.account.id, Passwords().hash(NEW_PASSWORD), version=1)
    account_server.store.set_disabled(disabled.account.id, True)
    ended = time.monotonic()
    # The new password works immediately, although the account is cached.
    login = account_server.request("POST", "/login", json={"email": changed.email, "password": NEW_PASSWORD})
    assert login.status_code == 200
    assert (
        account_server.request("GET", "/files/film.mp4", headers=credentials["a password"]).status_code == 401
    )
    while 200 in responses().values():
        assert time.monotonic() < ended + 5, responses()
        time.sleep(0.1)
    expected = dict.fromkeys(responses(), 401) | {"a link": 403, "the link of an account": 403}
    assert responses() == expected
    for headers in other_credentials:
        assert account_server.request("GET", "/files/film.mp4", headers=headers).status_code == 200
    refused = account_server.request("POST", "/login", json={"email": disabled.email, "password": PASSWORD})
    assert check_problem(refused, 401) == "The email address or the password is wrong."


@concurrent
def test_link_expires(account_server: AccountServer) -> None:
    user = account_server.new_user()
    user.put("film.mp4")
    short_lived = user.new_link("film.mp4", expires_in=4)
    assert account_server.open_link(short_lived["url"]).status_code == 200
    deadline = time.monotonic() + 8
    while account_server.open_link(short_lived["url"]).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    check_problem(account_server.open_link(short_lived["url"]), 403)
    assert datetime.now(UTC) >= datetime.fromisoformat(short_lived["expires_at"])
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


@concurrent
def test_links_stay_valid_for_one_key_rotation(account_server: AccountServer) -> None:
    user = account_server.new_user()
    user.put("film.mp4")
    first = user.new_link("film.mp4")["url"]
    store = account_server.store

    def rotate() -> None:
        keys = store.signing_keys.list()
        newest = SigningKey(uuid4().hex, uuid4().hex, max(now(), keys[0].created_at + timedelta(seconds=1)))
        store.signing_keys.rotate(newest, keep=[keys[0].id])
        time.sleep(2.2)  # until the server polls again

    rotate()
    second = user.new_link("film.mp4")["url"]
    assert token_of(first).partition(".")[2] != token_of(second).partition(".")[2]
    assert [account_server.open_link(url).status_code for url in (first, second)] == [200, 200]
    listed_urls = {link["url"] for link in user.request("GET", "/account/links").json()["items"]}
    assert first not in listed_urls
    assert {account_server.open_link(url).status_code for url in listed_urls} == {200}, (
        "the list signs links with the newest key"
    )
