"""Every legal name round-trips through forms, URLs, lists, playlists, pages, moves and deletions."""

import json
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser
from urllib.parse import quote, unquote, urljoin

import httpx
import pytest

from tests.http.test_playlists import m3u, xspf
from tests.support import each_backend

NAMES = {
    "spaces": "two  words.mp4",
    "leading space": " film.mp4",
    "trailing space": "film.mp4 ",
    "nothing but spaces": "   ",
    "trailing dot": "film.",
    "leading dot": ".film.mp4",
    "three dots": "...",
    "leading dots": "..film.mp4",
    "leading dash": "-film.mp4",
    "option": "--help",
    "single quotes": "it's 'quoted'.mp4",
    "double quotes": '"quoted" film".mp4',
    "percent": "100%.mp4",
    "percent-encoded": "%41%2F%00%2e%2e.mp4",
    "hash and question": "#1? really?.mp4",
    "query": "?folder=x&filename=y",
    "and": "a=1&b=2&c.mp4",
    "entities": "&amp;&lt;&#65;.mp4",
    "semicolons": "a;b=c; filename=d.mp4",
    "plus": "a+b c.mp4",
    "colon": "http:film.mp4",
    "drive": "C:",
    "wildcards": "*?[a-z]|<film>.mp4",
    "shell": "$HOME `id` $(id) !.mp4",
    "template": "{{ 7 * 7 }}{% raw %}.mp4",
    "script": "<script>alert(1)<script>.mp4",
    "comma and at": "a, b@c.mp4",
    "emoji": "film 🎬.mp4",
    "joined emoji": "👩\u200d👩\u200d👧.mp4",
    "right to left": "סרט עברי.mp4",
    "override": "\u202egnp.mp4",
    "line separators": "line\u2028line\u2029.mp4",
    "no-break spaces": "\xa0film\u3000",
    "byte order mark": "\ufefffilm.mp4",
    "decomposed": "Ame\u0301lie.mp4",
    "decomposed hangul": "\u1112\u1161\u11ab\u1100\u1173\u11af.mp4",
    "cases": "İstanbul ẞ ﬁlm.mp4",
    "astral": "\U00010348\U0001d11e.mp4",
    "reserved elsewhere": "CON",
    "255 bytes": "ñ" * 127 + "x",
    "ours below the top": ".seekable",
}


