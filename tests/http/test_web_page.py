"""The web page at /, read without scripts: its links lead to the files, whatever their names."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qs, quote, urljoin, urlsplit

import httpx
import pytest

from tests.http.large_library import run_with_films
from tests.support import NewLibrary, Server, running

SendRequest = Callable[..., httpx.Response]
CheckProblem = Callable[[httpx.Response, int], str]

NAMES = [
    "two  words.mp4",
    " ",
    "it's.mp4",
    '"quoted".mp4',
    '" onerror="alert(1)',
    "100%.mp4",
    "%41%2F.mp4",
    "#1?.mp4",
    "a=1&b=2;c+d.mp4",
    "&amp;&lt;.mp4",
    "<b>bold<b>.mp4",
    "<script>alert(1)<script>.mp4",
    "{{ 7 * 7 }}{% raw %}.mp4",
    "javascript:alert(1)",
    "film 🎬.mp4",
    "סרט עברי.mp4",
    "\u202egnp.mp4",
    "é ½.mp4",
    "-dash.mp4",
    ".hidden.mp4",
    "odd\ufffe\uffff.mp4",
    "line\u2028line.mp4",
    "?play=x",
    "http:",
    "ñ" * 127,
]

VOID = {"meta", "link", "input", "img", "track", "br"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list["Element | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text inside, unchanged."""
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag: str = "", **attributes: str) -> list["Element"]:
        """Return all elements inside, at any depth, with this tag and these attributes (`class_` for
        class)."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
                if tag in ("", child.tag) and wanted.items() <= child.attributes.items():
                    found.append(child)
                found += child.all(tag, **attributes)
        return found

    def one(self, tag: str = "", **attributes: str) -> "Element":
        (found,) = self.all(tag, **attributes)
        return found


class StrictParser(HTMLParser):
    """A strict HTML parser: elements are closed in the order in which they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._open = [Element("", {})]
        self.root = self._open[0]
        self.feed(text)
        self.close()
        assert self._open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute comes twice in {attrs}"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)


@dataclass
class Browser:
    """A browser without scripts."""

    http: httpx.Client

    def open(self, url: str, status: int = 200) -> Element:
        response = self.http.get(url)
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert response.text.startswith("<!doctype html>\n")
        page = StrictParser(response.text).root
        check_safe(response, page)
        return page

    def folder(self, folder: str = "", **query: object) -> Element:
        given = {"folder": folder, **query}
        return self.open("/?" + "&".join(f"{name}={quote(str(value))}" for name, value in given.items()))


def check_safe(response: httpx.Response, page: Element) -> None:
    """Check that no inline script or style is in the page, and that it loads nothing from other sites."""
    expected_policy = dict(part.strip().partition(" ")[::2] for part in CSP.split(";"))
    header = response.headers["content-security-policy"]
    assert dict(part.strip().partition(" ")[::2] for part in header.split(";")) == expected_policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "same-origin"
    fresh = "private, no-cache" if response.status_code < 400 else "no-store"
    assert response.headers["cache-control"] == fresh
    for element in page.all():
        if element.tag == "script":
            assert element.attributes["src"].partition("/assets/page-")[1], element
            assert element.text == ""
        assert element.tag not in ("style", "iframe", "object", "embed", "base"), element
        for name, value in element.attributes.items():
            assert not name.startswith("on"), element
            assert name != "style", element
            if name in ("href", "src", "action"):
                assert re.match(r"/(?!/)|#main$", value), element


CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@pytest.fixture(scope="module")
def browser(http: httpx.Client) -> Browser:
    return Browser(http)


def put_named_files(http: httpx.Client, folder: str, *names: str) -> None:
    for name in names:
        path = quote(f"{folder}/{name}" if folder else name)
        http.put(f"/files/{path}", content=name.encode()).raise_for_status()


def rows(page: Element) -> list[Element]:
    return page.one("tbody").all("tr") if page.all("tbody") else []


def names(page: Element) -> list[str]:
    return [row.one("td", class_="name").all("bdi")[0].text for row in rows(page)]


def link(row: Element) -> str:
    return row.one("td", class_="name").all("a")[0].attributes["href"]


# Names


