"""Sign-up, login, logout and password change, and their cookies."""

import json
import unicodedata
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx

from app.accounts.models import Session, hash_secret, now
from tests.http.accounts.conftest import NUMBERS, PASSWORD, AccountServer, User, basic, bearer
from tests.support import each_backend

Browsers = Callable[[], httpx.Client]
CheckProblem = Callable[[httpx.Response, int], str]

HTML = {"accept": "text/html,*/*;q=0.8"}
NEW_PASSWORD = "another good password"


def unused_email() -> str:
    return f"new-{next(NUMBERS)}@example.org"


def credentials(email: str, password: str = PASSWORD, **more: Any) -> dict[str, Any]:
    return {"email": email, "password": password, **more}


def session_of(response: httpx.Response) -> str:
    """Check the attributes of the only cookie of a response and return its session secret."""
    (field,) = response.headers.get_list("set-cookie")
    pair, *attributes = field.split("; ")
    name, _, secret = pair.partition("=")
    assert name == f"seekable-{response.request.url.port}"
    assert {attribute.lower() for attribute in attributes} == {
        "httponly",
        "samesite=lax",
        "path=/",
        f"max-age={90 * 86400}",
    }
    assert len(secret) >= 43, "256 bits"
    assert response.headers["cache-control"] == "no-store"
    return secret


def has_ended(account_server: AccountServer, session: str) -> bool:
    response = account_server.request("GET", "/account", headers=account_server.cookie(session))
    assert response.status_code in (200, 401)
    return response.status_code == 401


# Signing up


def test_program_signs_up(account_server: AccountServer, new_browser: Browsers) -> None:
    email = unused_email()
    response = new_browser().post("/sign-up", json=credentials(email))
    assert response.status_code == 201
    account = response.json()
    assert {**account, "id": "", "created_at": ""} == {
        "id": "",
        "email": email,
        "is_admin": False,
        "quota": None,
        "used": 0,
        "created_at": "",
    }
    session = session_of(response)
    assert account_server.request("GET", "/account", headers=account_server.cookie(session)).json() == account
    assert account_server.request("GET", "/account", headers=basic(email)).json() == account
    assert (
        account_server.request("GET", "/files", headers=account_server.cookie(session)).json()["items"] == []
    )


def test_sign_up_form_shows_errors_and_logs_in(new_browser: Browsers) -> None:
    browser, email = new_browser(), unused_email()
    for form, status, message in (
        (credentials(email, "short"), 422, "at least 8"),
        (credentials("<b>no address</b>"), 422, "anna@example.org"),
        ({"email": email}, 422, "password is missing"),
    ):
        response = browser.post("/sign-up", data=form, headers=HTML)
        assert response.status_code == status
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert message in response.text
        assert "<b>no address" not in response.text
        assert PASSWORD not in response.text
        assert "set-cookie" not in response.headers
    response = browser.post("/sign-up", data=credentials(email), headers=HTML)
    assert (response.status_code, response.headers["location"]) == (303, "/")
    session_of(response)
    assert browser.get("/", headers=HTML).status_code == 200
    conflict = browser.post("/sign-up", data=credentials(email.upper()), headers=HTML)
    assert conflict.status_code == 409
    assert "text/html" in conflict.headers["content-type"]


def test_json_login_takes_texts_only_and_ignores_other_members(
    account_server: AccountServer, new_browser: Browsers, check_problem: CheckProblem
) -> None:
    browser, email = new_browser(), account_server.new_user().email
    for name in ("email", "password", "next"):
        for value in (5, True, [email], {"text": email}, *([None] * (name != "next"))):
            check_problem(browser.post("/login", json=credentials(email) | {name: value}), 422)
    for more in ({"next": None}, {"next": "/files"}, {"invite": 5, "recursive": "foo"}):
        assert browser.post("/login", json=credentials(email) | more).status_code == 200