class Links(HTMLParser):
    """The links of a page: their addresses and texts."""

    def __init__(self, page: httpx.Response) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._inside = False
        self.feed(page.raise_for_status().text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.append((dict(attrs)["href"] or "", ""))
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            href, text = self.found[-1]
            self.found[-1] = href, text + data

    def to(self, text: str) -> str:
        [href] = {href for href, label in self.found if label == text}
        return href


@pytest.mark.usefixtures("no_server_errors")
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_name_survives_every_route(http: httpx.Client, folder: str, name: str) -> None:
    """The name is that of a folder and of the file in it."""
    sent_folder, stored_name = f"{folder}/{name}", unicodedata.normalize("NFC", name)
    stored_folder = f"{folder}/{stored_name}"
    path = f"{stored_folder}/{stored_name}"
    # A form, whose fields are not percent-encoded.
    form = http.post(
        "/file/upload", data={"folder": sent_folder}, files={"file": (name, b"film", "video/mp4")}
    )
    assert form.status_code == 201, form.text
    file = form.json()
    assert (file["path"], file["folder"], file["filename"]) == (path, stored_folder, stored_name)
    again = http.post(f"/file/upload?folder={quote(sent_folder, safe='')}", files={"file": (name, b"x")})
    assert again.status_code == 409, again.text
    address = f"/files/{quote(f'{sent_folder}/{name}')}"
    check_served(http, [address, form.headers["location"], file["url"], file["stream_url"]], stored_name)
    query = f"folder={quote(sent_folder, safe='')}&filename={quote(name, safe='')}"
    check_served(http, [f"/file/stream?{query}"], stored_name)
    check_listed(http, folder, sent_folder, stored_name)
    for read_playlist in (m3u, xspf):
        check_played(http, sent_folder, stored_name, read_playlist)
    check_linked(http, sent_folder, stored_name)
    # PUT replaces that file and no other.
    put = http.put(address, content=b"film 2", headers={"If-Match": form.headers["etag"]})
    assert put.status_code == 204, put.text
    check_moved(http, address, file["id"], stored_folder, stored_name)


def check_served(http: httpx.Client, addresses: list[str], name: str) -> None:
    for address in addresses:
        response = http.get(address)
        assert (response.status_code, response.content) == (200, b"film"), address
        disposition = response.headers["content-disposition"]
        _, encoded, value = disposition.partition("filename*=UTF-8''")
        plain = disposition.partition('filename="')[2].removesuffix('"').replace('\\"', '"')
        assert (unquote(value) if encoded else plain) == name


def check_listed(http: httpx.Client, parent: str, sent_folder: str, name: str) -> None:
    listing = http.get("/files", params={"folder": sent_folder}).json()
    assert [item["filename"] for item in listing["items"]] == [name]
    assert http.get("/files", params={"folder": parent}).json()["folders"] == [name]
    recursive = http.get("/files", params={"folder": parent, "recursive": True, "limit": 1}).json()
    assert [item["id"] for item in recursive["items"]] == [item["id"] for item in listing["items"]]


def check_played(
    http: httpx.Client, sent_folder: str, name: str, read_playlist: Callable[..., list[tuple[str, str]]]
) -> None:
    [(title, url)] = read_playlist(http, folder=sent_folder)
    assert title == name
    assert url.isascii()
    assert http.get(url).content == b"film"


def check_linked(http: httpx.Client, sent_folder: str, name: str) -> None:
    """Check the index page and the web page."""
    address = f"/files/{quote(sent_folder)}/"
    link = urljoin(address, Links(http.get(address)).to(name))
    assert http.get(link).content == b"film"
    parent = f"/files/{quote(sent_folder.rpartition('/')[0])}/"
    assert http.get(urljoin(parent, Links(http.get(parent)).to(f"{name}/"))).status_code == 200
    page = Links(http.get("/", params={"folder": sent_folder}))
    player = Links(http.get(page.to(name)))
    downloads = [href for href, _ in player.found if href.endswith("download=1")]
    assert downloads
    assert all(http.get(href).content == b"film" for href in downloads)


def check_moved(http: httpx.Client, address: str, file_id: str, stored_folder: str, name: str) -> None:
    """Move the file away and back, then delete it."""
    patch = {"Content-Type": "application/merge-patch+json"}
    destination = f"{stored_folder} 2" if len(name.encode()) < 250 else f"{stored_folder}/2"
    moved = http.patch(address, content=json.dumps({"folder": destination}), headers=patch)
    assert moved.status_code == 200, moved.text
    assert (moved.json()["path"], moved.json()["id"]) == (f"{destination}/{name}", file_id)
    assert http.get(address).status_code == 404
    assert http.get(moved.json()["url"]).content == b"film 2"
    back = json.dumps({"folder": stored_folder, "filename": name})
    assert (
        http.patch(moved.json()["url"], content=back, headers=patch).json()["path"]
        == f"{stored_folder}/{name}"
    )
    assert http.delete(address).status_code == 204
    assert http.head(address).status_code == 404
    assert http.get("/files", params={"folder": stored_folder, "recursive": True}).json()["items"] == []


@each_backend
def test_put_accepts_every_name(http: httpx.Client, folder: str) -> None:
    for name in NAMES.values():
        stored_name = unicodedata.normalize("NFC", name)
        put = http.put(f"/files/{quote(f'{folder}/{name}', safe='')}".replace("%2F", "/", 1), content=b"film")
        assert (put.status_code, put.json()["filename"]) == (201, stored_name), name
    items = http.get("/files", params={"folder": folder, "limit": 1000}).json()["items"]
    names = {unicodedata.normalize("NFC", name) for name in NAMES.values()}
    assert {item["filename"] for item in items} == names
    assert all(http.get(item["url"]).content == b"film" for item in items)


def test_longest_name_is_accepted_in_nfc_and_nfd(http: httpx.Client, folder: str) -> None:
    """In NFD, which macOS sends, the name is longer than any file system accepts."""
    address = f"/files/{folder}/{quote('ñ' * 127)}"
    assert http.put(address, content=b"film").status_code == 201
    form = {"data": {"folder": folder}, "files": {"file": ("ñ" * 127, b"x")}}
    assert http.post("/file/upload", **form).status_code == 409  # type: ignore[arg-type]
    assert http.put(address, content=b"x", headers={"If-None-Match": "*"}).status_code == 412
    assert http.put(address, content=b"film 2").status_code == 204
