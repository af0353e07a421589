"""Isolation: for every other account, a file of one account does not exist."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.accounts.models import Scope, hash_secret
from tests.http.accounts.conftest import PASSWORD, AccountServer, User, basic, bearer
from tests.support import on_disk_and_gridfs
from tests.support.sockets import TEXT, Socket

PATCH = {"content-type": "application/merge-patch+json"}
FORM = {"file": ("film.mp4", b"other bytes", "video/mp4")}


@dataclass(frozen=True)
class Place:
    """A file of an account with its ids and link, or unused names of the same lengths.

    Equal lengths let the tests compare responses byte for byte.
    """

    folder: str
    file_id: str
    etag: str
    sid: str
    token_id: str
    link_id: str

    @property
    def path(self) -> str:
        return f"{self.folder}/film.mp4"

    def without(self, text: str) -> str:
        """Replace the names of this place in a response text by placeholders."""
        for name in ("folder", "file_id", "etag", "sid", "token_id", "link_id"):
            text = text.replace(getattr(self, name), f"<{name}>")
        return text


# Name: method, target, options, and the status for an account without such a file.
REQUESTS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "get": ("GET", "/files/{path}", {}, 404),
    "get range": ("GET", "/files/{path}", {"headers": {"range": "bytes=0-1"}}, 404),
    "get unsatisfiable": ("GET", "/files/{path}", {"headers": {"range": "bytes=999-"}}, 404),
    "get if-match": ("GET", "/files/{path}", {"headers": {"if-match": '"{etag}"'}}, 404),
    "get if-match other": ("GET", "/files/{path}", {"headers": {"if-match": '"none"'}}, 404),
    "get if-none-match": ("GET", "/files/{path}", {"headers": {"if-none-match": '"{etag}"'}}, 404),
    "get download": ("GET", "/files/{path}?download=1", {}, 404),
    "head": ("HEAD", "/files/{path}", {}, 404),
    "put": ("PUT", "/files/{path}", {"content": b"other"}, 201),
    "put if-none-match": (
        "PUT",
        "/files/{path}",
        {"content": b"other", "headers": {"if-none-match": "*"}},
        201,
    ),
    "put if-match": ("PUT", "/files/{path}", {"content": b"other", "headers": {"if-match": '"{etag}"'}}, 412),
    "put if-match any": ("PUT", "/files/{path}", {"content": b"other", "headers": {"if-match": "*"}}, 412),
    "put beneath": ("PUT", "/files/{path}/b.mp4", {"content": b"other"}, 201),
    "put in place of the folder": ("PUT", "/files/{folder}", {"content": b"other"}, 201),
    "put with a sid": ("PUT", "/files/{path}?sid={sid}", {"content": b"other"}, 201),
    "delete": ("DELETE", "/files/{path}", {}, 404),
    "delete if-match": ("DELETE", "/files/{path}", {"headers": {"if-match": '"{etag}"'}}, 404),
    "patch": ("PATCH", "/files/{path}", {"content": b'{"filename": "mine.mp4"}', "headers": PATCH}, 404),
    "patch onto it": (
        "PATCH",
        "/files/mine.mp4",
        {"content": '{{"folder": "{folder}", "filename": "film.mp4"}}', "headers": PATCH},
        200,
    ),
    "options": ("OPTIONS", "/files/{path}", {}, 405),
    "upload": ("POST", "/file/upload", {"files": FORM, "data": {"folder": "{folder}"}}, 201),
    "upload with a sid": ("POST", "/file/upload?folder={folder}&sid={sid}", {"files": FORM}, 201),
    "stream": ("GET", "/file/stream?folder={folder}&filename=film.mp4", {}, 404),
    "stream head": ("HEAD", "/file/stream?folder={folder}&filename=film.mp4", {}, 404),
    "stream by id": ("GET", "/stream/{file_id}", {}, 404),
    "stream by id, range": ("GET", "/stream/{file_id}", {"headers": {"range": "bytes=1-"}}, 404),
    "stream by id, head": ("HEAD", "/stream/{file_id}", {}, 404),
    "stream by id, if-match": ("GET", "/stream/{file_id}", {"headers": {"if-match": '"{etag}"'}}, 404),
    "list": ("GET", "/files?folder={folder}", {}, 200),
    "list of all": ("GET", "/files?recursive=true&limit=1000", {}, 200),
    "search": ("GET", "/files?q=film&recursive=true", {}, 200),
    "search in the folder": ("GET", "/files?q=film&folder={folder}", {}, 200),
    "index": ("GET", "/files/{folder}/", {}, 404),
    "index head": ("HEAD", "/files/{folder}/", {}, 404),
    "index of all": ("GET", "/files/", {}, 200),
    "m3u": ("GET", "/playlist.m3u?folder={folder}", {}, 200),
    "m3u head": ("HEAD", "/playlist.m3u?folder={folder}", {}, 200),
    "m3u of all": ("GET", "/playlist.m3u?recursive=true", {}, 200),
    "xspf": ("GET", "/playlist.xspf?folder={folder}", {}, 200),
    "page": ("GET", "/", {}, 200),
    "page of the folder": ("GET", "/?folder={folder}", {}, 200),
    "page of the search": ("GET", "/?q=film", {}, 200),
    "page of the player": ("GET", "/?play={path}", {}, 404),
    "link": ("POST", "/account/links", {"json": {"path": "{path}"}}, 404),
    "link to the playlist": (
        "POST",
        "/account/links",
        {"json": {"folder": "{folder}", "playlist": "m3u"}},
        201,
    ),
    "links": ("GET", "/account/links", {}, 200),
    "revoke a link": ("DELETE", "/account/links/{link_id}", {}, 404),
    "tokens": ("GET", "/account/tokens", {}, 200),
    "revoke a token": ("DELETE", "/account/tokens/{token_id}", {}, 404),
    "account": ("GET", "/account", {}, 200),
}

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
ACCOUNT_ROUTES = ("/account", "/invites", "/settings")


@dataclass
class OtherCaller:
    """A caller other than the owner: headers, a link for each URL, and statuses.

    `shut` holds the statuses for safe and unsafe methods if every request is refused; `manages` is False if
    only requests for files are accepted.
    """

    headers: dict[str, str]
    link: str = ""
    shut: tuple[int, int] | None = None
    manages: bool = True
    scopes: frozenset[Scope] = frozenset(Scope)
    user: User | None = None
    """The account whose library the caller uses, or None."""

    def expects(self, name: str, method: str, target: str, status: int) -> int:
        """Return the expected status, given that of an account without such a file."""
        if self.shut is not None:
            return self.shut[0] if method in SAFE_METHODS else self.shut[1]
        if (Scope.READ if method in SAFE_METHODS else Scope.WRITE) not in self.scopes:
            return 403
        if "if-" in name and method not in SAFE_METHODS and Scope.READ not in self.scopes:
            return 403  # see test_write_only
        return 403 if target.startswith(ACCOUNT_ROUTES) and not self.manages else status


@pytest.fixture(scope="module")
def owner(account_server: AccountServer) -> User:
    return account_server.new_user()


@pytest.fixture(scope="module")
def socket(account_server: AccountServer, owner: User) -> Iterator[Socket]:
    """The owner's WebSocket, which receives upload progress."""
    with Socket(account_server.server, "/", owner.cookie) as socket:
        assert socket.status == 101
        yield socket


