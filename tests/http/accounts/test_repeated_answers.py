"""A repeated answer ends with the credentials of its request, as every other answer does."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import datetime, timedelta

import pytest

from app.accounts.models import hash_secret, now
from app.accounts.principals import CACHE_TTL_S
from app.streaming.file_response import REPEATABLE_S
from tests.http.accounts.conftest import PASSWORD, AccountServer, User, basic, bearer
from tests.http.conftest import RawConnection
from tests.support import noise

QUIET_S = 2.1
"""Seconds after an upload before the file is opened from the cache, and its answers are repeated."""

Access = Callable[[AccountServer, User], tuple[str, dict[str, str]]]
"""Returns the query and the header fields of a kind of credential."""


def by_link(server: AccountServer, user: User, **more: object) -> tuple[str, dict[str, str]]:
    return "?" + user.new_link("film.mp4", **more)["url"].rpartition("?")[2], {}


ACCESS: dict[str, Access] = {
    "cookie": lambda server, user: ("", user.headers),
    "password": lambda server, user: ("", basic(user.email)),
    "token": lambda server, user: ("", bearer(user.new_token())),
    "link": by_link,
}


def revoke_token(server: AccountServer, user: User) -> None:
    for token in user.request("GET", "/account/tokens").json()["items"]:
        user.request("DELETE", f"/account/tokens/{token['id']}").raise_for_status()


def revoke_link(server: AccountServer, user: User) -> None:
    for link in user.request("GET", "/account/links").json()["items"]:
        user.request("DELETE", f"/account/links/{link['id']}").raise_for_status()


def log_out(server: AccountServer, user: User) -> None:
    user.request("POST", "/logout").raise_for_status()


def change_password(server: AccountServer, user: User) -> None:
    body = {"password": PASSWORD, "new_password": "another good password"}
    user.request("POST", "/account/password", json=body).raise_for_status()


def delete_account(server: AccountServer, user: User) -> None:
    user.request("POST", "/account/delete", json={"password": PASSWORD}).raise_for_status()


def disable_elsewhere(server: AccountServer, user: User) -> None:
    server.store.set_disabled(user.account.id, True)


def log_out_elsewhere(server: AccountServer, user: User) -> None:
    server.store.sessions.remove(hash_secret(user.session))


EndAccess = Callable[[AccountServer, User], None]

ENDS: list[tuple[str, EndAccess]] = [
    ("cookie", log_out),
    ("cookie", change_password),
    ("password", change_password),
    ("password", delete_account),
    ("token", revoke_token),
    ("link", revoke_link),
    ("link", delete_account),
]
"""Ends of access by a request to the server, which apply at once."""

ENDS_ELSEWHERE: list[tuple[str, EndAccess]] = [
    ("cookie", log_out_elsewhere),
    ("token", disable_elsewhere),
    ("link", disable_elsewhere),
]
"""Ends of access by another process, which apply after `CACHE_TTL_S`."""


@pytest.fixture(scope="module")
def readers(account_server: AccountServer) -> Iterator[User]:
    """Accounts whose films are old enough, all after one wait; each test takes those that it needs."""
    users = [account_server.new_user() for _ in range(len(ENDS) + len(ENDS_ELSEWHERE) + 4)]
    for user in users:
        user.put("film.mp4", film_of(user))
    time.sleep(QUIET_S)
    return iter(users)


def film_of(user: User) -> bytes:
    return f"film of {user.email}".encode()


def ranges_of(user: User) -> list[tuple[int, bytes]]:
    """Return the responses of `read_repeatedly` while the user has access."""
    return [(206, film_of(user)[start:]) for start in range(5)]


def read_repeatedly(
    server: AccountServer, path: str, query: str, headers: dict[str, str]
) -> list[tuple[int, bytes]]:
    """Request a few ranges of a file on one connection; return the statuses and the bodies."""
    fields = [f"{name}: {value}" for name, value in headers.items()]
    found = []
    with closing(RawConnection("127.0.0.1", server.server.port)) as connection:
        for number in range(5):
            connection.request("GET", f"/files/{path}{query}", *fields, f"Range: bytes={number}-")
            response = connection.receive_response()
            found.append((response.status_code, response.content))
    return found


@pytest.mark.parametrize(("kind", "end"), ENDS, ids=[f"{kind} {end.__name__}" for kind, end in ENDS])
def test_answers_end_with_credentials(
    account_server: AccountServer, readers: Iterator[User], kind: str, end: EndAccess
) -> None:
    user = next(readers)
    query, headers = ACCESS[kind](account_server, user)
    assert read_repeatedly(account_server, "film.mp4", query, headers) == ranges_of(user)
    end(account_server, user)
    assert {status for status, _ in read_repeatedly(account_server, "film.mp4", query, headers)} <= {401, 403}


def test_answers_end_when_another_process_ends_access(
    account_server: AccountServer, readers: Iterator[User]
) -> None:
    """Each end has its own account, so one wait covers all of them."""
    ended = []
    for kind, end in ENDS_ELSEWHERE:
        user = next(readers)
        query, headers = ACCESS[kind](account_server, user)
        assert read_repeatedly(account_server, "film.mp4", query, headers) == ranges_of(user)
        end(account_server, user)
        ended.append((kind, query, headers))
    time.sleep(CACHE_TTL_S)
    for kind, query, headers in ended:
        found = read_repeatedly(account_server, "film.mp4", query, headers)
        assert {status for status, _ in found} <= {401, 403}, kind


def test_answer_of_one_account_is_not_repeated_for_another(
    account_server: AccountServer, readers: Iterator[User]
) -> None:
    users = [next(readers), next(readers)]
    for _ in range(2):
        for user in users:
            found = read_repeatedly(account_server, "film.mp4", "", basic(user.email))
            assert found == ranges_of(user)
    assert {status for status, _ in read_repeatedly(account_server, "film.mp4", "", {})} == {401}


def test_link_is_not_repeated_after_it_expired(
    account_server: AccountServer, readers: Iterator[User]
) -> None:
    user = next(readers)
    query, headers = by_link(account_server, user, expires_in=3)
    (link,) = user.request("GET", "/account/links").json()["items"]
    expires_at = datetime.fromisoformat(link["expires_at"])
    began, found = now(), read_repeatedly(account_server, "film.mp4", query, headers)
    assert found == ranges_of(user)
    while found[0][0] == 206:  # an answer that is kept for `REPEATABLE_S` would outlive the link
        assert began < expires_at
        began, found = now(), read_repeatedly(account_server, "film.mp4", query, headers)
    assert {status for status, _ in found} == {403}


def test_range_is_sent_when_session_is_recorded_as_used(
    account_server: AccountServer, readers: Iterator[User]
) -> None:
    """Then the session has to be looked up again: its answer must not be kept, and no other is."""
    user = next(readers)
    assert read_repeatedly(account_server, "film.mp4", "", user.headers) == ranges_of(user)
    time.sleep(REPEATABLE_S)
    secret = account_server.new_session(user.account, age=timedelta(hours=2))
    assert read_repeatedly(account_server, "film.mp4", "", account_server.cookie(secret)) == ranges_of(user)


def test_rest_of_repeated_answer_ends_with_credentials(account_server: AccountServer) -> None:
    user = account_server.new_user()
    film = noise(12_000_000)
    user.put("film.mp4", film)
    time.sleep(QUIET_S)
    token = user.new_token()
    (field,) = (f"{name}: {value}" for name, value in bearer(token).items())
    (known,) = account_server.store.tokens.list(user.account.id)
    with closing(RawConnection("127.0.0.1", account_server.server.port, 4096)) as connection:
        for start in range(3):  # the first opens the file, the second is kept
            connection.request("GET", "/files/film.mp4", field, f"Range: bytes={start}-9")
            assert connection.receive_response().content == film[start:10]
        connection.request("GET", "/files/film.mp4", field, "Range: bytes=1-")
        connection.receive_more(100)
        since = account_server.server.logged()
        account_server.store.tokens.remove(known.id)
        deadline = time.monotonic() + 10
        while "its caller was revoked" not in account_server.server.log(since):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        received = 0
        with suppress(ConnectionResetError):
            while data := connection.socket.recv(1 << 20):
                received += len(data)
        assert received < len(film)


def test_answer_to_range_is_not_repeated_for_range_without_digits(account_server: AccountServer) -> None:
    user = account_server.new_user()
    user.put("film.mp4", b"a film")
    time.sleep(QUIET_S)
    credentials = f"Authorization: {basic(user.email)['Authorization']}"
    with closing(RawConnection("127.0.0.1", account_server.server.port)) as connection:
        for given in ("1-2", "1-2", "", "1-2", "", "1-2"):
            connection.request("GET", "/files/film.mp4", credentials, f"Range: bytes={given}")
            response = connection.receive_response()
            expected = (206, b" f") if given else (200, b"a film")
            assert (response.status_code, response.content) == expected
