"""WebSockets are of an account: refused before they are accepted, of one library, closed when that ends."""

import time
from contextlib import ExitStack
from datetime import timedelta

import httpx
import pytest

from app.accounts.callers import hashed
from tests.http.accounts.conftest import Person, Private, basic, bearer
from tests.sockets import Socket

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
            (private.cookie("x" * 43), "", 401),
            (private.cookie(private.session(person.account, timedelta(days=15))), "", 401),
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
