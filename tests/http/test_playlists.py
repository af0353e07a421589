"""GET /playlist.m3u and /playlist.xspf: folders as playlists."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import httpx
import pytest
from fastapi import Request

from app.resources.listing import PAGE_SIZE, StreamedListing
from app.settings import Settings
from tests.http.large_library import LargeLibrary, PageCounter, serve_in_process
from tests.support import NewLibrary, Server, running

SendRequest = Callable[..., httpx.Response]
FILES = 4_000

CheckProblem = Callable[[httpx.Response, int], str]

NAMES = [
    "two words.mp4",
    'it\'s "quoted".mp4',
    "100%.mp4",
    "%41%2F.mp4",
    "#1?.mp4",
    "a=1&b=2;c+d.mp4",
    "<title>&amp;.mp4",
    "film 🎬.mp4",
    "סרט.mp4",
    "é.mp4",
    "-dash.mp4",
    ".hidden.mp4",
    "odd\ufffe.mp4",
    "line\u2028line.mp4",
]


def put_named_films(http: httpx.Client, folder: str, *names: str) -> None:
    for name in names:
        http.put(f"/files/{folder}/{quote(name)}", content=name.encode()).raise_for_status()


def m3u(http: httpx.Client, **query: object) -> list[tuple[str, str]]:
    """Return the title and address of each entry."""
    response = http.get("/playlist.m3u", params=query)
    assert response.status_code == 200, response.text
    head, encoding, *lines, end = response.content.decode().split("\n")
    assert (head, encoding, end) == ("#EXTM3U", "#EXTENC:UTF-8", "")
    assert [line for line in lines[::2] if not line.startswith("#EXTINF:-1,")] == []
    return [(line[11:], url) for line, url in zip(lines[::2], lines[1::2], strict=True)]


def xspf(http: httpx.Client, **query: object) -> list[tuple[str, str]]:
    """Return the title and address of each entry."""
    response = http.get("/playlist.xspf", params=query)
    assert response.status_code == 200, response.text
    tracks = ElementTree.fromstring(response.content).iter("{http://xspf.org/ns/0/}track")
    return [(track[1].text or "", track[0].text or "") for track in tracks]


@pytest.mark.parametrize("read_playlist", [m3u, xspf])
def test_playlist_addresses_serve_their_films(
    read_playlist: Callable[..., list[tuple[str, str]]], http: httpx.Client, folder: str, server: Server
) -> None:
    inside = f"{folder}/a b/ü&c=d#?"
    put_named_films(http, quote(inside), *NAMES)
    entries = read_playlist(http, folder=inside)
    assert len(entries) == len(NAMES)
    for (title, url), name in zip(entries, sorted(NAMES, key=str.encode), strict=True):
        assert title == (name if read_playlist is m3u else name.replace("\ufffe", "\ufffd"))
        assert url.startswith(f"{server.url}/files/")
        assert url.isascii()
        assert http.get(url).content == name.encode()


def test_playlist_headers_are_the_same_for_get_and_head(
    http: httpx.Client, send_request: SendRequest, folder: str
) -> None:
    put_named_films(http, f"{folder}/films", "a.mp4")
    for extension, kind in (("m3u", "audio/x-mpegurl"), ("xspf", "application/xspf+xml")):
        target = f"/playlist.{extension}?folder={folder}/films"
        get, head = (send_request(method, target) for method in ("GET", "HEAD"))
        assert get.headers["content-type"] == kind
        assert get.headers["content-disposition"] == f'attachment; filename="films.{extension}"'
        assert get.headers["cache-control"] == "private, no-cache"
        assert get.headers["x-content-type-options"] == "nosniff"
        assert (head.status_code, head.content) == (200, b"")
        names = {"content-type", "content-disposition", "cache-control", "x-content-type-options"}
        names.add("content-length")
        assert {name: head.headers[name] for name in names} == {name: get.headers[name] for name in names}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_response_has_content_length_when_it_fits_one_page(
    http: httpx.Client, connect: Any, folder: str, version: str
) -> None:
    put_named_films(http, folder, "a.mp4")
    for target in (
        f"/playlist.m3u?folder={folder}",
        f"/playlist.xspf?folder={folder}",
        f"/files/{folder}/",
        f"/files?folder={folder}",
        "/",
    ):
        lengths = []
        for method in ("GET", "HEAD"):
            connection = connect()
            connection.send(f"{method} {target} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
            response = connection.receive_response(method)
            lengths.append(int(response.headers["content-length"]))
            assert "transfer-encoding" not in response.headers
            assert version == "1.1" or connection.is_closed()
        assert lengths[0] == lengths[1] > 0, target


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("", 'attachment; filename="playlist.m3u"'),
        ("סרט 1", "attachment; filename=\"srt 1.m3u\"; filename*=UTF-8''%D7%A1%D7%A8%D7%98%201.m3u"),
    ],
)
def test_playlist_file_is_named_after_folder(send_request: SendRequest, name: str, disposition: str) -> None:
    response = send_request("GET", f"/playlist.m3u?folder={quote(name)}")
    assert response.headers["content-disposition"] == disposition


def test_playlist_lists_only_playable_files(http: httpx.Client, folder: str) -> None:
    played = ["a.mp4", "b.mkv", "c.mp3", "d.flac", "e.webm"]
    put_named_films(
        http, folder, *played, "a.srt", "a.vtt", "a.jpg", "a.txt", "a.html", "a", "a.m3u", "a.xspf", "a.pls"
    )
    for read_playlist in (m3u, xspf):
        assert [title for title, _ in read_playlist(http, folder=folder)] == played


def test_playlist_is_empty_for_empty_folder(http: httpx.Client, folder: str) -> None:
    for read_playlist in (m3u, xspf):
        assert read_playlist(http, folder=folder) == []
        assert read_playlist(http, folder=f"{folder}/none/at all") == []


def test_playlist_includes_subfolders_when_recursive(http: httpx.Client, folder: str) -> None:
    put_named_films(http, folder, "z.mp4")
    put_named_films(http, f"{folder}/series/1", "a.mp4", "b.mp4")
    put_named_films(http, f"{folder}-2", "no.mp4")
    try:
        for read_playlist in (m3u, xspf):
            assert [title for title, _ in read_playlist(http, folder=folder)] == ["z.mp4"]
            entries = read_playlist(http, folder=folder, recursive="true")
            assert [url.partition(f"/{folder}/")[2] for _, url in entries] == [
                "z.mp4",
                "series/1/a.mp4",
                "series/1/b.mp4",
            ]
    finally:
        http.delete(f"/files/{folder}-2/no.mp4").raise_for_status()


def test_playlist_contains_search_results(http: httpx.Client, folder: str) -> None:
    put_named_films(http, folder, "Summer holiday.mp4", "winter.mp4", "songs of summer.mp3", "summer.txt")
    found = [title for title, _ in m3u(http, folder=folder, q="sum")]
    assert found == ["Summer holiday.mp4", "songs of summer.mp3"]
    assert m3u(http, folder=folder, q="sum", type="audio")[0][0] == "songs of summer.mp3"
    by_size = [title for title, _ in m3u(http, folder=folder, sort="-size")]
    assert by_size == ["songs of summer.mp3", "Summer holiday.mp4", "winter.mp4"]


@pytest.mark.parametrize("path", ["/playlist.m3u", "/playlist.xspf"])
def test_playlist_rejects_bad_parameters_before_sending(
    send_request: SendRequest, check_problem: CheckProblem, path: str
) -> None:
    for query in ("folder=..", "folder=/a", "folder=a/", "folder=a//b", "folder=%00", "folder=%ff"):
        check_problem(send_request("GET", f"{path}?{query}"), 400)
        assert send_request("HEAD", f"{path}?{query}").status_code == 400
    assert "recursive" in check_problem(send_request("GET", f"{path}?recursive=perhaps"), 422)
    assert "sort" in check_problem(send_request("GET", f"{path}?sort=colour"), 422)
    check_problem(send_request("POST", path, body=b""), 405)


def test_playlist_addresses_start_with_base_url(tmp_path: Path, new_library: NewLibrary) -> None:
    with running(tmp_path, base_url="https://media.example.org/tv", **new_library()) as server:
        port = listening_port(server)
        with server.client(base_url=f"http://127.0.0.1:{port}") as http:
            put_named_films(http, "a b", "c d.mp4")
            expected = [("c d.mp4", "https://media.example.org/tv/files/a%20b/c%20d.mp4")]
            assert m3u(http, folder="a b") == xspf(http, folder="a b") == expected


def listening_port(server: Server) -> int:
    found = server.log().partition("running on http://127.0.0.1:")[2].split()[0]
    return int(found)


# Many files, and failures in mid-response


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary) -> LargeLibrary:
    """A library whose names are long once escaped: the socket buffers hold only a part of its playlist."""
    names = (f"films/{number:04} {'&' * 230}.mp4" for number in range(FILES))
    settings = Settings(_env_file=None, files_dir=tmp_path_factory.mktemp("crowd") / "files", **new_library())
    return LargeLibrary(settings, names)


@pytest.fixture
def counter(library: LargeLibrary) -> Iterator[PageCounter]:
    counter = PageCounter(library)
    yield counter
    counter.repair()


@pytest.fixture
def port(library: LargeLibrary, counter: PageCounter) -> Iterator[int]:
    """Serve the library and yield the port."""
    with serve_in_process(library, counter.observe) as port:
        yield port


def test_playlist_is_complete_for_many_films(counter: PageCounter, port: int) -> None:
    with httpx.stream(
        "GET", f"http://127.0.0.1:{port}/playlist.m3u?folder=films", trust_env=False
    ) as response:
        lines = sum(data.count(b"\n") for data in response.iter_bytes())
    assert lines == 2 + 2 * FILES
    assert counter.pages == 2 + FILES // PAGE_SIZE, "two read manifests"


def test_playlist_stops_reading_storage_when_client_stops_reading(counter: PageCounter, port: int) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        connection.connect(("127.0.0.1", port))
        connection.sendall(b"GET /playlist.xspf?folder=films HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
        pages_read = -1
        while pages_read != counter.pages:
            pages_read = counter.pages
            time.sleep(0.3)
        assert 0 < pages_read < FILES // PAGE_SIZE, "the socket buffers are full"
    time.sleep(0.3)
    assert counter.pages < FILES // PAGE_SIZE, "no page is read after the client closed"


def test_head_of_long_playlist_reads_one_page(counter: PageCounter, port: int) -> None:
    response = httpx.head(f"http://127.0.0.1:{port}/playlist.m3u?folder=films", trust_env=False)
    assert response.status_code == 200
    assert counter.pages == 1


def test_playlist_responds_503_when_first_page_fails(
    counter: PageCounter, port: int, check_problem: CheckProblem
) -> None:
    counter.fail_at = 1
    response = httpx.get(f"http://127.0.0.1:{port}/playlist.m3u?folder=films", trust_env=False)
    assert check_problem(response, 503).startswith("The database reports an error")
    assert "retry-after" in response.headers


def get_http_1_0(port: int, target: str) -> bytes:
    """Return the whole response to an HTTP/1.0 GET, which ends when the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(f"GET {target} HTTP/1.0\r\n\r\n".encode())
        response = b""
        while data := connection.recv(1 << 20):
            response += data
    return response