@pytest.fixture(scope="module")
def owned(owner: User, socket: Socket) -> Place:
    name = "owned-" + uuid4().hex
    file = owner.put(f"{name}/film.mp4", b"what only the owner may see")
    owner.put(f"{name}/other.mp4")
    link = owner.new_link(f"{name}/film.mp4")
    secret = owner.new_token()
    token = owner.store.tokens.get(hash_secret(secret))
    assert token is not None
    return Place(name, file["id"], file["etag"], socket.json()["sid"], token.id, link["id"])


@pytest.fixture(scope="module")
def unused(owned: Place) -> Place:
    """Unused names of the same lengths as those of `owned`."""
    sid = "x" * len(owned.sid)
    etag = uuid4().hex + uuid4().hex
    return Place("never-" + uuid4().hex, uuid4().hex, etag, sid, uuid4().hex, uuid4().hex)


CALLERS = (
    "anonymous",
    "another account",
    "an administrator",
    "another's password",
    "another's token",
    "another's read token",
    "another's write token",
    "a link to another file of the owner",
    "a link of another account",
    "a playlist of the owner",
    "a disabled account",
    "a leaving account",
    "an expired session",
    "a session that was never given",
    "a token that was never given",
)


@pytest.fixture(scope="module")
def callers(account_server: AccountServer, admin: User, owner: User, owned: Place) -> dict[str, OtherCaller]:
    another_user, disabled, leaving = (
        account_server.new_user(),
        account_server.new_user(),
        account_server.new_user(),
    )
    refused = (401, 401)
    another_user.put("linked/film.mp4")
    owner.put("unrelated/film.mp4")

    def signed(url: str) -> str:
        return url.partition("link=")[2]

    created = {
        "anonymous": OtherCaller({}, shut=refused),
        "another account": OtherCaller(another_user.headers, user=another_user),
        "an administrator": OtherCaller(admin.headers, user=admin),
        "another's password": OtherCaller(basic(another_user.email), user=another_user),
        "another's token": OtherCaller(bearer(another_user.new_token()), manages=False, user=another_user),
        "another's read token": OtherCaller(
            bearer(another_user.new_token(Scope.READ)),
            manages=False,
            user=another_user,
            scopes=frozenset({Scope.READ}),
        ),
        "another's write token": OtherCaller(
            bearer(another_user.new_token(Scope.WRITE)),
            manages=False,
            user=another_user,
            scopes=frozenset({Scope.WRITE}),
        ),
        "a link to another file of the owner": OtherCaller(
            {}, signed(owner.new_link(f"{owned.folder}/other.mp4")["url"]), (403, 401)
        ),
        "a link of another account": OtherCaller(
            {}, signed(another_user.new_link("linked/film.mp4")["url"]), (403, 401)
        ),
        "a playlist of the owner": OtherCaller(
            {}, signed(owner.new_playlist_link("unrelated")["url"]), (403, 401)
        ),
        "a disabled account": OtherCaller(disabled.headers, shut=refused),
        "a leaving account": OtherCaller(bearer(leaving.new_token()), shut=refused),
        "an expired session": OtherCaller(
            account_server.cookie(account_server.new_session(another_user.account, timedelta(days=15))),
            shut=refused,
        ),
        "a session that was never given": OtherCaller(account_server.cookie("0" * 43), shut=refused),
        "a token that was never given": OtherCaller(bearer("skb_" + "0" * 43), shut=refused),
    }
    account_server.store.set_disabled(disabled.account.id, True)
    account_server.store.mark_leaving(leaving.account.id)
    assert set(created) == set(CALLERS)
    return created