def test_equivalent_addresses_are_one_account(new_browser: Browsers, check_problem: CheckProblem) -> None:
    """Addresses that differ in case, Unicode normalization or surrounding blanks are equal."""
    browser, number = new_browser(), next(NUMBERS)
    name = f"amélie.Straße-{number}@exämple.org"
    assert browser.post("/sign-up", json=credentials(name)).status_code == 201
    for variant in (
        name.upper().replace("STRASSE", "STRAßE"),
        unicodedata.normalize("NFD", name),
        f"  {name}\n",
    ):
        check_problem(browser.post("/sign-up", json=credentials(variant)), 409)
        assert browser.post("/login", json=credentials(variant)).status_code == 200


@each_backend
def test_one_of_ten_concurrent_sign_ups_wins(account_server: AccountServer, new_browser: Browsers) -> None:
    email = unused_email()
    browsers = [new_browser() for _ in range(10)]
    with ThreadPoolExecutor(10) as pool:
        responses = list(pool.map(lambda one: one.post("/sign-up", json=credentials(email)), browsers))
    assert Counter(response.status_code for response in responses) == {201: 1, 409: 9}
    assert sum("set-cookie" in response.headers for response in responses) == 1


def test_login_pages_cannot_be_framed_or_leak_invites(account_server: AccountServer) -> None:
    """The Referrer-Policy keeps the address, with the invite in it, from other sites."""
    for target in ("/login?next=/a", "/sign-up?invite=secret"):
        headers = account_server.request("GET", target).headers
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


def test_address_is_validated_at_sign_up(new_browser: Browsers, check_problem: CheckProblem) -> None:
    browser = new_browser()
    prefix = next(NUMBERS)
    for address, status in ADDRESSES.items():
        email = f"{prefix}{address}" if status == 201 and len(address) < 240 else address
        response = browser.post(
            "/sign-up",
            content=json.dumps(credentials(email)),
            headers={"content-type": "application/json"},
        )
        assert response.status_code == status, (address[:50], response.text)
        if status == 422:
            assert "set-cookie" not in response.headers
            assert "address" in check_problem(response, 422)


def test_password_length_is_validated_and_any_character_accepted(
    new_browser: Browsers, check_problem: CheckProblem
) -> None:
    browser = new_browser()
    for password, status in {
        "1234567": 422,
        "x" * 1025: 422,
        "12345678": 201,
        "x" * 1024: 201,
        "ключ 🔑 \0\n\x7f\ud800": 201,
        " " * 8: 201,
    }.items():
        body = credentials(unused_email(), password)
        body_options = {"content": json.dumps(body), "headers": {"content-type": "application/json"}}
        assert browser.post("/sign-up", **body_options).status_code == status
        browser.cookies.clear()
        assert browser.post("/login", **body_options).status_code == (200 if status == 201 else 401)


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


def test_malformed_login_body_is_rejected(
    account_server: AccountServer, check_problem: CheckProblem, no_server_errors: None
) -> None:
    for path in ("/login", "/sign-up"):
        for content_type, body, status in BODIES:
            response = account_server.request(
                "POST", path, content=body, headers={"content-type": content_type}
            )
            assert response.status_code == status, (path, content_type, body[:60], response.text[:300])
            if content_type == JSON:
                check_problem(response, status)
    encoded = {"content-type": JSON, "content-encoding": "gzip"}
    assert account_server.request("POST", "/login", content=b"{}", headers=encoded).status_code == 415


def test_endless_login_body_is_refused(account_server: AccountServer) -> None:
    def endless() -> Any:
        for _ in range(1000):
            yield b" " * 10_000

    try:
        response = account_server.request("POST", "/login", content=endless(), headers={"content-type": JSON})
    except httpx.HTTPError:
        return  # refused while the client was sending
    assert response.status_code == 413


# Logging in


def test_program_logs_in(
    account_server: AccountServer, user: User, new_browser: Browsers, check_problem: CheckProblem
) -> None:
    browser = new_browser()
    response = browser.post("/login", json=credentials(f" {user.email.upper()} "))
    assert response.status_code == 200
    assert response.json()["id"] == user.account.id
    assert not has_ended(account_server, session_of(response))
    for wrong in (credentials(user.email, PASSWORD + "x"), credentials(unused_email())):
        refused = browser.post("/login", json=wrong)
        assert check_problem(refused, 401) == "The email address or the password is wrong."
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


