"""WebSockets are of an account: refused before they are accepted, of one library, closed when that ends."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import httpx
import pytest

from app.accounts.callers import hashed
from tests.http.accounts.conftest import PASSWORD, Person, Private, basic, bearer, cookie
from tests.sockets import TEXT, Socket

POLICY_VIOLATION = 1008


def socket(private: Private, target: str, headers: dict[str, str]) -> Socket:
    return Socket(private.server, target, *(f"{name}: {value}" for name, value in headers.items()))


def test_nobody_opens_a_websocket(private: Private, person: Person) -> None:
    person.put("film.mp4")
    link = httpx.URL(person.link("film.mp4")["url"]).params["link"]
    disabled = private.person()
    private.store.set_disabled(disabled.account.id, True)
    for target in ("/", "/events", "/nothing"):
        for headers, query, status in (
            ({}, "", 401),
            (cookie("x" * 43), "", 401),
            (cookie(private.session(person.account, timedelta(days=15))), "", 401),
            (bearer("skb_x"), "", 401),
            (basic(f"nobody-{target[1:]}@example.org"), "", 401),
            (disabled.headers, "", 401),
            ({}, f"?link={link}", 403),
            (person.headers, f"?link={link}", 403),
        ):
            with socket(private, f"{target}{query}", headers) as refused:
                assert refused.status == status, (target, headers, query)
                assert refused.problem()["status"] == status
    with socket(private, "/nothing", person.headers) as refused:
        assert refused.status == 404


def test_whoever_has_an_account_opens_one(private: Private, person: Person) -> None:
    for headers in (person.headers, basic(person.email), bearer(person.token())):
        with socket(private, "/", headers) as session, socket(private, "/events", headers) as events:
            assert "sid" in session.json()
            assert events.json() == {"type": "resync"}


def test_they_tell_of_their_own_library_only(
    private: Private, person: Person, other: Person, admin: Person
) -> None:
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(socket(private, "/events", one.headers)) for one in (person, other, admin)
        ]
        sessions = [stack.enter_context(socket(private, "/", one.headers)) for one in (person, other, admin)]
        for listener in listeners:
            assert listener.json() == {"type": "resync"}
        sids = [session.json()["sid"] for session in sessions]
        for one, own in zip((person, other, admin), sids, strict=True):
            # All of them are named; but one's own is told.
            for sid in [sid for sid in sids if sid != own]:
                answer = one.ask("PUT", f"/files/film.mp4?sid={sid}", content=b"of another")
                assert answer.status_code in (201, 204)
            form = {"file": ("form.mp4", b"of another")}
            one.ask("POST", "/file/upload", data={"sid": next(sid for sid in sids if sid != own)}, files=form)
            one.ask("PUT", f"/files/mine.mp4?sid={own}", content=b"mine")
            one.ask(
                "PATCH",
                "/files/film.mp4",
                content=b'{"filename": "moved.mp4"}',
                headers={"content-type": "application/merge-patch+json"},
            )
            one.ask("DELETE", "/files/moved.mp4")
        for session in sessions:
            assert session.json()["progress"]["filename"] == "mine.mp4"
            assert session.is_silent(0.1)
        for listener in listeners:
            kinds = []
            while len(kinds) < 6:
                event = listener.json()
                kinds.append((event["type"].removeprefix("file."), event["path"]))
            assert sorted(kinds) == sorted(
                [
                    ("created", "film.mp4"),
                    ("replaced", "film.mp4"),
                    ("created", "form.mp4"),
                    ("created", "mine.mp4"),
                    ("moved", "moved.mp4"),
                    ("deleted", "moved.mp4"),
                ]
            )
            assert listener.is_silent(0.05)
        for path in admin.paths():
            admin.ask("DELETE", f"/files/{path}")


End = Callable[[Private, Person], object]


def change_password(private: Private, person: Person) -> object:
    return person.ask(
        "POST", "/account/password", json={"password": PASSWORD, "new_password": "another good one"}
    ).raise_for_status()


def delete(private: Private, person: Person) -> object:
    return person.ask("POST", "/account/delete", json={"password": PASSWORD}).raise_for_status()


def revoke(private: Private, person: Person) -> object:
    (token,) = person.ask("GET", "/account/tokens").json()["items"]
    return person.ask("DELETE", f"/account/tokens/{token['id']}").raise_for_status()


# What ends it, and which of the three kinds of sockets then close: by cookie, by password, by token.
ENDS: dict[str, tuple[End, set[str]]] = {
    "logout": (lambda _, person: person.ask("POST", "/logout").raise_for_status(), {"cookie"}),
    "logout elsewhere": (lambda private, one: private.store.remove_session(hashed(one.session)), {"cookie"}),
    "a new password": (change_password, {"cookie", "password"}),
    "a token revoked": (revoke, {"token"}),
    "an account disabled elsewhere": (
        lambda private, one: private.store.set_disabled(one.account.id, True),
        {"cookie", "password", "token"},
    ),
    "an account deleted": (delete, {"cookie", "password", "token"}),
}


@contextmanager
def sockets(private: Private, person: Person) -> Iterator[dict[str, list[Socket]]]:
    with ExitStack() as stack:
        shown = {
            "cookie": person.headers,
            "password": basic(person.email),
            "token": bearer(person.token()),
        }
        opened = {
            kind: [stack.enter_context(socket(private, target, headers)) for target in ("/", "/events")]
            for kind, headers in shown.items()
        }
        for one in (one for pair in opened.values() for one in pair):
            assert one.status == 101
            one.json()
        yield opened


def test_they_are_closed_within_5_s_of_what_ends_them(private: Private) -> None:
    """All ends at once, each of an account of its own: so it takes one wait."""
    with ExitStack() as stack:
        opened = {}
        for name, (end, _) in ENDS.items():
            person = private.person()
            opened[name] = stack.enter_context(sockets(private, person))
            end(private, person)
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


@pytest.mark.campaign  # that a socket which does not read is closed: tests/http/test_slow_sockets.py
def test_one_that_reads_nothing_is_closed_too(private: Private, person: Person) -> None:
    with socket(private, "/events", person.headers) as mute:
        assert mute.status == 101
        private.store.remove_session(hashed(person.session))
        mute.socket.settimeout(12)
        deadline = time.monotonic() + 12
        while time.monotonic() < deadline and mute.socket.recv(1 << 16):
            pass
        assert time.monotonic() < deadline
