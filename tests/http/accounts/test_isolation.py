"""What is one account's is nobody else's: to all others, each of its files is as if it had never been."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.accounts.models import Scope
from app.accounts.principals import hashed
from tests.http.accounts.conftest import PASSWORD, AccountServer, User, basic, bearer
from tests.support import each_backend
from tests.support.sockets import TEXT, Socket

PATCH = {"content-type": "application/merge-patch+json"}
FORM = {"file": ("film.mp4", b"other bytes", "video/mp4")}


@dataclass(frozen=True)
class Place:
    """A file that somebody owns, and what else of that account has a name; or names that nobody ever had. All
    are as long in both, so that the answers may be compared to the byte."""

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
        """A text of an answer that does not say of which place it is."""
        for name in ("folder", "file_id", "etag", "sid", "token_id", "link_id"):
            text = text.replace(getattr(self, name), f"<{name}>")
        return text


# name: what is asked of a place, and how an account answers that has no such thing.
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

SAFE = ("GET", "HEAD", "OPTIONS")
MANAGING = ("/account", "/invites", "/settings")


@dataclass
class Stranger:
    """Somebody else, or nobody: the headers, the link that is added to each URL, and whether the door is shut
    to all that is asked (statuses for what is safe and for the rest), or to all but files."""

    headers: dict[str, str]
    link: str = ""
    shut: tuple[int, int] | None = None
    manages: bool = True
    scopes: frozenset[Scope] = frozenset(Scope)
    user: User | None = None
    """Whose library it works in, if it does."""

    def expects(self, name: str, method: str, target: str, status: int) -> int:
        """How such a request is answered, if an account with no such file is answered `status`."""
        if self.shut is not None:
            return self.shut[0] if method in SAFE else self.shut[1]
        if (Scope.READ if method in SAFE else Scope.WRITE) not in self.scopes:
            return 403
        if "if-" in name and method not in SAFE and Scope.READ not in self.scopes:
            return 403  # see test_write_only
        return 403 if target.startswith(MANAGING) and not self.manages else status


@pytest.fixture(scope="module")
def owner(account_server: AccountServer) -> User:
    return account_server.new_user()


@pytest.fixture(scope="module")
def socket(account_server: AccountServer, owner: User) -> Iterator[Socket]:
    """Where the owner is told of the progress of uploads."""
    with Socket(account_server.server, "/", owner.cookie) as socket:
        assert socket.status == 101
        yield socket


@pytest.fixture(scope="module")
def theirs(owner: User, socket: Socket) -> Place:
    name = "owned-" + uuid4().hex
    file = owner.put(f"{name}/film.mp4", b"what only the owner may see")
    owner.put(f"{name}/other.mp4")
    link = owner.new_link(f"{name}/film.mp4")
    secret = owner.new_token()
    token = owner.store.token(hashed(secret))
    assert token is not None
    return Place(name, file["id"], file["etag"], socket.json()["sid"], token.id, link["id"])


@pytest.fixture(scope="module")
def nowhere(theirs: Place) -> Place:
    """Names like those, which never were."""
    sid = "x" * len(theirs.sid)
    etag = uuid4().hex + uuid4().hex
    return Place("never-" + uuid4().hex, uuid4().hex, etag, sid, uuid4().hex, uuid4().hex)


STRANGERS = (
    "nobody",
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
def strangers(account_server: AccountServer, admin: User, owner: User, theirs: Place) -> dict[str, Stranger]:
    another, disabled, leaving = (
        account_server.new_user(),
        account_server.new_user(),
        account_server.new_user(),
    )
    refused = (401, 401)
    another.put("linked/film.mp4")
    owner.put("unrelated/film.mp4")

    def signed(url: str) -> str:
        return url.partition("link=")[2]

    made = {
        "nobody": Stranger({}, shut=refused),
        "another account": Stranger(another.headers, user=another),
        "an administrator": Stranger(admin.headers, user=admin),
        "another's password": Stranger(basic(another.email), user=another),
        "another's token": Stranger(bearer(another.new_token()), manages=False, user=another),
        "another's read token": Stranger(
            bearer(another.new_token(Scope.READ)), manages=False, user=another, scopes=frozenset({Scope.READ})
        ),
        "another's write token": Stranger(
            bearer(another.new_token(Scope.WRITE)),
            manages=False,
            user=another,
            scopes=frozenset({Scope.WRITE}),
        ),
        "a link to another file of the owner": Stranger(
            {}, signed(owner.new_link(f"{theirs.folder}/other.mp4")["url"]), (403, 401)
        ),
        "a link of another account": Stranger(
            {}, signed(another.new_link("linked/film.mp4")["url"]), (403, 401)
        ),
        "a playlist of the owner": Stranger(
            {}, signed(owner.new_playlist_link("unrelated")["url"]), (403, 401)
        ),
        "a disabled account": Stranger(disabled.headers, shut=refused),
        "a leaving account": Stranger(bearer(leaving.new_token()), shut=refused),
        "an expired session": Stranger(
            account_server.cookie(account_server.new_session(another.account, timedelta(days=15))),
            shut=refused,
        ),
        "a session that was never given": Stranger(account_server.cookie("0" * 43), shut=refused),
        "a token that was never given": Stranger(bearer("skb_" + "0" * 43), shut=refused),
    }
    account_server.store.set_disabled(disabled.account.id, True)
    account_server.store.leave(leaving.account.id)
    assert set(made) == set(STRANGERS)
    return made


def filled(value: Any, place: Place) -> Any:
    """With the names of the place in it."""
    match value:
        case str():
            names = {name: getattr(place, name) for name in Place.__dataclass_fields__}
            return value.format(**names, path=place.path) if "{" in value else value
        case dict():
            return {key: filled(inner, place) for key, inner in value.items()}
    return value


VOLATILE = ("id", "url", "stream_url", "created_at", "updated_at", "expires_at")


def seen(response: httpx.Response, place: Place) -> tuple[int, dict[str, str], object]:
    """All that an answer says but of which place it was asked, and what is another each time."""
    text = place.without(response.text)
    body: object = text
    if response.headers.get("content-type") == "application/json":
        body = json.loads(text)
        if isinstance(body, dict):
            body = {key: value for key, value in body.items() if key not in VOLATILE}
    # How long a time is depends on its fraction, so of JSON the length is another each time, too.
    passing = {"date", "x-request-id", *(["content-length"] if isinstance(body, dict) else [])}
    headers = {name: place.without(value) for name, value in response.headers.items() if name not in passing}
    return response.status_code, headers, body


def send_request(
    account_server: AccountServer, stranger: Stranger, name: str, place: Place
) -> httpx.Response:
    method, target, options, _ = REQUESTS[name]
    options = filled(options, place)
    headers = {**stranger.headers, **options.pop("headers", {})}
    target = filled(target, place)
    if stranger.link:
        target += ("&" if "?" in target else "?") + f"link={stranger.link}"
    if name == "patch onto it" and stranger.user is not None:
        stranger.user.put("mine.mp4")
    response = account_server.request(method, target, headers=headers, **options)
    if stranger.user is not None and method not in SAFE:
        if response.status_code < 300:
            made = response.json()
            is_link = target.startswith("/account/links")
            undo = f"/account/links/{made['id']}" if is_link else f"/files/{made['path']}"
            assert stranger.user.request("DELETE", undo).status_code == 204
        elif name == "patch onto it":
            assert stranger.user.request("DELETE", "/files/mine.mp4").status_code == 204
    return response


@pytest.mark.parametrize("who", STRANGERS)
def test_to_all_others_a_file_is_as_if_it_had_never_been(
    who: str,
    account_server: AccountServer,
    owner: User,
    theirs: Place,
    nowhere: Place,
    strangers: dict[str, Stranger],
    socket: Socket,
) -> None:
    stranger = strangers[who]
    secrets = (theirs.folder, theirs.file_id, theirs.link_id, theirs.token_id, owner.email, owner.account.id)
    wrong: list[str] = []
    with Socket(account_server.server, "/events", owner.cookie) as events:
        assert events.json() == {"type": "resync"}
        for name, (method, target, _, status) in REQUESTS.items():
            never = send_request(account_server, stranger, name, nowhere)
            response = send_request(account_server, stranger, name, theirs)
            expected = stranger.expects(name, method, target, status)
            if response.status_code != expected:
                wrong.append(f"{name}: {response.status_code} instead of {expected}: {response.text[:200]}")
            if seen(response, theirs) != seen(never, nowhere):
                wrong.append(f"{name}: {seen(response, theirs)} is not {seen(never, nowhere)}")
            if method == "GET" and "{" not in target and any(secret in response.text for secret in secrets):
                wrong.append(f"{name} tells: {response.text[:500]}")
        assert wrong == []
        owner.put(f"{theirs.folder}/mark.mp4")
        assert events.json()["path"] == f"{theirs.folder}/mark.mp4", "the only thing that has happened"
    socket.send(TEXT, b"?")
    assert socket.json() == {"pong": True}, "no progress of others"
    assert owner.request("DELETE", f"/files/{theirs.folder}/mark.mp4").status_code == 204
    assert owner.content(theirs.path) == b"what only the owner may see"
    assert owner.request("HEAD", f"/files/{theirs.path}").headers["etag"] == f'"{theirs.etag}"'
    assert owner.paths() == [theirs.path, f"{theirs.folder}/other.mp4", "unrelated/film.mp4"]
    assert theirs.link_id in owner.request("GET", "/account/links").text
    assert theirs.token_id in owner.request("GET", "/account/tokens").text


OWNERS = ("cookie", "password", "token", "read token", "write token")


@pytest.mark.parametrize("how", OWNERS)
def test_the_owner_gets_to_all_of_it_as_far_as_the_scopes_go(how: str, account_server: AccountServer) -> None:
    owner = account_server.new_user()
    headers = {
        "cookie": owner.headers,
        "password": basic(owner.email),
        "token": bearer(owner.new_token()),
        "read token": bearer(owner.new_token(Scope.READ)),
        "write token": bearer(owner.new_token(Scope.WRITE)),
    }[how]
    reads, writes = how != "write token", how != "read token"
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
            assert response.status_code == (200 if reads else 403), (method, target)
            assert (content in response.content) is (reads and method == "GET"), (method, target)
    assert [
        send_request("PUT", "/files/films/film.mp4", content=b"other").status_code,
        send_request("PUT", "/files/films/new.mp4", content=b"new").status_code,
        send_request("POST", "/file/upload", files=FORM).status_code,
        send_request("PATCH", "/files/films/new.mp4", content=b'{"filename": "newer.mp4"}').status_code,
        send_request("DELETE", "/files/films/newer.mp4").status_code,
    ] == ([204, 201, 201, 200, 204] if writes else [403] * 5)
    assert owner.content("films/film.mp4") == (b"other" if writes else b"a film")
    refused = send_request("GET" if writes else "DELETE", "/files/films/film.mp4")
    if not (reads and writes):
        assert refused.headers["www-authenticate"] == 'Bearer error="insufficient_scope"'


@each_backend
def test_two_accounts_have_the_same_names_and_each_its_own_files(account_server: AccountServer) -> None:
    people = [account_server.new_user() for _ in range(3)]
    files = [user.put("films/film.mp4", user.email.encode()) for user in people]
    assert len({file["id"] for file in files}) == 3
    assert [file["owner"] for file in files] == [user.account.id for user in people]
    for user, file in zip(people, files, strict=True):
        assert user.content("films/film.mp4") == user.email.encode()
        assert user.request("GET", f"/stream/{file['id']}").content == user.email.encode()
        assert user.paths() == ["films/film.mp4"]
        assert user.request("GET", "/account").json()["used"] == len(user.email)
    assert people[0].request("DELETE", "/files/films/film.mp4").status_code == 204
    assert people[1].content("films/film.mp4") == people[1].email.encode()


def test_a_cursor_of_one_list_goes_on_in_nobody_elses(
    account_server: AccountServer, user: User, other_user: User
) -> None:
    for name in ("a", "b", "c"):
        user.put(f"{name}.mp4")
        other_user.put(f"{name}-other.mp4")
    page = user.request("GET", "/files?limit=1").json()
    following = other_user.request("GET", "/files", params={"limit": 10, "cursor": page["next_cursor"]})
    assert following.status_code in (200, 400)
    assert {item["owner"] for item in following.json().get("items", [])} <= {other_user.account.id}


ROUTES_FOR_NOBODY = [
    ("GET", "/login", 200),
    ("HEAD", "/login", 200),
    ("GET", "/sign-up", 200),
    ("GET", "/health", 200),
    ("GET", "/health/live", 200),
    ("GET", "/health/ready", 200),
    ("GET", "/assets/nothing", 404),
    ("GET", "/", 401),
    ("GET", "/docs", 401),
    ("GET", "/openapi.json", 401),
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


def test_the_icon_is_for_everybody(account_server: AccountServer) -> None:
    assert account_server.request("GET", "/favicon.ico").status_code == 200


def test_nobody_gets_to_what_is_for_everybody_and_nothing_else(
    account_server: AccountServer, send_raw: Any, check_problem: Any
) -> None:
    for method, target, status in ROUTES_FOR_NOBODY:
        response = send_raw(method, target)
        assert response.status_code == status, (method, target, response.text)
        if status == 401:
            assert response.headers["www-authenticate"] == 'Basic realm="Seekable", charset="UTF-8"'
            assert response.headers["cache-control"] == "no-store"
            if method != "HEAD":
                check_problem(response, 401)


def test_a_browser_is_sent_to_the_login_and_from_there_to_where_it_was(
    account_server: AccountServer, user: User
) -> None:
    """Whatever the name: what it asked for is what it gets."""
    html = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    for target in (
        "/?folder=a%26b&q=%C3%A9",
        "/files/100%25%3F%23%20%C3%A9.mp4?download=1",
        "/settings",
        "/files",
    ):
        sent = account_server.request("GET", target, headers=html)
        assert sent.status_code == 303
        assert sent.headers["cache-control"] == "no-store"
        login = httpx.URL(sent.headers["location"])
        assert login.path == "/login"
        form = {"email": user.email, "password": PASSWORD, "next": login.params["next"]}
        back = account_server.request("POST", "/login", data=form, headers=html)
        assert (back.status_code, back.headers["location"]) == (303, target)


def test_a_script_of_the_page_is_asked_so_that_no_browser_opens_a_dialog(
    account_server: AccountServer,
) -> None:
    response = account_server.request(
        "GET", "/files", headers={"sec-fetch-dest": "empty", "sec-fetch-mode": "cors"}
    )
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="Seekable"'


def test_what_is_private_is_for_no_shared_cache(account_server: AccountServer, user: User) -> None:
    user.put("film.mp4")
    for target in ("/files/film.mp4", "/files", "/account", "/playlist.m3u", "/account/links"):
        response = user.request("GET", target)
        directives = response.headers.get("cache-control", "").replace(" ", "").split(",")
        assert {"private", "no-store"} & {*directives}, (target, directives)
    etag = user.request("GET", "/files/film.mp4").headers["etag"]
    unchanged = user.request("GET", "/files/film.mp4", headers={"if-none-match": etag})
    assert (unchanged.status_code, unchanged.headers["cache-control"]) == (304, "private, no-cache")
