"""Every legal name survives every door: forms, addresses, lists, playlists, pages, moves and deletions."""

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
    """The addresses of the links of a page, and the text inside each."""

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
        [href] = {href for href, told in self.found if told == text}
        return href


@pytest.mark.usefixtures("no_server_errors")
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_name_survives_every_door(http: httpx.Client, folder: str, name: str) -> None:
    """The name is that of a folder, and of the file in it."""
    here, kept = f"{folder}/{name}", unicodedata.normalize("NFC", name)
    inside = f"{folder}/{kept}"
    path = f"{inside}/{kept}"
    # By a form, in whose fields nothing is encoded.
    form = http.post("/file/upload", data={"folder": here}, files={"file": (name, b"film", "video/mp4")})
    assert form.status_code == 201, form.text
    file = form.json()
    assert (file["path"], file["folder"], file["filename"]) == (path, inside, kept)
    again = http.post(f"/file/upload?folder={quote(here, safe='')}", files={"file": (name, b"x")})
    assert again.status_code == 409, again.text
    address = f"/files/{quote(f'{here}/{name}')}"
    check_served(http, [address, form.headers["location"], file["url"], file["stream_url"]], kept)
    query = f"folder={quote(here, safe='')}&filename={quote(name, safe='')}"
    check_served(http, [f"/file/stream?{query}"], kept)
    check_listed(http, folder, here, kept)
    for read in (m3u, xspf):
        check_played(http, here, kept, read)
    check_linked(http, here, kept)
    # Over it, and nothing but it.
    put = http.put(address, content=b"film 2", headers={"If-Match": form.headers["etag"]})
    assert put.status_code == 204, put.text
    check_moved(http, address, file["id"], inside, kept)


def check_served(http: httpx.Client, addresses: list[str], name: str) -> None:
    for address in addresses:
        response = http.get(address)
        assert (response.status_code, response.content) == (200, b"film"), address
        disposition = response.headers["content-disposition"]
        _, encoded, value = disposition.partition("filename*=UTF-8''")
        plain = disposition.partition('filename="')[2].removesuffix('"').replace('\\"', '"')
        assert (unquote(value) if encoded else plain) == name


def check_listed(http: httpx.Client, above: str, here: str, name: str) -> None:
    listing = http.get("/files", params={"folder": here}).json()
    assert [item["filename"] for item in listing["items"]] == [name]
    assert http.get("/files", params={"folder": above}).json()["folders"] == [name]
    beneath = http.get("/files", params={"folder": above, "recursive": True, "limit": 1}).json()
    assert [item["id"] for item in beneath["items"]] == [item["id"] for item in listing["items"]]


def check_played(
    http: httpx.Client, here: str, name: str, read: Callable[..., list[tuple[str, str]]]
) -> None:
    [(title, url)] = read(http, folder=here)
    assert title == name
    assert url.isascii()
    assert http.get(url).content == b"film"


def check_linked(http: httpx.Client, here: str, name: str) -> None:
    """On the page of links, and on the page at /."""
    address = f"/files/{quote(here)}/"
    link = urljoin(address, Links(http.get(address)).to(name))
    assert http.get(link).content == b"film"
    above = f"/files/{quote(here.rpartition('/')[0])}/"
    assert http.get(urljoin(above, Links(http.get(above)).to(f"{name}/"))).status_code == 200
    page = Links(http.get("/", params={"folder": here}))
    player = Links(http.get(page.to(name)))
    downloads = [href for href, _ in player.found if href.endswith("download=1")]
    assert downloads
    assert all(http.get(href).content == b"film" for href in downloads)


def check_moved(http: httpx.Client, address: str, identity: str, inside: str, name: str) -> None:
    """Elsewhere and back, and then away."""
    patch = {"Content-Type": "application/merge-patch+json"}
    there = f"{inside} 2" if len(name.encode()) < 250 else f"{inside}/2"
    moved = http.patch(address, content=json.dumps({"folder": there}), headers=patch)
    assert moved.status_code == 200, moved.text
    assert (moved.json()["path"], moved.json()["id"]) == (f"{there}/{name}", identity)
    assert http.get(address).status_code == 404
    assert http.get(moved.json()["url"]).content == b"film 2"
    back = json.dumps({"folder": inside, "filename": name})
    assert http.patch(moved.json()["url"], content=back, headers=patch).json()["path"] == f"{inside}/{name}"
    assert http.delete(address).status_code == 204
    assert http.head(address).status_code == 404
    assert http.get("/files", params={"folder": inside, "recursive": True}).json()["items"] == []


@each_backend
def test_put_takes_the_same_names(http: httpx.Client, folder: str) -> None:
    for name in NAMES.values():
        kept = unicodedata.normalize("NFC", name)
        put = http.put(f"/files/{quote(f'{folder}/{name}', safe='')}".replace("%2F", "/", 1), content=b"film")
        assert (put.status_code, put.json()["filename"]) == (201, kept), name
    listed = http.get("/files", params={"folder": folder, "limit": 1000}).json()["items"]
    names = {unicodedata.normalize("NFC", name) for name in NAMES.values()}
    assert {item["filename"] for item in listed} == names
    assert all(http.get(item["url"]).content == b"film" for item in listed)


def test_longest_name_is_taken_in_every_spelling(http: httpx.Client, folder: str) -> None:
    """In NFD, as a Mac would spell it, no file system takes it."""
    address = f"/files/{folder}/{quote('ñ' * 127)}"
    assert http.put(address, content=b"film").status_code == 201
    form = {"data": {"folder": folder}, "files": {"file": ("ñ" * 127, b"x")}}
    assert http.post("/file/upload", **form).status_code == 409  # type: ignore[arg-type]
    assert http.put(address, content=b"x", headers={"If-None-Match": "*"}).status_code == 412
    assert http.put(address, content=b"film 2").status_code == 204
