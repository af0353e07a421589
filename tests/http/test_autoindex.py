"""The index page of a folder: complete, with working links for any name, and every name plain text."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urljoin

import httpx
import pytest

from app.resources.listing import PAGE_SIZE
from app.settings import Settings
from tests.http import kodi
from tests.http.large_library import LargeLibrary, run_with_films, serve_in_process
from tests.support import NewLibrary, Server, each_backend, running
from tests.support.beneath import beneath

SendRequest = Callable[..., httpx.Response]
CheckProblem = Callable[[httpx.Response, int], str]

ODD_NAMES = [
    *(" leading", "trailing ", 'it\'s; a "film" — 100% #1 & more?', "a+b=c,d$e!f*g(h)[i]{j}|k^l`m~n@o"),
    *("http:thing", "c:", "javascript:alert(1)", "?", "#", "%", "%2e%2e", "%2F", "&amp;", "..."),
    *("-dash", "--", ".dot", "~", "index.html", "<script>", "'\"><b>", "🎬", "שלום.mkv", "été"),
    *("x" * 255, "\u2028", "\ufeff", "\u202egpj.exe"),
]

QUOTES = "'" * 250
"""250 apostrophes: each takes nine bytes of HTML."""


class Links(HTMLParser):
    """The links of a page with their texts, in order, and all tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.tags: set[str] = set()
        self._href: str | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._href = dict(attributes).get("href") if tag == "a" else None

    def handle_data(self, data: str) -> None:
        if self._href is not None:
            self.found.append((self._href, data))

    def handle_endtag(self, tag: str) -> None:
        self._href = None


def links(response: httpx.Response) -> list[tuple[str, str]]:
    assert response.status_code == 200
    return Links(response.text).found


def put(http: httpx.Client, *paths: str) -> None:
    for path in paths:
        assert http.put(f"/files/{quote(path)}", content=path.encode()).status_code == 201


@each_backend
def test_index_lists_folders_then_files(http: httpx.Client, folder: str) -> None:
    put(http, f"{folder}/b.mp4", f"{folder}/a.mp4", f"{folder}/sub/x", f"{folder}/z/only/deep/y")
    response = http.get(f"/files/{folder}/")
    expected = [("../", "../"), ("sub/", "sub/"), ("z/", "z/"), ("a.mp4", "a.mp4"), ("b.mp4", "b.mp4")]
    assert links(response) == expected
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["cache-control"] == "private, no-cache"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert links(http.get(f"/files/{folder}/z/")) == [("../", "../"), ("only/", "only/")]
    top = links(http.get("/files/"))
    assert (f"{folder}/", f"{folder}/") in top
    assert ("../", "../") not in top, "the parent of the library root is not shown"


@pytest.mark.parametrize("kind", ["files", "folders"])
def test_index_links_lead_to_their_names(http: httpx.Client, folder: str, kind: str) -> None:
    end = "/" if kind == "folders" else ""
    put(http, *(f"{folder}/{name}{end and '/x'}" for name in ODD_NAMES))
    url = str(http.base_url.join(f"/files/{folder}/"))
    parent, *found = links(http.get(url))
    assert parent == ("../", "../")
    assert [text for _, text in found] == [f"{name}{end}" for name in sorted(ODD_NAMES, key=str.encode)]
    for href, text in found:
        target = urljoin(url, href)
        assert unquote(target.removeprefix(url)) == text, (
            "a name that looks like a scheme is still a relative link"
        )
        response = http.get(target)
        if kind == "folders":
            assert [urljoin(target, href) for href, _ in links(response)] == [url, f"{target}x"]
        else:
            assert response.content == f"{folder}/{text}".encode()