def test_login_redirects_only_to_this_server(user: User, new_browser: Browsers) -> None:
    browser = new_browser()
    for target, location in NEXT.items():
        response = browser.post("/login", data=credentials(user.email, next=target), headers=HTML)
        assert (response.status_code, response.headers["location"]) == (303, location), target
        assert response.headers.get_list("set-cookie")[0].startswith("seekable-")
        assert len(response.headers.get_list("set-cookie")) == 1
    dots = browser.post("/login", data=credentials(user.email, next="/..//evil.example"), headers=HTML)
    assert httpx.URL("http://here").join(dots.headers["location"]).host == "here"


def test_failed_login_form_shows_error_and_keeps_next(user: User, new_browser: Browsers) -> None:
    browser = new_browser()
    form = credentials(user.email, "wrong <b>password</b>", next="/?folder=a&q=<script>")
    response = browser.post("/login", data=form, headers=HTML)
    assert response.status_code == 401
    assert "text/html" in response.headers["content-type"]
    assert response.headers["www-authenticate"] == 'Bearer realm="Seekable"', (
        "a Basic challenge would open a browser dialog"
    )
    assert '<script>"' not in response.text
    assert "wrong &lt;b" not in response.text
    assert "wrong <b>" not in response.text
    assert user.email in response.text
    assert "The email address or the password is wrong." in response.text


# Session fixation


def test_login_replaces_session_chosen_by_client(
    account_server: AccountServer, user: User, new_browser: Browsers
) -> None:
    chosen = "c" * 43
    response = new_browser().post(
        "/login", json=credentials(user.email), headers=account_server.cookie(chosen)
    )
    assert response.status_code == 200
    assert session_of(response) != chosen
    assert has_ended(account_server, chosen)


def test_login_creates_new_session_and_ends_previous(
    account_server: AccountServer, user: User, other_user: User, new_browser: Browsers
) -> None:
    browser = new_browser()
    first = session_of(browser.post("/login", json=credentials(user.email)))
    second = session_of(browser.post("/login", json=credentials(user.email)))
    assert first != second
    assert has_ended(account_server, first)
    assert not has_ended(account_server, second)
    # An attacker may have planted their own session in the browser.
    response = new_browser().post("/login", json=credentials(user.email), headers=other_user.headers)
    assert session_of(response) != other_user.session
    assert has_ended(account_server, other_user.session)


def test_failed_login_ends_no_session(
    account_server: AccountServer, user: User, new_browser: Browsers
) -> None:
    response = new_browser().post("/login", json=credentials(user.email, "wrong one"), headers=user.headers)
    assert response.status_code == 401
    assert not has_ended(account_server, user.session)


# The end of sessions


def test_logout_ends_only_its_session(account_server: AccountServer, user: User) -> None:
    other_session = account_server.new_session(user.account)
    response = user.request("POST", "/logout")
    assert response.status_code == 204
    (cleared,) = response.headers.get_list("set-cookie")
    assert cleared.startswith("seekable-")
    assert "Max-Age=0" in cleared
    assert has_ended(account_server, user.session)
    assert user.store.sessions.get(hash_secret(user.session)) is None, (
        "removed from the database, for every process"
    )
    assert not has_ended(account_server, other_session), "another browser"
    form = account_server.request(
        "POST", "/logout", headers=account_server.cookie(other_session) | HTML, data={}
    )
    assert (form.status_code, form.headers["location"]) == (303, "/login")
    assert has_ended(account_server, other_session)


