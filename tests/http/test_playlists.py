"""GET /playlist.m3u and /playlist.xspf: folders as players take them."""

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

from app.resources.streaming_pages import PAGE_SIZE, PiecewiseResponse
from app.settings import Settings
from tests.http.crowd import Crowd, Watch, serving
from tests.support import NewLibrary, Server, each_backend, running

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


def fill(http: httpx.Client, folder: str, *names: str) -> None:
    for name in names:
        http.put(f"/files/{folder}/{quote(name)}", content=name.encode()).raise_for_status()


def m3u(http: httpx.Client, **query: object) -> list[tuple[str, str]]:
    """Title and address of each entry."""
    response = http.get("/playlist.m3u", params=query)
    assert response.status_code == 200, response.text
    head, encoding, *lines, end = response.content.decode().split("\n")
    assert (head, encoding, end) == ("#EXTM3U", "#EXTENC:UTF-8", "")
    assert all(line.startswith("#EXTINF:-1,") for line in lines[::2])
    return [(line[11:], url) for line, url in zip(lines[::2], lines[1::2], strict=True)]


def xspf(http: httpx.Client, **query: object) -> list[tuple[str, str]]:
    """Title and address of each entry."""
    response = http.get("/playlist.xspf", params=query)
    assert response.status_code == 200, response.text
    tracks = ElementTree.fromstring(response.content).iter("{http://xspf.org/ns/0/}track")
    return [(track[1].text or "", track[0].text or "") for track in tracks]


@pytest.mark.parametrize("read", [m3u, xspf])
@each_backend
def test_every_address_gives_its_film(
    read: Callable[..., list[tuple[str, str]]], http: httpx.Client, folder: str, server: Server
) -> None:
    inside = f"{folder}/a b/ü&c=d#?"
    fill(http, quote(inside), *NAMES)
    entries = read(http, folder=inside)
    assert len(entries) == len(NAMES)
    for (title, url), name in zip(entries, sorted(NAMES, key=str.encode), strict=True):
        assert title == (name if read is m3u else name.replace("\ufffe", "\ufffd"))
        assert url.startswith(f"{server.url}/files/")
        assert url.isascii()
        assert http.get(url).content == name.encode()


def test_headers(http: httpx.Client, send_request: SendRequest, folder: str) -> None:
    fill(http, f"{folder}/films", "a.mp4")
    for extension, kind in (("m3u", "audio/x-mpegurl"), ("xspf", "application/xspf+xml")):
        target = f"/playlist.{extension}?folder={folder}/films"
        get, head = (send_request(method, target) for method in ("GET", "HEAD"))
        assert get.headers["content-type"] == kind
        assert get.headers["content-disposition"] == f'attachment; filename="films.{extension}"'
        assert get.headers["cache-control"] == "private, no-cache"
        assert get.headers["x-content-type-options"] == "nosniff"
        assert (head.status_code, head.content) == (200, b"")
        told = {"content-type", "content-disposition", "cache-control", "x-content-type-options"}
        told.add("content-length")
        assert {name: head.headers[name] for name in told} == {name: get.headers[name] for name in told}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_an_answer_that_fits_one_page_has_a_length(
    http: httpx.Client, connect: Any, folder: str, version: str
) -> None:
    fill(http, folder, "a.mp4")
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
def test_the_file_is_called_as_the_folder(send_request: SendRequest, name: str, disposition: str) -> None:
    response = send_request("GET", f"/playlist.m3u?folder={quote(name)}")
    assert response.headers["content-disposition"] == disposition


def test_only_what_a_player_plays(http: httpx.Client, folder: str) -> None:
    played = ["a.mp4", "b.mkv", "c.mp3", "d.flac", "e.webm"]
    fill(http, folder, *played, "a.srt", "a.vtt", "a.jpg", "a.txt", "a.html", "a", "a.m3u", "a.xspf", "a.pls")
    for read in (m3u, xspf):
        assert [title for title, _ in read(http, folder=folder)] == played


def test_an_empty_folder_is_an_empty_playlist(http: httpx.Client, folder: str) -> None:
    for read in (m3u, xspf):
        assert read(http, folder=folder) == []
        assert read(http, folder=f"{folder}/none/at all") == []


def test_what_is_in_folders_inside_comes_if_asked_for(http: httpx.Client, folder: str) -> None:
    fill(http, folder, "z.mp4")
    fill(http, f"{folder}/series/1", "a.mp4", "b.mp4")
    fill(http, f"{folder}-2", "no.mp4")
    try:
        for read in (m3u, xspf):
            assert [title for title, _ in read(http, folder=folder)] == ["z.mp4"]
            entries = read(http, folder=folder, recursive="true")
            assert [url.partition(f"/{folder}/")[2] for _, url in entries] == [
                "z.mp4",
                "series/1/a.mp4",
                "series/1/b.mp4",
            ]
    finally:
        http.delete(f"/files/{folder}-2/no.mp4").raise_for_status()