@pytest.mark.parametrize("target", ["/playlist.m3u?folder=films", "/files/films/"])
def test_playlist_is_not_chunked_for_http_1_0(counter: PageCounter, port: int, target: str) -> None:
    head, _, body = get_http_1_0(port, target).partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    assert b"transfer-encoding" not in head
    assert b"content-length" not in head
    assert body == httpx.get(f"http://127.0.0.1:{port}{target}", trust_env=False).content


def test_http_1_0_connection_is_reset_when_later_page_fails(counter: PageCounter, port: int) -> None:
    """A closed connection would look like the end of a complete response."""
    counter.fail_at = 16
    with pytest.raises(ConnectionResetError):
        get_http_1_0(port, "/playlist.m3u?folder=films")


@pytest.mark.parametrize("extension", ["m3u", "xspf"])
def test_connection_is_broken_when_later_page_fails(counter: PageCounter, port: int, extension: str) -> None:
    counter.fail_at = 16
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        httpx.get(f"http://127.0.0.1:{port}/playlist.{extension}?folder=films", trust_env=False)
    assert counter.pages == 16


def test_other_tasks_run_while_long_response_is_sent() -> None:
    """Neither the storage nor the client of this test ever blocks."""
    turns = 0

    async def pieces() -> AsyncIterator[str]:
        for _ in range(100):
            yield "piece"

    async def send(message: object) -> None: ...

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def both() -> None:
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
        other_task = asyncio.create_task(other())
        await StreamedListing(Request(scope), pieces(), {})(scope, receive, send)
        other_task.cancel()

    asyncio.run(both())
    assert turns >= 100