def test_favicon_is_at_its_default_address(send_request: Callable[..., httpx.Response]) -> None:
    response = send_request("GET", "/favicon.ico")
    assert (response.status_code, response.content[:4]) == (200, b"\0\0\1\0")
    assert response.headers["content-type"] in ("image/x-icon", "image/vnd.microsoft.icon")
    assert "max-age" in response.headers["cache-control"]
    assert send_request("HEAD", "/favicon.ico").headers["content-length"] == str(len(response.content))


def test_list_leads_to_player_and_download_for_every_name(
    browser: Browser, http: httpx.Client, folder: str
) -> None:
    put_named_files(http, folder, *NAMES)
    page = browser.folder(folder)
    assert names(page) == sorted(NAMES, key=str.encode)
    for row, name in zip(rows(page), names(page), strict=True):
        player = browser.open(link(row))
        assert player.one("h1").text == name
        assert name in player.one("title").text
        for media in player.all("video"):
            assert http.get(media.attributes["src"]).content == name.encode()
        assert bool(player.all("video")) == name.endswith(".mp4")
        for source in (row.one("td", class_="save"), player.one("p", class_="actions")):
            saved = http.get(source.all("a")[0].attributes["href"])
            assert saved.content == name.encode()
            assert saved.headers["content-disposition"].startswith("attachment")
        address = player.one("dl", class_="details").one("a")
        assert http.get(address.text).content == http.get(address.attributes["href"]).content == name.encode()


def test_folder_links_lead_inside_and_back(browser: Browser, http: httpx.Client, folder: str) -> None:
    for name in NAMES:
        put_named_files(http, f"{folder}/{name}/{name}", "film.mp4")
    page = browser.folder(folder)
    assert names(page) == sorted(NAMES, key=str.encode)
    for row, name in zip(rows(page), names(page), strict=True):
        inside = browser.open(link(row))
        assert inside.one("h1").text == name
        assert names(inside) == [name]
        deeper = browser.open(link(rows(inside)[0]))
        trail = deeper.one("ol")
        assert [part.text for part in trail.all("li")] == ["All files", folder, name, name]
        assert [part.text for part in trail.all(aria_current="page")] == [name]
        assert names(browser.open(trail.all("a")[2].attributes["href"])) == [name]
        player = browser.open(link(rows(deeper)[0]))
        assert names(browser.open(player.one("ol").all("a")[-1].attributes["href"])) == ["film.mp4"]


# Lists


def test_list_shows_type_size_and_date(browser: Browser, http: httpx.Client, folder: str) -> None:
    http.put(f"/files/{folder}/film.mp4", content=b"x" * 1_234_567).raise_for_status()
    put_named_files(http, f"{folder}/sub", "x")
    updated = http.get("/files", params={"folder": folder}).json()["items"][0]["updated_at"]
    inside, film = rows(browser.folder(folder))
    assert (inside.attributes["class"], film.attributes["class"]) == ("folder", "video")
    assert film.one("td", class_="type").text == "video/mp4"
    assert film.one("td", class_="size").text == "1.2 MB"
    time = film.one("time")
    assert time.text == updated[:10]
    assert time.attributes["datetime"].replace("+00:00", "Z") == updated.replace("+00:00", "Z")


def test_empty_folder_shows_how_to_upload(
    browser: Browser, http: httpx.Client, server: Server, folder: str
) -> None:
    page = browser.folder(f"{folder}/it's")
    assert rows(page) == []
    assert page.one("pre").text == (
        f"curl -F file=@film.mp4 '{server.url}/file/upload?folder={folder}/it%27s'"
    )
    assert page.one("main").one("a").attributes["href"] == "/docs"
    assert http.get("/docs").status_code == 200


def test_empty_library_shows_how_to_upload(tmp_path: Path, new_library: NewLibrary) -> None:
    with running(tmp_path, **new_library()) as server, server.client() as http:
        page = Browser(http).open("/")
        assert page.one("pre").text == f"curl -F file=@film.mp4 '{server.url}/file/upload'"
        assert page.all("table") == []
        put_named_files(http, "", "film.mp4")
        assert names(Browser(http).open("/")) == ["film.mp4"]
        assert Browser(http).open("/?play=film.mp4").one("ol").one("a").attributes["href"] == "/"