def fill_in(value: Any, place: Place) -> Any:
    """Fill in the names of a place."""
    match value:
        case str():
            names = {name: getattr(place, name) for name in Place.__dataclass_fields__}
            return value.format(**names, path=place.path) if "{" in value else value
        case dict():
            return {key: fill_in(inner, place) for key, inner in value.items()}
    return value


VOLATILE = ("id", "url", "stream_url", "created_at", "updated_at", "expires_at")


def comparable(response: httpx.Response, place: Place) -> tuple[int, dict[str, str], object]:
    """Return status, headers and body without the names of the place and without values that always
    differ."""
    text = place.without(response.text)
    body: object = text
    if response.headers.get("content-type") == "application/json":
        body = json.loads(text)
        if isinstance(body, dict):
            body = {key: value for key, value in body.items() if key not in VOLATILE}
    # The length of a timestamp depends on its fraction, so the length of JSON varies too.
    volatile_headers = {"date", "x-request-id", *(["content-length"] if isinstance(body, dict) else [])}
    headers = {
        name: place.without(value) for name, value in response.headers.items() if name not in volatile_headers
    }
    return response.status_code, headers, body


def send_request(
    account_server: AccountServer, caller: OtherCaller, name: str, place: Place
) -> httpx.Response:
    method, target, options, _ = REQUESTS[name]
    options = fill_in(options, place)
    headers = {**caller.headers, **options.pop("headers", {})}
    target = fill_in(target, place)
    if caller.link:
        target += ("&" if "?" in target else "?") + f"link={caller.link}"
    if name == "patch onto it" and caller.user is not None:
        caller.user.put("mine.mp4")
    response = account_server.request(method, target, headers=headers, **options)
    if caller.user is not None and method not in SAFE_METHODS:
        if response.status_code < 300:
            created = response.json()
            is_link = target.startswith("/account/links")
            undo = f"/account/links/{created['id']}" if is_link else f"/files/{created['path']}"
            assert caller.user.request("DELETE", undo).status_code == 204
        elif name == "patch onto it":
            assert caller.user.request("DELETE", "/files/mine.mp4").status_code == 204
    return response


