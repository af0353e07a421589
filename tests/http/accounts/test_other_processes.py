"""What another process ends, or a command, is over here within 5 s."""

import time
from collections.abc import Callable

import httpx

from app.accounts.callers import hashed
from app.accounts.passwords import Passwords
from tests.http.accounts.conftest import PASSWORD, Private, basic, bearer, cookie

Problem = Callable[[httpx.Response, int], str]

NEW = "another good password"


def test_what_another_process_ends_is_over_within_5_s(private: Private, problem: Problem) -> None:
    """A session, a token, a link, a password and a whole account: all at once, for it takes one wait."""
    one, two, changed, disabled = (private.person() for _ in range(4))
    for person in (one, two, changed, disabled):
        person.put("film.mp4")
    kept = private.session(one.account)
    token = two.token()
    stored = private.store.token(hashed(token))
    assert stored is not None
    links = {person: person.link("film.mp4") for person in (two, disabled)}
    shown = {
        "a session": one.headers,
        "a token": bearer(token),
        "the session of a password": changed.headers,
        "a password": basic(changed.email),
        "the session of an account": disabled.headers,
        "the password of an account": basic(disabled.email),
        "the token of an account": bearer(disabled.token()),
    }
    others = (cookie(kept), two.headers, basic(one.email))

    def answers() -> dict[str, int]:
        found = {
            name: private.ask("GET", "/files/film.mp4", headers=headers).status_code
            for name, headers in shown.items()
            if name != "a password"  # which would be counted as guessed
        }
        opened = [private.open_link(link["url"]).status_code for link in links.values()]
        return found | dict(zip(("a link", "the link of an account"), opened, strict=True))

    assert {*answers().values()} == {200}
    assert private.ask("GET", "/files/film.mp4", headers=shown["a password"]).status_code == 200
    private.store.remove_session(hashed(one.session))
    private.store.remove_token(two.account.id, stored.id)
    private.store.remove_link(two.account.id, links[two]["id"])
    assert private.store.set_password(changed.account.id, Passwords().hash(NEW), version=1)
    private.store.set_disabled(disabled.account.id, True)
    ended = time.monotonic()
    # The new password counts at once, though the account was looked up a moment ago.
    login = private.ask("POST", "/login", json={"email": changed.email, "password": NEW})
    assert login.status_code == 200
    assert private.ask("GET", "/files/film.mp4", headers=shown["a password"]).status_code == 401
    while 200 in answers().values():
        assert time.monotonic() < ended + 5, answers()
        time.sleep(0.1)
    expected = dict.fromkeys(answers(), 401) | {"a link": 403, "the link of an account": 403}
    assert answers() == expected
    for headers in others:
        assert private.ask("GET", "/files/film.mp4", headers=headers).status_code == 200
    refused = private.ask("POST", "/login", json={"email": disabled.email, "password": PASSWORD})
    assert problem(refused, 401) == "The email address or the password is wrong."