def test_pages_link_to_next_and_first(tmp_path: Path, new_library: NewLibrary) -> None:
    filenames = [f"{number:03}" for number in range(101)]
    paths = [*(f"films/{name}" for name in filenames), "films/sub/x"]
    with run_with_films(tmp_path, paths, **new_library()) as server, server.client() as http:
        check_pages(Browser(http), "films", filenames)


def check_pages(browser: Browser, folder: str, filenames: list[str]) -> None:
    first = browser.folder(folder)
    assert names(first) == ["sub", *filenames[:100]]
    assert first.one("nav", aria_label="Pages").one("a").attributes["rel"] == "next"
    last = browser.open(first.one("a", rel="next").attributes["href"])
    assert names(last) == filenames[100:]
    back = last.one("nav", aria_label="Pages").one("a")
    assert back.text == "First page"
    assert names(browser.open(back.attributes["href"])) == names(first)
    assert browser.folder(f"{folder}/sub").all("nav", aria_label="Pages") == []


def test_column_headings_sort_list(browser: Browser, http: httpx.Client, folder: str) -> None:
    for name, size in (("b", 3), ("a", 1), ("c", 2)):
        http.put(f"/files/{folder}/{name}", content=b"x" * size).raise_for_status()
    orders = {
        "Name": (["c", "b", "a"], "descending"),
        "Size": (["b", "c", "a"], "descending"),
        "Modified": (["c", "a", "b"], "descending"),
    }
    start = browser.folder(folder)
    assert names(start) == ["a", "b", "c"]
    assert start.one("th", aria_sort="ascending").text == "Name"
    for label, (sorted_links, direction) in orders.items():
        page = browser.open(heading(start, label).one("a").attributes["href"])
        assert names(page) == sorted_links
        assert page.one("th", aria_sort=direction).text == label
        reversed_page = browser.open(heading(page, label).one("a").attributes["href"])
        assert names(reversed_page) == sorted_links[::-1]
        assert reversed_page.one("th", aria_sort="ascending").text == label
        assert names(browser.open(heading(page, "Size").one("a").attributes["href"]))[0] in ("a", "b")


def heading(page: Element, label: str) -> Element:
    (found,) = (head for head in page.all("th") if head.text == label)
    return found


def test_search_finds_files_below_folder(browser: Browser, http: httpx.Client, folder: str) -> None:
    put_named_files(http, folder, "Summer holiday.mp4", "winter.mp4")
    put_named_files(http, f"{folder}/a & b", "song of summer.mp3")
    form = browser.folder(folder).one("form", role="search")
    assert form.attributes["method"] == "get"
    fields = {field.attributes["name"]: field.attributes["value"] for field in form.all("input")}
    assert fields == {"folder": folder, "q": ""}
    found = browser.folder(**fields | {"q": "SUM"})
    assert names(found) == ["Summer holiday.mp4", "song of summer.mp3"]
    assert found.one("input", name="q").attributes["value"] == "SUM"
    top_level, in_subfolder = rows(found)
    assert top_level.all("a", class_="where") == []
    where = in_subfolder.one("a", class_="where")
    assert where.one("bdi").text == f"{folder}/a & b"
    assert names(browser.open(where.attributes["href"])) == ["song of summer.mp3"]
    assert (
        http.get(browser.open(link(in_subfolder)).one("audio").attributes["src"]).content
        == b"song of summer.mp3"
    )
    no_results = browser.folder(folder, q='"><script>')
    assert rows(no_results) == []
    assert no_results.one("h1").text == 'Results for “"><script>”'


def test_playlist_links_repeat_folder_and_search(browser: Browser, http: httpx.Client, folder: str) -> None:
    inside = f"{folder}/a & b"
    put_named_files(http, f"{inside}/deeper", "summer.mp4", "winter.mp4")
    for query, titles in (({}, ["summer.mp4", "winter.mp4"]), ({"q": "sum"}, ["summer.mp4"])):
        links = browser.folder(inside, **query).one("p", class_="actions").all("a")
        assert [urlsplit(a.attributes["href"]).path for a in links] == ["/playlist.m3u", "/playlist.xspf"]
        for a in links:
            playlist = http.get(a.attributes["href"]).text
            assert [title for title in ("summer.mp4", "winter.mp4") if f"/{title}" in playlist] == titles
    sorted_links = browser.folder(inside, q="sum", sort="-size").one("p", class_="actions").all("a")[0]
    assert parse_qs(urlsplit(sorted_links.attributes["href"]).query)["sort"] == ["-size"]