def test_index_escapes_names(http: httpx.Client, folder: str) -> None:
    name = "</title><script>alert(1)</script><b onload='x'>&lt;"
    put(http, f"{folder}/{name}")
    parent, _, last = f"{folder}/{name}".rpartition("/")
    page = http.get(f"/files/{quote(parent)}/")
    assert Links(page.text).tags == {"html", "meta", "title", "h1", "pre", "a"}
    assert links(page)[1:] == [(quote(last, safe=""), last)]


def test_kodi_reads_size_and_date_of_every_file(http: httpx.Client, folder: str) -> None:
    lengths = {name: number * 1234 for number, name in enumerate(ODD_NAMES) if name == name.strip(" ")}
    for name, length in lengths.items():
        http.put(f"/files/{folder}/{quote(name, safe='')}", content=b"x" * length).raise_for_status()
    put(http, f"{folder}/sub/x")
    page = http.get(f"/files/{folder}/").text
    found = {item.name: item for item in kodi.items(page)}
    assert found.pop("sub") == kodi.Item("sub", is_folder=True, date=None, size=0)
    assert {name: item.size for name, item in found.items()} == lengths == kodi.old_sizes(page)
    for info in http.get("/files", params={"folder": folder, "limit": 100}).json()["items"]:
        updated_at = datetime.fromisoformat(info["updated_at"])
        assert found[info["filename"]].date == updated_at.replace(second=0, microsecond=0)


def test_index_is_complete_beyond_one_storage_page(tmp_path: Path, new_library: NewLibrary) -> None:
    names = [f"{number:03}" for number in range(PAGE_SIZE + 5)]
    paths = (f"films/{name}" for name in names)
    with run_with_films(tmp_path, paths, **new_library()) as server, server.client() as http:
        assert links(http.get("/files/films/")) == [("../", "../"), *zip(names, names, strict=True)]


def test_index_follows_every_change_immediately(
    http: httpx.Client, folder: str, check_problem: CheckProblem
) -> None:
    check_problem(http.get(f"/files/{folder}/"), 404)
    put(http, f"{folder}/film.mp4")
    assert len(links(http.get(f"/files/{folder}/"))) == 2
    assert http.delete(f"/files/{folder}/film.mp4").status_code == 204
    check_problem(http.get(f"/files/{folder}/"), 404)


def test_index_of_file_is_404(http: httpx.Client, folder: str, check_problem: CheckProblem) -> None:
    put(http, f"{folder}/film.mp4")
    check_problem(http.get(f"/files/{folder}/film.mp4/"), 404)


def test_folder_without_trailing_slash_redirects(
    send_request: SendRequest, http: httpx.Client, folder: str, check_problem: CheckProblem
) -> None:
    for name in ODD_NAMES[:20]:
        put(http, f"{folder}/{name}/deep/film.mp4")
    for name in ("", *ODD_NAMES[:20]):
        path = f"/files/{folder}/{quote(name, safe='')}".rstrip("/")
        for method in ("GET", "HEAD"):
            response = send_request(method, f"{path}?a=%20b&link")
            assert (response.status_code, response.content) == (308, b"")
            assert response.headers["cache-control"] == "no-store"
            assert urljoin(path, response.headers["location"]) == f"{path}/?a=%20b&link"
        assert http.get(path, follow_redirects=True).status_code == 200
    assert send_request("GET", f"/files/x/../{folder}").headers["location"] == f"./{folder}/"
    for missing in (f"/files/{folder}/none", f"/files/{folder}x", f"/file/stream?filename={folder}"):
        check_problem(send_request("GET", missing), 404)
    check_problem(send_request("DELETE", f"/files/{folder}"), 404)


def test_index_head_matches_get(send_request: SendRequest, http: httpx.Client, folder: str) -> None:
    put(http, f"{folder}/film.mp4")
    for target in (f"/files/{folder}/", "/files/", f"/files/{folder}/none/", "/files/../"):
        get, head = send_request("GET", target), send_request("HEAD", target)
        assert (head.status_code, head.content) == (get.status_code, b"")
        for response in (get, head):
            del response.headers["date"]
            response.headers.pop("x-request-id", None)
        assert head.headers == get.headers
        assert "content-length" in get.headers


