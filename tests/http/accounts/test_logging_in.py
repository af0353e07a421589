"""Signing up, logging in and out, and changing the password; and what becomes of the cookies."""

import json
import unicodedata
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx

from app.accounts.callers import hashed, now
from app.accounts.models import Session
from tests.http.accounts.conftest import NUMBERS, PASSWORD, Person, Private, basic, bearer

Browsers = Callable[[], httpx.Client]
Problem = Callable[[httpx.Response, int], str]

HTML = {"accept": "text/html,*/*;q=0.8"}
NEW = "another good password"


def an_email() -> str:
    return f"new-{next(NUMBERS)}@example.org"


def credentials(email: str, password: str = PASSWORD, **more: Any) -> dict[str, Any]:
    return {"email": email, "password": password, **more}


def given(answer: httpx.Response) -> str:
    """The session of an answer's one cookie, whose attributes are as they have to be."""
    (field,) = answer.headers.get_list("set-cookie")
    pair, *attributes = field.split("; ")
    name, _, secret = pair.partition("=")
    assert name == f"seekable-{answer.request.url.port}"
    assert {attribute.lower() for attribute in attributes} == {
        "httponly",
        "samesite=lax",
        "path=/",
        f"max-age={90 * 86400}",
    }
    assert len(secret) >= 43, "256 bits"
    assert answer.headers["cache-control"] == "no-store"
    return secret


def is_over(private: Private, session: str) -> bool:
    answer = private.ask("GET", "/account", headers=private.cookie(session))
    assert answer.status_code in (200, 401)
    return answer.status_code == 401


# Signing up


def test_a_program_signs_up(private: Private, elsewhere: Browsers) -> None:
    email = an_email()
    answer = elsewhere().post("/sign-up", json=credentials(email))
    assert answer.status_code == 201
    account = answer.json()
    assert {**account, "id": "", "created_at": ""} == {
        "id": "",
        "email": email,
        "is_admin": False,
        "quota": None,
        "used": 0,
        "created_at": "",
    }
    session = given(answer)
    assert private.ask("GET", "/account", headers=private.cookie(session)).json() == account
    assert private.ask("GET", "/account", headers=basic(email)).json() == account
    assert private.ask("GET", "/files", headers=private.cookie(session)).json()["items"] == []


def test_a_person_signs_up_and_is_told_on_the_page_what_was_wrong(elsewhere: Browsers) -> None:
    browser, email = elsewhere(), an_email()
    for form, status, message in (
        (credentials(email, "short"), 422, "at least 8"),
        (credentials("<b>no address</b>"), 422, "anna@example.org"),
        ({"email": email}, 422, "password is missing"),
    ):
        answer = browser.post("/sign-up", data=form, headers=HTML)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert message in answer.text
        assert "<b>no address" not in answer.text
        assert PASSWORD not in answer.text
        assert "set-cookie" not in answer.headers
    answer = browser.post("/sign-up", data=credentials(email), headers=HTML)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    given(answer)
    assert browser.get("/", headers=HTML).status_code == 200
    taken = browser.post("/sign-up", data=credentials(email.upper()), headers=HTML)
    assert taken.status_code == 409
    assert "text/html" in taken.headers["content-type"]


def test_twins_cannot_sign_up(elsewhere: Browsers, problem: Problem) -> None:
    """By case, by how a letter is composed, or by blanks around it."""
    browser, number = elsewhere(), next(NUMBERS)
    name = f"amélie.Straße-{number}@exämple.org"
    assert browser.post("/sign-up", json=credentials(name)).status_code == 201
    for twin in (
        name.upper().replace("STRASSE", "STRAßE"),
        unicodedata.normalize("NFD", name),
        f"  {name}\n",
    ):
        problem(browser.post("/sign-up", json=credentials(twin)), 409)
        assert browser.post("/login", json=credentials(twin)).status_code == 200


def test_of_ten_who_race_for_an_address_one_gets_it(private: Private, elsewhere: Browsers) -> None:
    email = an_email()
    browsers = [elsewhere() for _ in range(10)]
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda one: one.post("/sign-up", json=credentials(email)), browsers))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 9}
    assert sum("set-cookie" in answer.headers for answer in answers) == 1


def test_what_others_get_to_see_of_these_pages(private: Private) -> None:
    """No page lays itself over them, and no other server is told the address with the invite in it."""
    for target in ("/login?next=/a", "/sign-up?invite=secret"):
        headers = private.ask("GET", target).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"]
        assert headers["referrer-policy"] in ("no-referrer", "same-origin")
        assert headers["x-content-type-options"] == "nosniff"