# Players


@pytest.mark.parametrize(
    ("name", "tag"),
    [("a.mp4", "video"), ("a.mkv", "video"), ("a.mp3", "audio"), ("a.jpg", "img"), ("a.webp", "img")],
)
def test_player_shows_playable_file(
    browser: Browser, http: httpx.Client, folder: str, name: str, tag: str
) -> None:
    put_named_files(http, folder, name)
    player = browser.open(f"/?play={folder}/{name}")
    (media,) = player.one("main").all(tag)
    assert http.get(media.attributes["src"]).content == name.encode()
    if tag != "img":
        assert "controls" in media.attributes
        assert "autoplay" not in media.attributes
        assert media.attributes["preload"] == "metadata"


@pytest.mark.parametrize(
    ("name", "opens"), [("a.txt", True), ("a.srt", True), ("a.html", False), ("a.svg", False), ("a", False)]
)
def test_player_links_other_file(
    browser: Browser, http: httpx.Client, folder: str, name: str, opens: bool
) -> None:
    put_named_files(http, folder, name)
    main = browser.open(f"/?play={folder}/{name}").one("main")
    assert not [tag for tag in ("video", "audio", "img") if main.all(tag)]
    actions = main.one("p", class_="actions").all("a")
    assert [action.text for action in actions] == (["Download", "Open"] if opens else ["Download"])
    assert http.get(actions[-1].attributes["href"]).content == name.encode()


def test_player_loads_subtitles_of_same_name(browser: Browser, http: httpx.Client, folder: str) -> None:
    put_named_files(
        http, folder, "a b.mp4", "a b.vtt", "other.mp4", "ñ" * 125 + ".mp4", "longest" + "x" * 246 + ".m"
    )
    track = browser.open(f"/?play={folder}/a b.mp4").one("track")
    assert http.get(track.attributes["src"]).content == b"a b.vtt"
    assert browser.open(f"/?play={folder}/other.mp4").all("track") == []
    assert browser.open(f"/?play={folder}/{'ñ' * 125}.mp4").all("track") == []
    http.put(f"/files/{folder}/{'x' * 253}.m", content=b"x", headers={"content-type": "video/mp4"})
    assert browser.open(f"/?play={folder}/{'x' * 253}.m").one("video")


def test_player_shows_details(browser: Browser, http: httpx.Client, folder: str) -> None:
    file = http.put(f"/files/{folder}/film.mp4", content=b"x" * 1234).json()
    details = browser.open(f"/?play={folder}/film.mp4").one("dl", class_="details")
    terms = dict(zip(*([e.text for e in details.all(tag)] for tag in ("dt", "dd")), strict=True))
    assert terms["Size"] == "1.2 kB (1,234 bytes)"
    assert terms["Type"] == "video/mp4"
    assert terms["SHA-256"] == file["sha256"]
    assert terms["Address for players"] == file["url"]


# Errors, headers and base paths


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("play=none/such.mp4", 404),
        ("play=..", 400),
        ("play=/etc/passwd", 400),
        ("folder=a//b", 400),
        ("folder=%00", 400),
        ("folder=%ff", 400),
        ("cursor=!", 400),
        ("sort=colour", 422),
        ("play=<script>/.%2e/\u202e", 400),
    ],
)
def test_page_error_is_html(browser: Browser, http: httpx.Client, query: str, status: int) -> None:
    page = browser.open(f"/?{query}", status)
    assert str(status) in page.one("h1").text
    assert page.one("main").all("p")[0].text
    assert names(browser.open(page.one("main").all("a")[-1].attributes["href"])) is not None
    assert http.head(f"/?{query}").status_code == status


