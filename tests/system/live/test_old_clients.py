"""Clients with HTTP/1.0 or a small part of HTTP/1.1: mplayer, mpg123 and axel."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.resources.listing import PAGE_SIZE
from tests.http.conftest import RawConnection
from tests.support import Server, need, run, running
from tests.support.beneath import beneath
from tests.system.live.clients import until

pytestmark = pytest.mark.live

TRACKS = ["1.mp3", "2.mp3", "3.mp3"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with three short tracks in one folder, and more films in another than fit on one page."""
    need("ffmpeg")
    folder = tmp_path_factory.mktemp("old")
    track = folder / "track.mp3"
    run("ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", "sine=duration=1", "-f", "mp3", track)
    server = Server(folder / "server")
    beneath(server).fill(
        [
            *(f"many/{number:04}.mp4" for number in range(PAGE_SIZE + 50)),
            *(f"long/{number:04}{'&' * 240}.mp4" for number in range(1500)),
        ]
    )
    with running(folder / "server") as server:
        with server.client() as http:
            for name in TRACKS:
                http.put(f"/files/tracks/{name}", content=track.read_bytes()).raise_for_status()
        yield server


def all_tracks_requested(server: Server, since: int) -> bool:
    """Return whether the log, from this offset on, has a response for each track."""
    return all(f'GET /files/tracks/{name} HTTP/1.0" 200' in server.log(since) for name in TRACKS)


def test_mplayer_plays_playlist(library: Server, tmp_path: Path) -> None:
    need("mplayer")
    url = f"{library.url}/playlist.m3u?folder=tracks"
    before = library.logged()
    # fmt: off
    run(
        "env", f"HOME={tmp_path}", "mplayer", "-noconfig", "all", "-nolirc", "-vo", "null", "-ao", "null",
        "-playlist", url,
    )
    # fmt: on
    until(lambda: all_tracks_requested(library, before), library.log(before))


def test_mpg123_plays_playlist(library: Server) -> None:
    need("mpg123")
    before = library.logged()
    run("mpg123", "--test", "--list", f"{library.url}/playlist.m3u?folder=tracks")
    until(lambda: all_tracks_requested(library, before), library.log(before))


@pytest.mark.parametrize(
    "target", ["/playlist.m3u?folder=many", "/playlist.xspf?folder=tracks", "/files/many/"]
)
def test_axel_downloads_streamed_page_completely(library: Server, tmp_path: Path, target: str) -> None:
    need("axel")
    run("axel", "--quiet", "--output", tmp_path / "fetched", library.url + target)
    with library.client() as http:
        assert (tmp_path / "fetched").read_bytes() == http.get(target).content


def test_client_that_disconnects_causes_no_logged_error(library: Server) -> None:
    before = library.logged()
    for _ in range(3):
        with closing(RawConnection("127.0.0.1", library.port, 4096)) as connection:
            connection.send(b"GET /playlist.m3u?folder=long HTTP/1.0\r\nHost: localhost\r\n\r\n")
            connection.socket.recv(100)
    until(lambda: library.log(before).count("folder=long") == 3, library.log(before))
    assert "ERROR" not in library.log(before)