@pytest.mark.parametrize("caller_name", CALLERS)
def test_file_does_not_exist_for_other_callers(
    caller_name: str,
    account_server: AccountServer,
    owner: User,
    owned: Place,
    unused: Place,
    callers: dict[str, OtherCaller],
    socket: Socket,
) -> None:
    caller = callers[caller_name]
    secrets = (owned.folder, owned.file_id, owned.link_id, owned.token_id, owner.email, owner.account.id)
    mistakes: list[str] = []
    with Socket(account_server.server, "/events", owner.cookie) as events:
        assert events.json() == {"type": "resync"}
        for name, (method, target, _, status) in REQUESTS.items():
            response_for_unused = send_request(account_server, caller, name, unused)
            response = send_request(account_server, caller, name, owned)
            expected = caller.expects(name, method, target, status)
            if response.status_code != expected:
                mistakes.append(
                    f"{name}: {response.status_code} instead of {expected}: {response.text[:200]}"
                )
            if comparable(response, owned) != comparable(response_for_unused, unused):
                mistakes.append(
                    f"{name}: {comparable(response, owned)} is not {comparable(response_for_unused, unused)}"
                )
            if method == "GET" and "{" not in target and any(secret in response.text for secret in secrets):
                mistakes.append(f"{name} reveals: {response.text[:500]}")
        assert mistakes == []
        owner.put(f"{owned.folder}/mark.mp4")
        assert events.json()["path"] == f"{owned.folder}/mark.mp4", "the only event"
    socket.send(TEXT, b"?")
    assert socket.json() == {"pong": True}, "no progress of other callers"
    assert owner.request("DELETE", f"/files/{owned.folder}/mark.mp4").status_code == 204
    assert owner.content(owned.path) == b"what only the owner may see"
    assert owner.request("HEAD", f"/files/{owned.path}").headers["etag"] == f'"{owned.etag}"'
    assert owner.paths() == [owned.path, f"{owned.folder}/other.mp4", "unrelated/film.mp4"]
    assert owned.link_id in owner.request("GET", "/account/links").text
    assert owned.token_id in owner.request("GET", "/account/tokens").text


CREDENTIALS = ("cookie", "password", "token", "read token", "write token")