def test_session_expires_when_idle_or_old(account_server: AccountServer, user: User) -> None:
    """A session expires after 14 days without a request, and after 90 days in any case."""

    def session(created: timedelta, session_record: timedelta) -> str:
        secret = f"session-{next(NUMBERS)}"
        login = Session(hash_secret(secret), user.account.id, now() - created, now() - session_record)
        assert account_server.store.sessions.add(login, version=1)
        return secret

    minute = timedelta(minutes=1)
    idle, lifetime = timedelta(days=14), timedelta(days=90)
    assert has_ended(account_server, session(idle + minute, idle + minute))
    assert has_ended(account_server, session(lifetime + minute, minute))
    for used in (session(idle - minute, idle - minute), session(lifetime - minute, minute)):
        assert not has_ended(account_server, used)
    idling = session(idle - minute, idle - minute)
    assert not has_ended(account_server, idling)
    session_record = account_server.store.sessions.get(hash_secret(idling))
    assert session_record is not None
    assert now() - session_record.seen_at < minute, "the request renewed it"


@each_backend
def test_password_change_ends_all_other_sessions(
    account_server: AccountServer, user: User, check_problem: CheckProblem
) -> None:
    other_session, token = account_server.new_session(user.account), user.new_token()
    assert not has_ended(account_server, other_session)
    assert account_server.request("GET", "/account", headers=basic(user.email)).status_code == 200
    change = {"password": PASSWORD, "new_password": NEW_PASSWORD}
    response = user.request("POST", "/account/password", json=change)
    assert response.status_code == 204
    new_session = session_of(response)
    assert has_ended(account_server, other_session)
    assert has_ended(account_server, user.session)
    assert not has_ended(account_server, new_session)
    assert account_server.store.sessions.list(user.account.id) == [
        account_server.store.sessions.get(hash_secret(new_session))
    ]
    check_problem(account_server.request("GET", "/account", headers=basic(user.email)), 401)
    assert (
        account_server.request("GET", "/account", headers=basic(user.email, NEW_PASSWORD)).status_code == 200
    )
    assert account_server.request("GET", "/files", headers=bearer(token)).status_code == 200, (
        "a token ends only when it is revoked"
    )


def test_restored_password_works_immediately(account_server: AccountServer, user: User) -> None:
    """Its cached verification belongs to the earlier version of the account."""
    headers = basic(user.email)
    assert account_server.request("GET", "/account", headers=headers).status_code == 200
    change = {"password": PASSWORD, "new_password": NEW_PASSWORD}
    assert (
        account_server.request("POST", "/account/password", json=change, headers=headers).status_code == 204
    )
    assert account_server.request("GET", "/account", headers=headers).status_code == 401
    back = {"password": NEW_PASSWORD, "new_password": PASSWORD}
    response = account_server.request(
        "POST", "/account/password", json=back, headers=basic(user.email, NEW_PASSWORD)
    )
    assert response.status_code == 204
    assert account_server.request("GET", "/account", headers=headers).status_code == 200


def test_password_change_requires_current_password(
    account_server: AccountServer, user: User, check_problem: CheckProblem
) -> None:
    for body, status in (
        ({"password": "wrong", "new_password": NEW_PASSWORD}, 401),
        ({"password": "", "new_password": NEW_PASSWORD}, 401),
        ({"new_password": NEW_PASSWORD}, 422),
        ({"password": PASSWORD}, 422),
        ({"password": PASSWORD, "new_password": "short"}, 422),
        ({"password": PASSWORD, "new_password": "x" * 1025}, 422),
        ({"password": PASSWORD, "new_password": ["x" * 8]}, 422),
    ):
        check_problem(user.request("POST", "/account/password", json=body), status)
    for headers in (bearer(user.new_token()), account_server.cookie("x")):
        body = {"password": PASSWORD, "new_password": NEW_PASSWORD}
        response = account_server.request("POST", "/account/password", json=body, headers=headers)
        assert response.status_code in (401, 403)
    assert not has_ended(account_server, user.session)
    assert account_server.request("GET", "/account", headers=basic(user.email)).status_code == 200


def test_wrong_password_of_browser_dialog_gets_page(account_server: AccountServer, user: User) -> None:
    response = account_server.request("GET", "/files/film.mp4", headers=HTML | basic(user.email, "wrong"))
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Basic")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert user.email not in response.text
