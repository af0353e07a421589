"""WebSockets with accounts: refused before the handshake, limited to one library, closed with the session."""

import time
from contextlib import ExitStack
from datetime import timedelta

import httpx
import pytest

from app.accounts.models import hash_secret
from tests.http.accounts.conftest import AccountServer, User, basic, bearer
from tests.support import each_backend
from tests.support.sockets import Socket

POLICY_VIOLATION = 1008


def open_socket(account_server: AccountServer, target: str, headers: dict[str, str]) -> Socket:
    return Socket(account_server.server, target, *(f"{name}: {value}" for name, value in headers.items()))


def test_websocket_is_refused_without_valid_credentials(account_server: AccountServer, user: User) -> None:
    user.put("film.mp4")
    link = httpx.URL(user.new_link("film.mp4")["url"]).params["link"]
    disabled = account_server.new_user()
    account_server.store.set_disabled(disabled.account.id, True)
    for target in ("/", "/events", "/nothing"):
        for headers, query, status in (
            ({}, "", 401),
            (account_server.cookie("x" * 43), "", 401),
            (account_server.cookie(account_server.new_session(user.account, timedelta(days=15))), "", 401),
            (bearer("skb_x"), "", 401),
            (basic(f"unknown-{target[1:]}@example.org"), "", 401),
            (disabled.headers, "", 401),
            ({}, f"?link={link}", 403),
            (user.headers, f"?link={link}", 403),
        ):
            with open_socket(account_server, f"{target}{query}", headers) as refused:
                assert refused.status == status, (target, headers, query)
                assert refused.problem()["status"] == status
    with open_socket(account_server, "/nothing", user.headers) as refused:
        assert refused.status == 404


def test_websocket_accepts_every_kind_of_credentials(account_server: AccountServer, user: User) -> None:
    for headers in (user.headers, basic(user.email), bearer(user.new_token())):
        with (
            open_socket(account_server, "/", headers) as session,
            open_socket(account_server, "/events", headers) as events,
        ):
            assert "sid" in session.json()
            assert events.json() == {"type": "resync"}


@each_backend
def test_websocket_receives_events_and_progress_of_its_library_only(
    account_server: AccountServer, user: User, other_user: User, admin: User
) -> None:
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(open_socket(account_server, "/events", one.headers))
            for one in (user, other_user, admin)
        ]
        sessions = [
            stack.enter_context(open_socket(account_server, "/", one.headers))
            for one in (user, other_user, admin)
        ]
        for listener in listeners:
            assert listener.json() == {"type": "resync"}
        sids = [session.json()["sid"] for session in sessions]
        for one, own in zip((user, other_user, admin), sids, strict=True):
            # Uploads name every sid, but only the account's own socket receives progress.
            for sid in [sid for sid in sids if sid != own]:
                response = one.request("PUT", f"/files/film.mp4?sid={sid}", content=b"of another")
                assert response.status_code in (201, 204)
            form = {"file": ("form.mp4", b"of another")}
            one.request(
                "POST", "/file/upload", data={"sid": next(sid for sid in sids if sid != own)}, files=form
            )
            one.request("PUT", f"/files/mine.mp4?sid={own}", content=b"mine")
            one.request(
                "PATCH",
                "/files/film.mp4",
                content=b'{"filename": "moved.mp4"}',
                headers={"content-type": "application/merge-patch+json"},
            )
            one.request("DELETE", "/files/moved.mp4")
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
            admin.request("DELETE", f"/files/{path}")


@pytest.mark.campaign  # tests/http/test_slow_sockets.py tests that a socket that does not read is closed
def test_websocket_that_does_not_read_is_closed_on_revocation(
    account_server: AccountServer, user: User
) -> None:
    with open_socket(account_server, "/events", user.headers) as mute:
        assert mute.status == 101
        account_server.store.sessions.remove(hash_secret(user.session))
        mute.socket.settimeout(12)
        deadline = time.monotonic() + 12
        while time.monotonic() < deadline and mute.socket.recv(1 << 16):
            pass
        assert time.monotonic() < deadline