@pytest.mark.parametrize("credentials", CREDENTIALS)
def test_owner_has_access_within_scopes(credentials: str, account_server: AccountServer) -> None:
    owner = account_server.new_user()
    headers = {
        "cookie": owner.headers,
        "password": basic(owner.email),
        "token": bearer(owner.new_token()),
        "read token": bearer(owner.new_token(Scope.READ)),
        "write token": bearer(owner.new_token(Scope.WRITE)),
    }[credentials]
    can_read, can_write = credentials != "write token", credentials != "read token"
    file = owner.put("films/film.mp4", b"a film")

    def send_request(method: str, target: str, **options: Any) -> httpx.Response:
        more = PATCH if method == "PATCH" else {}
        return account_server.request(method, target, headers=headers | more, **options)

    safe = {
        "/files/films/film.mp4": b"a film",
        f"/stream/{file['id']}": b"a film",
        "/file/stream?folder=films&filename=film.mp4": b"a film",
        "/files?folder=films": b"film.mp4",
        "/files?q=film&recursive=1": b"film.mp4",
        "/files/films/": b"film.mp4",
        "/playlist.m3u?folder=films": b"film.mp4",
        "/playlist.xspf?recursive=1": b"film.mp4",
        "/?folder=films": b"film.mp4",
        "/?play=films/film.mp4": b"film.mp4",
    }
    for target, content in safe.items():
        for method in ("GET", "HEAD"):
            response = send_request(method, target)
            assert response.status_code == (200 if can_read else 403), (method, target)
            assert (content in response.content) is (can_read and method == "GET"), (method, target)
    assert [
        send_request("PUT", "/files/films/film.mp4", content=b"other").status_code,
        send_request("PUT", "/files/films/new.mp4", content=b"new").status_code,
        send_request("POST", "/file/upload", files=FORM).status_code,
        send_request("PATCH", "/files/films/new.mp4", content=b'{"filename": "newer.mp4"}').status_code,
        send_request("DELETE", "/files/films/newer.mp4").status_code,
    ] == ([204, 201, 201, 200, 204] if can_write else [403] * 5)
    assert owner.content("films/film.mp4") == (b"other" if can_write else b"a film")
    refused = send_request("GET" if can_write else "DELETE", "/files/films/film.mp4")
    if not (can_read and can_write):
        assert refused.headers["www-authenticate"] == 'Bearer error="insufficient_scope"'


@on_disk_and_gridfs
def test_accounts_with_equal_names_have_separate_files(account_server: AccountServer) -> None:
    users = [account_server.new_user() for _ in range(3)]
    files = [user.put("films/film.mp4", user.email.encode()) for user in users]
    assert len({file["id"] for file in files}) == 3
    assert [file["owner"] for file in files] == [user.account.id for user in users]
    for user, file in zip(users, files, strict=True):
        assert user.content("films/film.mp4") == user.email.encode()
        assert user.request("GET", f"/stream/{file['id']}").content == user.email.encode()
        assert user.paths() == ["films/film.mp4"]
        assert user.request("GET", "/account").json()["used"] == len(user.email)
    assert users[0].request("DELETE", "/files/films/film.mp4").status_code == 204
    assert users[1].content("films/film.mp4") == users[1].email.encode()


def test_cursor_reveals_no_file_of_another_account(
    account_server: AccountServer, user: User, other_user: User
) -> None:
    for name in ("a", "b", "c"):
        user.put(f"{name}.mp4")
        other_user.put(f"{name}-other.mp4")
    page = user.request("GET", "/files?limit=1").json()
    next_page = other_user.request("GET", "/files", params={"limit": 10, "cursor": page["next_cursor"]})
    assert next_page.status_code in (200, 400)
    assert {item["owner"] for item in next_page.json().get("items", [])} <= {other_user.account.id}