def test_a_search_is_a_playlist_too(http: httpx.Client, folder: str) -> None:
    fill(http, folder, "Summer holiday.mp4", "winter.mp4", "songs of summer.mp3", "summer.txt")
    found = [title for title, _ in m3u(http, folder=folder, q="sum")]
    assert found == ["Summer holiday.mp4", "songs of summer.mp3"]
    assert m3u(http, folder=folder, q="sum", type="audio")[0][0] == "songs of summer.mp3"
    by_size = [title for title, _ in m3u(http, folder=folder, sort="-size")]
    assert by_size == ["songs of summer.mp3", "Summer holiday.mp4", "winter.mp4"]


@pytest.mark.parametrize("path", ["/playlist.m3u", "/playlist.xspf"])
def test_errors_are_told_before_anything_is_sent(
    send_request: SendRequest, check_problem: CheckProblem, path: str
) -> None:
    for query in ("folder=..", "folder=/a", "folder=a/", "folder=a//b", "folder=%00", "folder=%ff"):
        check_problem(send_request("GET", f"{path}?{query}"), 400)
        assert send_request("HEAD", f"{path}?{query}").status_code == 400
    assert "recursive" in check_problem(send_request("GET", f"{path}?recursive=perhaps"), 422)
    assert "sort" in check_problem(send_request("GET", f"{path}?sort=colour"), 422)
    check_problem(send_request("POST", path, body=b""), 405)


def test_addresses_begin_with_the_base_url(tmp_path: Path, new_library: NewLibrary) -> None:
    with running(tmp_path, base_url="https://media.example.org/tv", **new_library()) as server:
        port = direct_port(server)
        with server.client(base_url=f"http://127.0.0.1:{port}") as http:
            fill(http, "a b", "c d.mp4")
            expected = [("c d.mp4", "https://media.example.org/tv/files/a%20b/c%20d.mp4")]
            assert m3u(http, folder="a b") == xspf(http, folder="a b") == expected


def direct_port(server: Server) -> int:
    found = server.log().partition("running on http://127.0.0.1:")[2].split()[0]
    return int(found)


# Many files, and failures in the middle


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary) -> Crowd:
    """Names that are so long once they are escaped that what lies between server and client holds a part of
    them only."""
    names = (f"films/{number:04} {'&' * 230}.mp4" for number in range(FILES))
    settings = Settings(_env_file=None, files_dir=tmp_path_factory.mktemp("crowd") / "files", **new_library())
    return Crowd(settings, names)