def put_texts(http: httpx.Client, folder: str, **files: str) -> None:
    for name, text in files.items():
        path = f"{folder}/{name.replace('__', '/').replace('_', '.')}"
        http.put(f"/files/{path}", content=text).raise_for_status()


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nseg0.ts\n#EXTINF:2,\nseg1.ts\n"
MASTER = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nlow.m3u8\n"
DASH = (
    '<MPD><Period><AdaptationSet><SegmentTemplate media="v/$Number$.m4s" initialization="v/i.mp4"/>'
    "<Representation/></AdaptationSet></Period></MPD>"
)


def entry_paths(entries: list[tuple[str, str]], folder: str) -> list[str]:
    return [url.rpartition(f"/files/{folder}/")[2] for _, url in entries]


def test_presentation_is_one_entry_without_its_segments(http: httpx.Client, folder: str) -> None:
    put_texts(http, folder, a_mp4="-", film_m3u8=HLS, seg0_ts="-", seg1_ts="-", seg2_ts="-")
    put_texts(http, folder, deep__master_m3u8=MASTER, deep__low_m3u8=HLS, deep__seg0_ts="-")
    put_texts(http, folder, dash__film_mpd=DASH, dash__v__i_mp4="-", dash__v__1_m4s="-", dash__v__2_m4s="-")
    put_texts(http, folder, broken__film_mpd="<!DOCTYPE x>" + DASH, broken__v__1_m4s="-")
    top_level = ["a.mp4", "film.m3u8", "seg2.ts"]
    for read_playlist in (m3u, xspf):
        assert entry_paths(read_playlist(http, folder=folder), folder) == top_level
    for sort in ("name", "-size"):
        found = entry_paths(m3u(http, folder=folder, recursive=True, sort=sort), folder)
        below = ["broken/v/1.m4s", "dash/film.mpd", "deep/master.m3u8"]
        assert sorted(found) == sorted([*top_level, *below])
    items = http.get("/files", params={"folder": folder}).json()["items"]
    assert [item["filename"] for item in items] == ["a.mp4", "film.m3u8", "seg0.ts", "seg1.ts", "seg2.ts"]


