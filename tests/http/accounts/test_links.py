"""Signed links open one file, or one playlist and its files, until they expire or are revoked."""

import string
import unicodedata
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from uuid import uuid4

import httpx
import pytest

from app.accounts.links import LinkKind, LinkSigner
from app.accounts.models import Link, SigningKey, now
from tests.http.accounts.conftest import AccountServer, User, bearer

SendRaw = Callable[..., httpx.Response]
CheckProblem = Callable[[httpx.Response, int], str]


def target_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def token_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["link"][0]


def entries(playlist: httpx.Response) -> list[str]:
    """Return the addresses in an M3U playlist."""
    assert playlist.status_code == 200, playlist.text
    return [line for line in playlist.text.splitlines() if line.startswith("http")]


def test_link_opens_file_without_credentials(account_server: AccountServer, user: User) -> None:
    user.put("films/é & 100%.mp4", b"0123456789")
    link = user.new_link("films/é & 100%.mp4")
    assert link["path"] == "films/é & 100%.mp4"
    assert (link["is_playlist"], link["automatic"]) == (False, False)
    age = datetime.fromisoformat(link["expires_at"]) - datetime.fromisoformat(link["created_at"])
    assert age == timedelta(days=7)
    response = account_server.open_link(link["url"])
    assert (response.status_code, response.content) == (200, b"0123456789")
    assert response.headers["cache-control"] == "private, no-cache"
    assert "set-cookie" not in response.headers
    head = account_server.open_link(link["url"], "HEAD")
    assert (head.status_code, head.headers["content-length"]) == (200, "10")
    part = account_server.open_link(link["url"], headers={"range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    saved = account_server.open_link(f"{link['url']}&download=1")
    assert saved.headers["content-disposition"].startswith("attachment")
    assert user.request("GET", "/account/links").json() == {"items": [link]}
    assert user.request("GET", "/account/links").headers["cache-control"] == "no-store"


def test_link_is_read_only_and_opens_no_other_path(
    account_server: AccountServer, user: User, send_raw: SendRaw, check_problem: CheckProblem
) -> None:
    file = user.put("films/film.mp4", b"mine")
    user.put("films/other.mp4")
    user.put("film.mp4")
    token = token_of(user.new_link("films/film.mp4")["url"])
    for method in ("PUT", "DELETE", "PATCH", "POST"):
        response = send_raw(method, f"/files/films/film.mp4?link={token}", body=b"evil")
        check_problem(response, 401)
    for path in (
        "/",
        "/?play=films/film.mp4",
        "/?folder=films",
        "/files",
        "/files?folder=films",
        "/files/",
        "/files/films/",
        "/files/films/other.mp4",
        "/files/film.mp4",
        "/files/films/film.mp4/",
        "/files/films/../films/other.mp4",
        "/files/films/film.mp4/../other.mp4",
        "/files/films/../film.mp4",
        "/files/films//other.mp4",
        "/files/films/../../films/film.mp4",
        "/files/films/%2e%2e/films/film.mp4",
        "/files/films/%2E%2E/film.mp4",
        "/files/films%5cfilm.mp4",
        "/files/FILMS/film.mp4",
        "/files/films/film.mp4%00",
        "/files/films/film.mp4%0a",
        "/file/stream?folder=films&filename=film.mp4",
        f"/stream/{file['id']}",
        "/playlist.m3u",
        "/playlist.m3u?folder=films",
        "/playlist.xspf?folder=films",
        "/playlist.m3u?folder=films/film.mp4",
        "/account",
        "/account/links",
        "/account/tokens",
        "/invites",
        "/settings",
        "/events",
    ):
        joined = f"{path}{'&' if '?' in path else '?'}link={token}"
        for method in ("GET", "HEAD"):
            assert send_raw(method, joined).status_code == 403, joined
        check_problem(send_raw("GET", joined), 403)
    assert send_raw("GET", f"/files/films%2ffilm.mp4?link={token}").status_code in (200, 403)
    # Authentication and routing use the same path, after dot segments are removed.
    for path in ("/files/other/../films/film.mp4", "/files/./films//film.mp4"):
        assert send_raw("GET", f"{path}?link={token}").content == b"mine"
    assert user.content("films/film.mp4") == b"mine"
    assert sorted(user.paths()) == ["film.mp4", "films/film.mp4", "films/other.mp4"]


def test_altered_link_is_refused(
    account_server: AccountServer, user: User, other_user: User, check_problem: CheckProblem
) -> None:
    """Changing any character invalidates the link."""
    user.put("films/film.mp4", b"mine")
    other_user.put("films/film.mp4", b"others")
    token = token_of(user.new_link("films/film.mp4")["url"])
    others = token_of(other_user.new_link("films/film.mp4")["url"])
    playlist = token_of(user.new_playlist_link("films")["url"])
    link_id, _, signature = token.partition(".")
    alphabet = string.ascii_letters + string.digits + "-_"
    altered_tokens = {
        "",
        ".",
        link_id,
        f"{link_id}.",
        f".{signature}",
        signature,
        f"{link_id}..{signature}",
        f"{link_id}.{signature}.{signature}",
        f"{signature}.{link_id}",
        token + "A",
        token + "=",
        token + "%00",
        token + "%0A",
        token[:-1],
        token.upper(),
        token.replace(".", "%2F"),
        f" {token}",
        f"%20{token}",
        f"{link_id.upper()}.{signature}" if link_id.upper() != link_id else "x",
        f"{others.partition('.')[0]}.{signature}",
        f"{link_id}.{others.partition('.')[2]}",
        f"{playlist.partition('.')[0]}.{signature}",
        f"{uuid4().hex}.{signature}",
        playlist,
        "é",
        "x" * 5000,
        *(token[:at] + ("1" if token[at] != "1" else "2") + token[at + 1 :] for at in range(0, 32, 5)),
    }
    start = len(link_id) + 1
    for at in range(start, len(token) - 1, 7):
        for kind in (alphabet[:26], alphabet[26:52], string.digits, "-_", ".", "+", "%20"):
            new = kind if kind == "%20" else next(c for c in kind + "~" if c != token[at])
            altered_tokens.add(token[:at] + new + token[at + 1 :])
    assert token not in altered_tokens
    for link in sorted(altered_tokens):
        response = account_server.request("GET", f"/files/films/film.mp4?link={quote(link, safe='%')}")
        check_problem(response, 403)
    # A link of another account opens the file of that account, never this one.
    assert account_server.request("GET", f"/files/films/film.mp4?link={others}").content == b"others"
    assert account_server.request("GET", f"/files/films/film.mp4?link={token}").content == b"mine"


def test_last_character_of_signature_has_one_spelling(account_server: AccountServer, user: User) -> None:
    """Only four of its six bits carry data, so lax base64 would accept four characters."""
    user.put("film.mp4")
    token = token_of(user.new_link("film.mp4")["url"])
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    opened = [
        character
        for character in alphabet
        if account_server.request("GET", f"/files/film.mp4?link={token[:-1]}{character}").status_code == 200
    ]
    assert opened == [token[-1]]


def test_repeated_link_parameter_is_refused(
    account_server: AccountServer, user: User, other_user: User, send_raw: SendRaw
) -> None:
    user.put("film.mp4")
    other_user.put("film.mp4")
    mine, others = (token_of(one.new_link("film.mp4")["url"]) for one in (user, other_user))
    for query in (f"link={mine}&link={others}", f"link={mine}&link={mine}", f"link=&link={mine}"):
        assert send_raw("GET", f"/files/film.mp4?{query}").status_code == 403
    user.put("a/one.mp4")
    user.put("b/two.mp4")
    playlist = target_of(user.new_playlist_link("a")["url"])
    assert send_raw("GET", playlist).status_code == 200
    for more in ("folder=b", "folder=a", "recursive=false&recursive=true", "folder="):
        assert send_raw("GET", f"{playlist}&{more}").status_code == 403, more
        path, _, query = playlist.partition("?")
        assert send_raw("GET", f"{path}?{more}&{query}").status_code == 403, more


def test_link_accepts_any_spelling_of_its_path(
    account_server: AccountServer, user: User, send_raw: SendRaw
) -> None:
    """Names are normalized to NFC before they are compared."""
    user.put("Amélie.mp4", b"mine")
    token = token_of(user.new_link(unicodedata.normalize("NFD", "Amélie.mp4"))["url"])
    for name in ("Amélie.mp4", unicodedata.normalize("NFD", "Amélie.mp4")):
        assert send_raw("GET", f"/files/{quote(name)}?link={token}").content == b"mine"
    assert send_raw("GET", f"/files/%41m%C3%A9lie.mp4?link={token}").content == b"mine"
    assert send_raw("GET", f"/files/Am\u00e9lie.mp4?link={token}").status_code in (200, 400)


def test_link_takes_precedence_over_other_credentials(
    account_server: AccountServer, user: User, other_user: User
) -> None:
    """A user of another account who opens the link gets the linked file."""
    user.put("film.mp4", b"mine")
    other_user.put("film.mp4", b"others")
    url = user.new_link("film.mp4")["url"]
    assert other_user.request("GET", url).content == b"mine"
    assert account_server.request("GET", url, headers=bearer(other_user.new_token())).content == b"mine"
    assert other_user.request("PUT", url, content=b"others too").status_code == 204, (
        "a link never applies to a write"
    )
    assert (user.content("film.mp4"), other_user.content("film.mp4")) == (b"mine", b"others too")


def test_revoked_link_is_refused_immediately(
    account_server: AccountServer, user: User, other_user: User
) -> None:
    user.put("films/film.mp4")
    file, playlist = user.new_link("films/film.mp4"), user.new_playlist_link("films")
    (entry,) = entries(account_server.open_link(playlist["url"]))
    for url in (file["url"], entry):
        assert account_server.open_link(url).status_code == 200
    for link in (file, playlist):
        assert other_user.request("DELETE", f"/account/links/{link['id']}").status_code == 404
        assert user.request("DELETE", f"/account/links/{link['id']}").status_code == 204
        assert user.request("DELETE", f"/account/links/{link['id']}").status_code == 404
    for url in (file["url"], entry, playlist["url"]):
        assert account_server.open_link(url).status_code == 403
    # A browser gets a page instead of JSON.
    page = account_server.open_link(file["url"], headers={"accept": "text/html"})
    assert page.status_code == 403
    assert page.headers["content-type"].startswith("text/html")
    assert "not valid" in page.text


def test_head_of_signed_playlist_has_length_of_get(user: User) -> None:
    user.put("films/film.mp4")
    head, get = (user.request(method, "/playlist.m3u?folder=films") for method in ("HEAD", "GET"))
    assert "?link=" in get.text
    assert int(head.headers["content-length"]) == len(get.content)


def test_link_follows_path_when_file_is_replaced(account_server: AccountServer, user: User) -> None:
    user.put("film.mp4", b"one")
    url = user.new_link("film.mp4")["url"]
    assert user.request("DELETE", "/files/film.mp4").status_code == 204
    assert account_server.open_link(url).status_code == 404
    user.put("film.mp4", b"two")
    assert account_server.open_link(url).content == b"two"


def test_link_is_not_created_for_missing_or_invalid_path(
    user: User, other_user: User, check_problem: CheckProblem
) -> None:
    other_user.put("theirs.mp4")
    for body, status in (
        ({"path": "theirs.mp4"}, 404),
        ({"path": "none.mp4"}, 404),
        ({"path": "../film.mp4"}, 400),
        ({"path": ""}, 400),
        ({"path": 5}, 422),
        ({"path": None}, 422),
        ({}, 422),
        ({"folder": "films"}, 422),
        ({"folder": "films", "playlist": "pls"}, 422),
        ({"folder": "..", "playlist": "m3u"}, 400),
        ({"folder": 1, "playlist": "m3u"}, 422),
    ):
        check_problem(user.request("POST", "/account/links", json=body), status)


NOT_TRUE: list[Any] = [False, None, "", "true", "on", "yes", "foo", 0, 1, 1.0, 5, [True], {}]


@pytest.mark.parametrize("recursive", [True, *NOT_TRUE])
def test_link_is_recursive_only_for_json_true(recursive: object, user: User) -> None:
    assert user.new_playlist_link("films", recursive=recursive)["recursive"] is (recursive is True)
    user.put("film.mp4")
    assert user.new_link("film.mp4", recursive=recursive)["recursive"] is False


@pytest.mark.parametrize("value", [5, 0, 0.5, True, None, "", "..", ["films"], {"films": 1}])
def test_new_link_ignores_unused_members(value: object, user: User) -> None:
    user.put("film.mp4")
    file = user.new_link("film.mp4", folder=value, note=value)
    assert (file["path"], file["is_playlist"]) == ("film.mp4", False)
    playlist = user.new_playlist_link("films", path=value, note=value)
    assert (playlist["path"], playlist["is_playlist"]) == ("films", True)


@pytest.mark.parametrize(
    ("form", "path", "is_playlist"),
    [
        ({"path": "film.mp4"}, "film.mp4", False),
        ({"path": "film.mp4", "recursive": "foo"}, "film.mp4", False),
        ({"playlist": "m3u"}, "", True),
        *(({"playlist": "m3u", "recursive": value}, "", True) for value in ("on", "true", "1", "")),
    ],
)
def test_form_creates_link_that_is_not_recursive(
    form: dict[str, str], path: str, is_playlist: bool, user: User
) -> None:
    user.put("film.mp4")
    response = user.request("POST", "/account/links", data=form)
    assert response.status_code == 201, response.text
    link = response.json()
    assert (link["path"], link["is_playlist"], link["recursive"]) == (path, is_playlist, False)


def test_form_with_invalid_member_creates_no_link(user: User, check_problem: CheckProblem) -> None:
    user.put("film.mp4")
    for form in ({"path": "film.mp4", "expires_in": "60"}, {"path": "film.mp4", "playlist": ""}):
        check_problem(user.request("POST", "/account/links", data=form), 422)


# Playlists


def test_private_playlist_entries_are_signed(account_server: AccountServer, user: User) -> None:
    for name in ("1 é.mp4", "2 100% #?.mp4", "notes.txt"):
        user.put(f"films/{name}", name.encode())
    user.put("films/inside/3.mp4")
    found = entries(user.request("GET", "/playlist.m3u?folder=films"))
    assert [account_server.open_link(url).text for url in found] == ["1 é.mp4", "2 100% #?.mp4"]
    assert len({token_of(url).partition(".")[0] for url in found}) == 1, "one link signs all entries"
    assert len(entries(user.request("GET", "/playlist.m3u?folder=films&recursive=true"))) == 3
    again = entries(user.request("GET", "/playlist.m3u?folder=films"))
    assert again == found, "a second fetch reuses the link"
    links = user.request("GET", "/account/links").json()["items"]
    assert [(link["path"], link["recursive"], link["automatic"]) for link in links].count(
        ("films", False, True)
    ) == 1
    xspf = user.request("GET", "/playlist.xspf?folder=films").text
    assert xspf.count("?link=") == 2
    # Each signature is valid for its own file only.
    token = token_of(found[0])
    assert (
        account_server.request("GET", f"/files/{quote('films/2 100% #?.mp4')}?link={token}").status_code
        == 403
    )
    assert account_server.request("GET", f"/playlist.m3u?folder=films&link={token}").status_code == 403


def test_playlist_link_opens_only_its_folder(
    account_server: AccountServer, user: User, send_raw: SendRaw
) -> None:
    for path in ("films/a.mp4", "films/inside/b.mp4", "films2/c.mp4", "d.mp4"):
        user.put(path, path.encode())
    flat = user.new_playlist_link("films")["url"]
    deep = user.new_playlist_link("films", recursive=True)["url"]
    top = user.new_playlist_link("", "xspf")["url"]
    assert [account_server.open_link(url).text for url in entries(account_server.open_link(flat))] == [
        "films/a.mp4"
    ]
    assert len(entries(account_server.open_link(deep))) == 2
    assert "d.mp4" in account_server.open_link(top).text
    assert account_server.open_link(flat, "HEAD").status_code == 200
    for url, more in (
        (flat, "&recursive=true"),
        (flat, "&recursive=1"),
        (flat, "&recursive=on"),
        (top, "&recursive=1"),
    ):
        assert send_raw("GET", target_of(url) + more).status_code == 403
    token = token_of(flat)
    for target in (
        "/playlist.m3u?folder=films/inside",
        "/playlist.m3u?folder=films2",
        "/playlist.m3u?folder=",
        "/playlist.m3u",
        "/playlist.m3u?folder=films/..",
        "/files?folder=films",
        "/files/films/",
        "/files/films/a.mp4",
        "/?folder=films",
    ):
        joined = f"{target}{'&' if '?' in target else '?'}link={token}"
        assert send_raw("GET", joined).status_code == 403, joined
    searched = account_server.request("GET", f"/playlist.m3u?folder=films&q=b&link={token}")
    assert "inside" not in searched.text
    assert send_raw("GET", f"/playlist.xspf?folder=films&link={token}").status_code == 200, (
        "the same folder as XSPF"
    )


def test_entries_of_shared_playlist_end_with_its_link(account_server: AccountServer, user: User) -> None:
    """Otherwise a last fetch before the link expires would extend access."""
    user.put("films/film.mp4")
    playlist = user.new_playlist_link("films", expires_in=60)
    (entry,) = entries(account_server.open_link(playlist["url"]))
    assert token_of(entry).partition(".")[0] == token_of(playlist["url"]).partition(".")[0]
    assert account_server.open_link(entry).status_code == 200
    user.request("DELETE", f"/account/links/{playlist['id']}")
    assert account_server.open_link(entry).status_code == 403


def test_signature_of_discarded_key_is_invalid() -> None:
    old, new, newest = (SigningKey(str(number), uuid4().hex, now()) for number in range(3))
    signed = [LinkSigner([key]).sign("1", LinkKind.FILE, "film.mp4") for key in (old, new, newest)]
    link_signer = LinkSigner([newest, new])
    assert [link_signer.check(one, LinkKind.FILE, "film.mp4") for one in signed] == [None, "1", "1"]
    assert link_signer.sign("1", LinkKind.FILE, "film.mp4") == signed[2]
    for kind, path in (
        (LinkKind.PLAYLIST, "film.mp4"),
        (LinkKind.FILE, "film.mp"),
        (LinkKind.FILE, "1\nfile\nfilm.mp4"),
    ):
        assert link_signer.check(signed[2], kind, path) is None


def test_playlists_of_missing_folders_create_no_links(account_server: AccountServer) -> None:
    """Otherwise a client could fill the database."""
    owner = account_server.new_user()
    for number in range(30):
        owner.request("GET", f"/playlist.m3u?folder=none-{number}")
    assert owner.request("GET", "/account/links").json() == {"items": []}


@pytest.mark.parametrize("age", [timedelta(seconds=-1), timedelta(days=-400)])
def test_link_is_refused_after_expiry(age: timedelta, account_server: AccountServer, user: User) -> None:
    user.put("film.mp4")
    token = token_of(user.new_link("film.mp4")["url"])
    link_id = token.partition(".")[0]
    account_server.store.links.remove(link_id, account_id=user.account.id)
    at = now()
    expired: Any = Link(link_id, user.account.id, "film.mp4", False, False, False, at + age, at + age)
    account_server.store.links.add(expired)
    assert account_server.request("GET", f"/files/film.mp4?link={token}").status_code == 403


def test_error_page_of_link_does_not_name_its_account(account_server: AccountServer, user: User) -> None:
    user.put("film.mp4")
    link = user.new_link("film.mp4")
    user.request("DELETE", "/files/film.mp4")
    browser = {"accept": "text/html,*/*;q=0.8"}
    page = account_server.open_link(link["url"], headers=browser)
    assert page.status_code == 404
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert user.email not in page.text
    assert "search" not in page.text  # it would need a login
    assert user.email in user.request("GET", "/files/film.mp4", headers=browser).text
    refused = account_server.open_link(f"{link['url']}x", headers=browser)
    assert (refused.status_code, refused.headers["vary"]) == (403, page.headers["vary"])
    assert refused.headers["content-type"] == "text/html; charset=utf-8"
    program = {"accept": "application/json, text/html;q=0.9"}
    assert account_server.open_link(f"{link['url']}x", headers=program).json()["status"] == 403