@pytest.mark.parametrize("query", ["", "?folder=none", "?play=none"])
def test_page_head_matches_get(send_request: SendRequest, query: str) -> None:
    get, head = (send_request(method, f"/{query}") for method in ("GET", "HEAD"))
    assert (head.status_code, head.content) == (get.status_code, b"")
    for response in (get, head):
        del response.headers["date"]
        response.headers.pop("x-request-id", None)
    assert head.headers == get.headers


def test_page_assets_are_cached_and_confined(
    browser: Browser, http: httpx.Client, send_request: SendRequest, check_problem: CheckProblem
) -> None:
    page = browser.open("/")
    styles = [link.attributes["href"] for link in page.all("link", rel="stylesheet")]
    icon = page.one("link", rel="icon").attributes["href"]
    script = page.one("script", type="module").attributes["src"]
    types = {**dict.fromkeys(styles, "text/css; charset=utf-8"), icon: "image/svg+xml"}
    for address, content_type in {**types, script: "text/javascript; charset=utf-8"}.items():
        response = http.get(address)
        assert response.status_code == 200
        assert response.headers["content-type"] == content_type
        assert "immutable" in response.headers["cache-control"]
        assert response.headers["x-content-type-options"] == "nosniff"
    for style in styles:
        text = http.get(style).text
        for part in re.findall(r'url\("([^"]+)"\)', text):
            assert http.get(urljoin(style, part)).headers["content-type"] == "image/svg+xml"
        assert "@import" not in text
    for wrong in ("/../templates/base.html", "/..%2ftemplates%2fbase.html", "/nope.css"):
        check_problem(send_request("GET", icon.rpartition("/")[0] + wrong), 404)


@pytest.fixture
def prefixed_http(tmp_path: Path, new_library: NewLibrary) -> Iterator[httpx.Client]:
    """A client of a server below a path, which its proxy strips."""
    with running(tmp_path, base_url="https://media.example.org/tv", **new_library()) as server:
        port = server.log().partition("running on http://127.0.0.1:")[2].split()[0]

        def strip_prefix(request: httpx.Request) -> None:
            assert request.url.raw_path.startswith(b"/tv/"), request.url
            request.url = request.url.copy_with(raw_path=request.url.raw_path[3:])

        with server.client(
            base_url=f"http://127.0.0.1:{port}/tv", event_hooks={"request": [strip_prefix]}
        ) as http:
            yield http


def test_console_works_below_base_path(prefixed_http: httpx.Client) -> None:
    console = prefixed_http.get("/docs").raise_for_status().text
    assert "'/tv/openapi.json'" in console
    for asset in re.findall(r'(?:src|href)="([^"]+)"', console):
        assert asset.startswith("/tv/assets/")
        assert prefixed_http.get(asset.removeprefix("/tv")).status_code == 200
    assert prefixed_http.get("/openapi.json").json()["servers"] == [{"url": "/tv"}]
    created = prefixed_http.put("/files/film.mp4", content=b"film")
    assert created.headers["location"] == "https://media.example.org/tv/files/film.mp4"
    assert prefixed_http.get("/files/film.mp4").content == b"film"


def test_page_links_work_below_base_path(prefixed_http: httpx.Client) -> None:
    origin = str(prefixed_http.base_url).removesuffix("/tv/")

    def read(path: str) -> Element:
        response = prefixed_http.get(f"{origin}{path}").raise_for_status()
        return StrictParser(response.text).root

    upload = read("/tv/").one("pre").text
    assert upload == "curl -F file=@film.mp4 'https://media.example.org/tv/file/upload'"
    put_named_files(prefixed_http, "a b", "c.mp4")
    top = read("/tv/")
    for element in top.all():
        for name in ("href", "src", "action"):
            if element.attributes.get(name, "#").startswith(("#", "/tv/docs")):
                continue
            assert prefixed_http.get(f"{origin}{element.attributes[name]}").status_code == 200
    assert top.one("body").attributes["data-root"] == "/tv"
    player = read(link(rows(read(link(rows(top)[0])))[0]))
    assert prefixed_http.get(f"{origin}{player.one('video').attributes['src']}").content == b"c.mp4"
    assert (
        player.one("dl", class_="details").one("a").text == "https://media.example.org/tv/files/a%20b/c.mp4"
    )