@pytest.mark.parametrize(
    "target",
    [
        *("../", "a/../../", "%2e/", "a/%2e%2e/", ".seekable/", "a/../.seekable/", ".seekable/staging/"),
        *("%00/", "%0A/", "%ff/", "a\\b/", "%2F/", "a%2F/", f"{'x' * 256}/", "a/" * 40, f"{'%C3%A9' * 600}/"),
    ],
)
def test_index_of_invalid_folder_is_400(
    send_request: SendRequest, check_problem: CheckProblem, target: str
) -> None:
    check_problem(send_request("GET", f"/files/{target}"), 400)


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_folder_cannot_be_written(
    send_request: SendRequest, http: httpx.Client, folder: str, check_problem: CheckProblem, method: str
) -> None:
    put(http, f"{folder}/film.mp4")
    for target in (f"/files/{folder}/", f"/files/{folder}%2F", f"/files/{folder}/new/", "/files/"):
        check_problem(send_request(method, target, body=b"x" if method == "PUT" else None), 400)
    assert len(links(http.get(f"/files/{folder}/"))) == 2


def test_index_of_empty_library_is_empty(tmp_path: Path, new_library: NewLibrary) -> None:
    with running(tmp_path / "server", **new_library()) as server, server.client() as http:
        assert links(http.get("/files/")) == []


@pytest.fixture
def crowded(tmp_path: Path, new_library: NewLibrary) -> Iterator[Server]:
    """`wide` has 1,001 folders, `narrow` 999; the page of `long` is larger than any socket buffer."""
    paths = [f"wide/{number}/x" for number in range(1001)]
    paths += [f"narrow/{number}/x" for number in range(999)]
    paths += [f"long/{number:04}{QUOTES}" for number in range(3000)]
    with run_with_films(tmp_path, paths, **new_library()) as server:
        yield server


def test_crowded_index_is_complete_or_breaks(crowded: Server) -> None:
    """A client that copies a library by its links must not take a part of it for the whole."""
    with crowded.client() as http:
        assert len(links(http.get("/files/narrow/"))) == 1000
        found = links(http.get("/files/wide/"))
        assert [text for _, text in found[1:]] == sorted(f"{number}/" for number in range(1001))
        assert ("/files/wide/", "Show all folders") in links(http.get("/?folder=wide"))
        assert "Show all folders" not in http.get("/?folder=narrow").text

    small_buffer = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)]
    with crowded.client(transport=httpx.HTTPTransport(socket_options=small_buffer)) as http:
        assert len(links(http.get("/files/long/"))) == 3001
        with http.stream("GET", "/files/long/") as response:
            lines = response.iter_lines()
            next(lines)
            with beneath(crowded).broken(), pytest.raises(httpx.RemoteProtocolError):
                list(lines)
    assert crowded.stop() == 0
    lines = [line for line in crowded.log().splitlines() if "/files/long/" in line or "ASGI" in line]
    errors = [line for line in lines if " ERROR " in line]
    assert len(errors) == 1, crowded.log()
    assert "The response for '/files/long/' was aborted: " in errors[0]


def test_index_is_refused_when_folder_has_too_many_folders(
    check_problem: CheckProblem, tmp_path: Path, new_library: NewLibrary
) -> None:
    settings = Settings(_env_file=None, files_dir=tmp_path / "files", **new_library())
    library = LargeLibrary(settings, (f"wide/{number:07}/film.mp4" for number in range(1200)))
    with (
        serve_in_process(library, lambda services: replace(services, max_index_folders=1200)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as http,
    ):
        assert "1,200" in check_problem(http.get("/files/wide/"), 501)
        assert http.head("/files/wide/").status_code == 501
        http.delete("/files/wide/0000007/film.mp4").raise_for_status()
        assert len(links(http.get("/files/wide/"))) == 1200