ADDRESSES = {
    "anna@nas": 201,
    "名前@例え.jp": 201,
    "o'hara+films@example.org": 201,
    f"{'a' * 242}@example.org": 201,
    f"{'a' * 243}@example.org": 422,
    "a" * 60_000 + "@example.org": 422,
    "": 422,
    " ": 422,
    "@": 422,
    "anna": 422,
    "anna@": 422,
    "@example.org": 422,
    "anna@@example.org": 422,
    "anna@example.org, berta@example.org": 422,
    "Anna <anna@example.org>": 422,
    "anna@exa mple.org": 422,
    "anna:password@example.org": 422,
    "an\0na@example.org": 422,
    "an\nna@example.org": 422,
    "anna\u202e@example.org": 422,
    "anna\ud800@example.org": 422,
    "anna\u200b@example.org": 422,
}


def test_addresses_of_any_kind(elsewhere: Browsers, problem: Problem) -> None:
    browser = elsewhere()
    prefix = next(NUMBERS)
    for address, status in ADDRESSES.items():
        email = f"{prefix}{address}" if status == 201 and len(address) < 240 else address
        answer = browser.post(
            "/sign-up",
            content=json.dumps(credentials(email)),
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == status, (address[:50], answer.text)
        if status == 422:
            assert "set-cookie" not in answer.headers
            assert "address" in problem(answer, 422)


def test_passwords_of_any_kind(elsewhere: Browsers, problem: Problem) -> None:
    browser = elsewhere()
    for password, status in {
        "1234567": 422,
        "x" * 1025: 422,
        "12345678": 201,
        "x" * 1024: 201,
        "ключ 🔑 \0\n\x7f\ud800": 201,
        " " * 8: 201,
    }.items():
        body = credentials(an_email(), password)
        given_as = {"content": json.dumps(body), "headers": {"content-type": "application/json"}}
        assert browser.post("/sign-up", **given_as).status_code == status
        browser.cookies.clear()
        assert browser.post("/login", **given_as).status_code == (200 if status == 201 else 401)


JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"
BODIES: list[tuple[str, bytes, int]] = [
    (JSON, b"", 400),
    (JSON, b"{", 400),
    (JSON, b"[]", 400),
    (JSON, b"null", 400),
    (JSON, b'"text"', 400),
    (JSON, b"\xff\xfe{}", 400),
    (JSON, b"[" * 60_000, 400),
    (JSON, b'{"email":' * 5_000, 400),
    (JSON, b'{"email": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", 400),
    (JSON, b'{"email": 1' + b"0" * 10_000 + b"}", 400),
    (JSON, b"{}", 422),
    (JSON, b'{"email": null, "password": null}', 422),
    (JSON, b'{"email": ["a@b"], "password": "12345678"}', 422),
    (JSON, b'{"email": {"$ne": ""}, "password": {"$ne": ""}}', 422),
    (JSON, b'{"email": "a@b", "password": 12345678}', 422),
    (JSON, b'{"email": "a@b", "password": true}', 422),
    (JSON, b'{"email": "a@b", "password": NaN}', 422),
    (JSON, b" " * (64 << 10) + b"{}", 413),
    (FORM, b"", 422),
    (FORM, b"email=%ff%fe&password=12345678", 400),
    (FORM, b"email[]=a@b&password[$ne]=x", 422),
    (FORM, b"&".join(b"x=y" for _ in range(100)), 400),
    (MULTIPART, b"", 422),
    (MULTIPART, b"--x\r\nContent-Disposition: form-data; name=email; filename=a\r\n\r\na\r\n--x--\r\n", 400),
    ("multipart/form-data", b"email=a", 400),
    ("text/plain", b'{"email": "a@b", "password": "12345678"}', 415),
    ("application/xml", b"<a/>", 415),
    ("", b"x", 415),
]


def test_bodies_that_make_no_sense(private: Private, problem: Problem, untroubled: None) -> None:
    for path in ("/login", "/sign-up"):
        for content_type, body, status in BODIES:
            answer = private.ask("POST", path, content=body, headers={"content-type": content_type})
            assert answer.status_code == status, (path, content_type, body[:60], answer.text[:300])
            if content_type == JSON:
                problem(answer, status)
    encoded = {"content-type": JSON, "content-encoding": "gzip"}
    assert private.ask("POST", "/login", content=b"{}", headers=encoded).status_code == 415


def test_a_body_without_an_end_is_broken_off(private: Private) -> None:
    def endless() -> Any:
        for _ in range(1000):
            yield b" " * 10_000

    try:
        answer = private.ask("POST", "/login", content=endless(), headers={"content-type": JSON})
    except httpx.HTTPError:
        return  # refused while it still sent
    assert answer.status_code == 413


# Logging in


def test_a_program_logs_in(private: Private, person: Person, elsewhere: Browsers, problem: Problem) -> None:
    browser = elsewhere()
    answer = browser.post("/login", json=credentials(f" {person.email.upper()} "))
    assert answer.status_code == 200
    assert answer.json()["id"] == person.account.id
    assert not is_over(private, given(answer))
    for wrong in (credentials(person.email, PASSWORD + "x"), credentials(an_email())):
        refused = browser.post("/login", json=wrong)
        assert problem(refused, 401) == "The email address or the password is wrong."
        assert refused.headers["www-authenticate"].startswith("Basic ")
        assert "set-cookie" not in refused.headers


NEXT = {
    "/?folder=films": "/?folder=films",
    "/settings": "/settings",
    "": "/",
    "films": "/",
    "//evil.example": "/",
    "///evil.example": "/",
    "/\\evil.example": "/",
    "\\\\evil.example": "/",
    "/\t/evil.example": "/",
    "/\n/evil.example": "/",
    "/\r\nSet-Cookie: a=b": "/",
    "\t//evil.example": "/",
    " //evil.example": "/",
    "http://evil.example": "/",
    "http:evil.example": "/",
    "https:/evil.example": "/",
    "javascript:alert(1)": "/",
    "data:text/html,x": "/",
    "@evil.example": "/",
    ".evil.example": "/",
    ":80@evil.example": "/",
    "?x": "/",
}


def test_after_the_login_one_stays_on_this_server(person: Person, elsewhere: Browsers) -> None:
    browser = elsewhere()
    for target, location in NEXT.items():
        answer = browser.post("/login", data=credentials(person.email, next=target), headers=HTML)
        assert (answer.status_code, answer.headers["location"]) == (303, location), target
        assert answer.headers.get_list("set-cookie")[0].startswith("seekable-")
        assert len(answer.headers.get_list("set-cookie")) == 1
    dots = browser.post("/login", data=credentials(person.email, next="/..//evil.example"), headers=HTML)
    assert httpx.URL("http://here").join(dots.headers["location"]).host == "here"


def test_a_login_that_failed_says_so_on_the_page_and_goes_on_where_one_was(
    person: Person, elsewhere: Browsers
) -> None:
    browser = elsewhere()
    form = credentials(person.email, "wrong <b>password</b>", next="/?folder=a&q=<script>")
    answer = browser.post("/login", data=form, headers=HTML)
    assert answer.status_code == 401
    assert "text/html" in answer.headers["content-type"]
    assert answer.headers["www-authenticate"] == 'Bearer realm="Seekable"', "or the browser asks in a dialog"
    assert '<script>"' not in answer.text
    assert "wrong &lt;b" not in answer.text
    assert "wrong <b>" not in answer.text
    assert person.email in answer.text
    assert "The email address or the password is wrong." in answer.text


# Session fixation


def test_a_chosen_session_is_not_taken_over(private: Private, person: Person, elsewhere: Browsers) -> None:
    chosen = "c" * 43
    answer = elsewhere().post("/login", json=credentials(person.email), headers=private.cookie(chosen))
    assert answer.status_code == 200
    assert given(answer) != chosen
    assert is_over(private, chosen)


def test_the_session_is_another_after_each_login_and_the_one_before_is_over(
    private: Private, person: Person, other: Person, elsewhere: Browsers
) -> None:
    browser = elsewhere()
    first = given(browser.post("/login", json=credentials(person.email)))
    second = given(browser.post("/login", json=credentials(person.email)))
    assert first != second
    assert is_over(private, first)
    assert not is_over(private, second)
    # Somebody has put a session of their own into the browser of another.
    answer = elsewhere().post("/login", json=credentials(person.email), headers=other.headers)
    assert given(answer) != other.session
    assert is_over(private, other.session)


def test_a_login_that_failed_ends_nothing(private: Private, person: Person, elsewhere: Browsers) -> None:
    answer = elsewhere().post("/login", json=credentials(person.email, "wrong one"), headers=person.headers)
    assert answer.status_code == 401
    assert not is_over(private, person.session)


# How logins end


def test_logging_out(private: Private, person: Person) -> None:
    others = private.session(person.account)
    answer = person.ask("POST", "/logout")
    assert answer.status_code == 204
    (gone,) = answer.headers.get_list("set-cookie")
    assert gone.startswith("seekable-")
    assert "Max-Age=0" in gone
    assert is_over(private, person.session)
    assert person.store.session(hashed(person.session)) is None, "not here only, but for every process"
    assert not is_over(private, others), "another browser"
    form = private.ask("POST", "/logout", headers=private.cookie(others) | HTML, data={})
    assert (form.status_code, form.headers["location"]) == (303, "/login")
    assert is_over(private, others)


def test_sessions_expire(private: Private, person: Person) -> None:
    """After two weeks of which nothing was heard, and after a quarter of a year anyway."""

    def session(created: timedelta, seen: timedelta) -> str:
        secret = f"session-{next(NUMBERS)}"
        login = Session(hashed(secret), person.account.id, now() - created, now() - seen)
        assert private.store.add_session(login, version=1)
        return secret

    minute = timedelta(minutes=1)
    idle, lifetime = timedelta(days=14), timedelta(days=90)
    assert is_over(private, session(idle + minute, idle + minute))
    assert is_over(private, session(lifetime + minute, minute))
    for used in (session(idle - minute, idle - minute), session(lifetime - minute, minute)):
        assert not is_over(private, used)
    idling = session(idle - minute, idle - minute)
    assert not is_over(private, idling)
    seen = private.store.session(hashed(idling))
    assert seen is not None
    assert now() - seen.seen_at < minute, "it was used"


def test_a_new_password_ends_all_other_logins_at_once(
    private: Private, person: Person, problem: Problem
) -> None:
    others, token = private.session(person.account), person.token()
    assert not is_over(private, others)
    assert private.ask("GET", "/account", headers=basic(person.email)).status_code == 200
    change = {"password": PASSWORD, "new_password": NEW}
    answer = person.ask("POST", "/account/password", json=change)
    assert answer.status_code == 204
    mine = given(answer)
    assert is_over(private, others)
    assert is_over(private, person.session)
    assert not is_over(private, mine)
    assert private.store.sessions(person.account.id) == [private.store.session(hashed(mine))]
    problem(private.ask("GET", "/account", headers=basic(person.email)), 401)
    assert private.ask("GET", "/account", headers=basic(person.email, NEW)).status_code == 200
    assert private.ask("GET", "/files", headers=bearer(token)).status_code == 200, (
        "tokens are revoked one by one"
    )


def test_who_takes_the_old_password_again_can_use_it_at_once(private: Private, person: Person) -> None:
    """Though it was remembered as that of before."""
    headers = basic(person.email)
    assert private.ask("GET", "/account", headers=headers).status_code == 200
    change = {"password": PASSWORD, "new_password": NEW}
    assert private.ask("POST", "/account/password", json=change, headers=headers).status_code == 204
    assert private.ask("GET", "/account", headers=headers).status_code == 401
    back = {"password": NEW, "new_password": PASSWORD}
    answer = private.ask("POST", "/account/password", json=back, headers=basic(person.email, NEW))
    assert answer.status_code == 204
    assert private.ask("GET", "/account", headers=headers).status_code == 200


def test_a_password_is_changed_by_who_knows_it_only(
    private: Private, person: Person, problem: Problem
) -> None:
    for body, status in (
        ({"password": "wrong", "new_password": NEW}, 401),
        ({"password": "", "new_password": NEW}, 401),
        ({"new_password": NEW}, 422),
        ({"password": PASSWORD}, 422),
        ({"password": PASSWORD, "new_password": "short"}, 422),
        ({"password": PASSWORD, "new_password": "x" * 1025}, 422),
        ({"password": PASSWORD, "new_password": ["x" * 8]}, 422),
    ):
        problem(person.ask("POST", "/account/password", json=body), status)
    for program in (bearer(person.token()), private.cookie("x")):
        body = {"password": PASSWORD, "new_password": NEW}
        answer = private.ask("POST", "/account/password", json=body, headers=program)
        assert answer.status_code in (401, 403)
    assert not is_over(private, person.session)
    assert private.ask("GET", "/account", headers=basic(person.email)).status_code == 200