def test_presentations_match_type_video(http: httpx.Client, folder: str) -> None:
    put_texts(
        http, folder, a_mp4="-", b_mp3="-", film_m3u8=HLS, seg0_ts="-", dash__film_mpd=DASH, dash__x_mp4="-"
    )
    put_texts(http, folder, album_m3u8="#EXTM3U\nb.mp3\n", notes_m3u8="-")
    videos = ["a.mp4", "dash/x.mp4", "film.m3u8", "dash/film.mpd"]
    assert entry_paths(m3u(http, folder=folder, recursive=True, type="video"), folder) == videos
    found = m3u(http, folder=folder, recursive=True, type="video/*", q="fil")
    assert entry_paths(found, folder) == ["film.m3u8", "dash/film.mpd"]


def test_album_m3u8_does_not_hide_its_songs(http: httpx.Client, folder: str) -> None:
    put_texts(http, folder, album_m3u8="#EXTM3U\n#EXTINF:1,One\none.mp3\n", one_mp3="-", two_mp3="-")
    assert entry_paths(m3u(http, folder=folder), folder) == ["one.mp3", "two.mp3"]


def test_presentation_in_two_formats_is_one_entry(http: httpx.Client, folder: str) -> None:
    put_texts(http, folder, film_mpd=DASH.replace("v/", ""), film_m3u8=HLS.replace("seg0.ts", "0.m4s"))
    put_texts(http, folder, **{"0_m4s": "-", "1_m4s": "-", "other_mpd": DASH})
    assert entry_paths(m3u(http, folder=folder), folder) == ["film.m3u8", "other.mpd"]


def test_segments_of_many_presentations_are_hidden(http: httpx.Client, folder: str) -> None:
    for number in range(12):
        put_texts(http, f"{folder}/{number:02}", film_m3u8=HLS, seg0_ts="-", seg1_ts="-")
    found = entry_paths(m3u(http, folder=folder, recursive=True), folder)
    assert found == [f"{number:02}/film.m3u8" for number in range(12)]