@pytest.fixture
def watch(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    watch = Watch(crowd, monkeypatch)
    yield watch
    watch.mend()


@pytest.fixture
def many(crowd: Crowd, watch: Watch) -> Iterator[int]:
    """The port of a real server over it."""
    with serving(crowd) as port:
        yield port


def test_many_films_come_to_the_end(watch: Watch, many: int) -> None:
    with httpx.stream(
        "GET", f"http://127.0.0.1:{many}/playlist.m3u?folder=films", trust_env=False
    ) as response:
        lines = sum(data.count(b"\n") for data in response.iter_bytes())
    assert lines == 2 + 2 * FILES
    assert watch.pages == 2 + FILES // PAGE_SIZE, "two look for manifests"


def test_a_reader_that_stops_stops_the_looking_up(watch: Watch, many: int) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        connection.connect(("127.0.0.1", many))
        connection.sendall(b"GET /playlist.xspf?folder=films HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
        seen = -1
        while seen != watch.pages:
            seen = watch.pages
            time.sleep(0.3)
        assert 0 < seen < FILES // PAGE_SIZE, "what fits between the two"
    time.sleep(0.3)
    assert watch.pages < FILES // PAGE_SIZE, "and nothing is looked up for who has left"


def test_head_looks_no_further(watch: Watch, many: int) -> None:
    response = httpx.head(f"http://127.0.0.1:{many}/playlist.m3u?folder=films", trust_env=False)
    assert response.status_code == 200
    assert watch.pages == 1


def test_a_storage_that_fails_at_once_is_unavailable(
    watch: Watch, many: int, check_problem: CheckProblem
) -> None:
    watch.fail_at = 1
    response = httpx.get(f"http://127.0.0.1:{many}/playlist.m3u?folder=films", trust_env=False)
    assert check_problem(response, 503).startswith("The database refuses")
    assert "retry-after" in response.headers


def ask_1_0(port: int, target: str) -> bytes:
    """The whole answer to a GET of HTTP/1.0, which ends when the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(f"GET {target} HTTP/1.0\r\n\r\n".encode())
        response = b""
        while data := connection.recv(1 << 20):
            response += data
    return response


@pytest.mark.parametrize("target", ["/playlist.m3u?folder=films", "/files/films/"])
def test_http_1_0_gets_no_chunks(watch: Watch, many: int, target: str) -> None:
    head, _, body = ask_1_0(many, target).partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    assert b"transfer-encoding" not in head
    assert b"content-length" not in head
    assert body == httpx.get(f"http://127.0.0.1:{many}{target}", trust_env=False).content


def test_a_failure_later_resets_a_connection_of_http_1_0(watch: Watch, many: int) -> None:
    """Closed, it would look as if that were all."""
    watch.fail_at = 16
    with pytest.raises(ConnectionResetError):
        ask_1_0(many, "/playlist.m3u?folder=films")


@pytest.mark.parametrize("extension", ["m3u", "xspf"])
def test_a_failure_later_breaks_the_connection(watch: Watch, many: int, extension: str) -> None:
    watch.fail_at = 16
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        httpx.get(f"http://127.0.0.1:{many}/playlist.{extension}?folder=films", trust_env=False)
    assert watch.pages == 16


def test_others_get_their_turn_while_a_long_answer_is_written() -> None:
    """Neither this storage nor this client ever waits."""
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
        beside = asyncio.create_task(other())
        await PiecewiseResponse(Request(scope), pieces(), {})(scope, receive, send)
        beside.cancel()

    asyncio.run(both())
    assert turns >= 100


def put(http: httpx.Client, folder: str, **files: str) -> None:
    for name, text in files.items():
        path = f"{folder}/{name.replace('__', '/').replace('_', '.')}"
        http.put(f"/files/{path}", content=text).raise_for_status()


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nseg0.ts\n#EXTINF:2,\nseg1.ts\n"
MASTER = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nlow.m3u8\n"
DASH = (
    '<MPD><Period><AdaptationSet><SegmentTemplate media="v/$Number$.m4s" initialization="v/i.mp4"/>'
    "<Representation/></AdaptationSet></Period></MPD>"
)


def paths(entries: list[tuple[str, str]], folder: str) -> list[str]:
    return [url.rpartition(f"/files/{folder}/")[2] for _, url in entries]


def test_presentation_is_one_entry_and_its_segments_are_none(http: httpx.Client, folder: str) -> None:
    put(http, folder, a_mp4="-", film_m3u8=HLS, seg0_ts="-", seg1_ts="-", seg2_ts="-")
    put(http, folder, deep__master_m3u8=MASTER, deep__low_m3u8=HLS, deep__seg0_ts="-")
    put(http, folder, dash__film_mpd=DASH, dash__v__i_mp4="-", dash__v__1_m4s="-", dash__v__2_m4s="-")
    put(http, folder, broken__film_mpd="<!DOCTYPE x>" + DASH, broken__v__1_m4s="-")
    here = ["a.mp4", "film.m3u8", "seg2.ts"]
    for read in (m3u, xspf):
        assert paths(read(http, folder=folder), folder) == here
    for sort in ("name", "-size"):
        found = paths(m3u(http, folder=folder, recursive=True, sort=sort), folder)
        beneath = ["broken/v/1.m4s", "dash/film.mpd", "deep/master.m3u8"]
        assert sorted(found) == sorted([*here, *beneath])
    listed = http.get("/files", params={"folder": folder}).json()["items"]
    assert [item["filename"] for item in listed] == ["a.mp4", "film.m3u8", "seg0.ts", "seg1.ts", "seg2.ts"]


def test_presentations_are_among_the_videos(http: httpx.Client, folder: str) -> None:
    put(http, folder, a_mp4="-", b_mp3="-", film_m3u8=HLS, seg0_ts="-", dash__film_mpd=DASH, dash__x_mp4="-")
    put(http, folder, album_m3u8="#EXTM3U\nb.mp3\n", notes_m3u8="-")
    videos = ["a.mp4", "dash/x.mp4", "film.m3u8", "dash/film.mpd"]
    assert paths(m3u(http, folder=folder, recursive=True, type="video"), folder) == videos
    found = m3u(http, folder=folder, recursive=True, type="video/*", q="fil")
    assert paths(found, folder) == ["film.m3u8", "dash/film.mpd"]


def test_album_in_an_m3u8_hides_no_song(http: httpx.Client, folder: str) -> None:
    put(http, folder, album_m3u8="#EXTM3U\n#EXTINF:1,One\none.mp3\n", one_mp3="-", two_mp3="-")
    assert paths(m3u(http, folder=folder), folder) == ["one.mp3", "two.mp3"]


def test_presentation_in_two_forms_is_one_entry(http: httpx.Client, folder: str) -> None:
    put(http, folder, film_mpd=DASH.replace("v/", ""), film_m3u8=HLS.replace("seg0.ts", "0.m4s"))
    put(http, folder, **{"0_m4s": "-", "1_m4s": "-", "other_mpd": DASH})
    assert paths(m3u(http, folder=folder), folder) == ["film.m3u8", "other.mpd"]


def test_segments_of_many_presentations_are_left_out(http: httpx.Client, folder: str) -> None:
    for number in range(12):
        put(http, f"{folder}/{number:02}", film_m3u8=HLS, seg0_ts="-", seg1_ts="-")
    found = paths(m3u(http, folder=folder, recursive=True), folder)
    assert found == [f"{number:02}/film.m3u8" for number in range(12)]