ANONYMOUS_STATUSES = [
    ("GET", "/login", 200),
    ("HEAD", "/login", 200),
    ("GET", "/sign-up", 200),
    ("GET", "/health", 200),
    ("GET", "/health/live", 200),
    ("GET", "/health/ready", 200),
    ("GET", "/assets/nothing", 404),
    ("GET", "/help/", 200),
    ("GET", "/help/../files/a", 404),
    ("GET", "/help/..%2ffiles/a", 404),
    ("GET", "/", 401),
    ("GET", "/docs", 200),
    ("GET", "/openapi.json", 200),
    ("GET", "/settings", 401),
    ("GET", "/nothing/here", 401),
    ("GET", "/events", 401),
    ("GET", "/login/", 401),
    ("GET", "//login", 401),
    ("GET", "/LOGIN", 401),
    ("GET", "/login/../files/a", 401),
    ("GET", "/assets/../files/a", 404),
    ("GET", "/assets/..%2ffiles/a", 404),
    ("GET", "/assets%2f..%2ffiles/a", 404),
    ("GET", "/health/../files", 401),
    ("GET", "/files/a;/login", 401),
    ("GET", "/files/a?/assets/", 401),
    ("GET", "/invites", 401),
    ("POST", "/invites", 401),
    ("DELETE", "/invites/1", 401),
    ("GET", "/account", 401),
    ("POST", "/account/password", 401),
    ("POST", "/account/delete", 401),
    ("POST", "/account/tokens", 401),
    ("POST", "/logout", 401),
    ("TRACE", "/files/a", 401),
    ("PROPFIND", "/files/a", 401),
]


def test_favicon_is_public(account_server: AccountServer) -> None:
    assert account_server.request("GET", "/favicon.ico").status_code == 200


def test_only_public_routes_are_reachable_without_credentials(
    account_server: AccountServer, send_raw: Any, check_problem: Any
) -> None:
    for method, target, status in ANONYMOUS_STATUSES:
        response = send_raw(method, target)
        assert response.status_code == status, (method, target, response.text)
        if status == 401:
            assert response.headers["www-authenticate"] == 'Basic realm="Seekable", charset="UTF-8"'
            assert response.headers["cache-control"] == "no-store"
            if method != "HEAD":
                check_problem(response, 401)


def test_browser_is_redirected_to_login_and_back(account_server: AccountServer, user: User) -> None:
    """The redirect keeps the target byte for byte, whatever its name."""
    html = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    for target in (
        "/?folder=a%26b&q=%C3%A9",
        "/files/100%25%3F%23%20%C3%A9.mp4?download=1",
        "/settings",
        "/files",
    ):
        redirect = account_server.request("GET", target, headers=html)
        assert redirect.status_code == 303
        assert redirect.headers["cache-control"] == "no-store"
        assert redirect.headers["vary"] == "accept, sec-fetch-dest"
        login = httpx.URL(redirect.headers["location"])
        assert login.path == "/login"
        form = {"email": user.email, "password": PASSWORD, "next": login.params["next"]}
        logged_in = account_server.request("POST", "/login", data=form, headers=html)
        assert (logged_in.status_code, logged_in.headers["location"]) == (303, target)


@pytest.mark.parametrize(
    "headers",
    [
        {"accept": "*/*"},
        {"accept": "application/json, text/html;q=0.9"},
        {"accept": "text/html", "sec-fetch-dest": "empty"},
        {"accept": "text/html,*/*;q=0.8", "sec-fetch-dest": "iframe"},
    ],
)
def test_program_is_not_redirected_to_login(
    account_server: AccountServer, check_problem: Any, headers: dict[str, str]
) -> None:
    """By the rule that decides who gets a page for any other error."""
    check_problem(account_server.request("GET", "/files", headers=headers), 401)


def test_script_gets_bearer_challenge_without_browser_dialog(
    account_server: AccountServer,
) -> None:
    response = account_server.request(
        "GET", "/files", headers={"sec-fetch-dest": "empty", "sec-fetch-mode": "cors"}
    )
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="Seekable"'


def test_private_responses_are_not_stored_by_shared_caches(account_server: AccountServer, user: User) -> None:
    user.put("film.mp4")
    for target in ("/files/film.mp4", "/files", "/account", "/playlist.m3u", "/account/links"):
        response = user.request("GET", target)
        directives = response.headers.get("cache-control", "").replace(" ", "").split(",")
        assert {"private", "no-store"} & {*directives}, (target, directives)
    etag = user.request("GET", "/files/film.mp4").headers["etag"]
    not_modified = user.request("GET", "/files/film.mp4", headers={"if-none-match": etag})
    assert (not_modified.status_code, not_modified.headers["cache-control"]) == (304, "private, no-cache")
