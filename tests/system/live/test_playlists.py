"""Players play the playlist of a folder to its last film, with odd names too."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from tests.support import Server, need, on_disk_and_gridfs, run
from tests.support.together import Outcomes, Together
from tests.system.live.clients import Vlc, logged_statuses, until

pytestmark = pytest.mark.live

NAMES = ["#1? 100% & <b>.mp4", '-film 🎬, it\'s - "2".mp4', "סרט עברי.mkv"]


@pytest.fixture
def films(server: Server, folder: str, film: Path, matroska_film: Path) -> list[str]:
    return store_films(server, folder, film, matroska_film)


def store_films(server: Server, folder: str, film: Path, matroska_film: Path) -> list[str]:
    """Store three films and two other files, all with odd names, and return the URLs of the films."""
    inside = f"{folder}/a&b #1"
    with server.client() as client:
        for name in (*NAMES, "notes.txt", "סרט עברי.srt"):
            body = (matroska_film if name.endswith(".mkv") else film).read_bytes()
            client.put(f"/files/{quote(f'{inside}/{name}')}", content=body).raise_for_status()
        items = client.get("/files", params={"folder": inside}).json()["items"]
    return [item["url"] for item in items if item["mimetype"].startswith("video/")]


def playlist_url(server: Server, folder: str, kind: str) -> str:
    return f"{server.url}/playlist.{kind}?folder={quote(f'{folder}/a&b #1', safe='')}"


vlc_tests = Together("vlc_tests")
"""Tests of VLC, which is slow."""


@pytest.fixture(scope="module", name="vlc_tests")
def begun_vlc_tests(
    request: pytest.FixtureRequest, server: Server, film: Path, matroska_film: Path
) -> Iterator[Outcomes]:
    """Start these tests, each with its own folder."""
    need("vlc", "setpriv")
    with vlc_tests.begun(
        request, lambda name: (server, name, store_films(server, name, film, matroska_film))
    ) as outcomes:
        yield outcomes


@vlc_tests
@on_disk_and_gridfs
def test_vlc_plays_all_films_of_m3u(server: Server, folder: str, films: list[str]) -> None:
    # VLC takes the text before " - " in an M3U for the artist; an XSPF has separate elements.
    assert played_titles("m3u", server, folder, films) == [name.rpartition(" - ")[2] for name in NAMES]


@vlc_tests
def test_vlc_plays_all_films_of_xspf(server: Server, folder: str, films: list[str]) -> None:
    assert played_titles("xspf", server, folder, films) == NAMES


def played_titles(kind: str, server: Server, folder: str, films: list[str]) -> list[str]:
    """Play the playlist with VLC to its last film, and return the titles that VLC shows."""
    with Vlc(playlist_url(server, folder, kind)) as vlc:
        for url in films:
            if url != films[0]:
                vlc.send("next")
            until(lambda url=url: vlc.has_requested(url), f"a request for {url}\n{vlc.log()[-3000:]}")
            vlc.play_to(1)
        titles = vlc.titles()
    assert [set(logged_statuses(server, url)) for url in films] == [{206}] * 3
    return titles


def test_mpv_plays_all_films_of_m3u(server: Server, folder: str, films: list[str]) -> None:
    need("mpv")
    # fmt: off
    run(
        "mpv", "--no-config", "--vo=null", "--ao=null", "--no-terminal", "--ytdl=no", "--end=0.3",
        playlist_url(server, folder, "m3u"),
    )
    # fmt: on
    assert [set(logged_statuses(server, url)) for url in films] == [{206}] * 3
    log = unquote(server.log().rpartition("/playlist.m3u")[2])
    requested = dict.fromkeys(Path(path).name for path in re.findall("GET (/files/.*) HTTP", log))
    assert list(requested) == NAMES


def test_film_is_in_playlist_when_client_declares_other_type(
    server: Server, folder: str, matroska_film: Path
) -> None:
    """ffprobe opens each entry of the playlist."""
    need("ffprobe")
    declared = {"a.mkv": "application/x-matroska", "b.mkv": "video/matroska", "c.mkv": "text/plain"}
    with server.client() as client:
        for name, kind in declared.items():
            content = matroska_film.read_bytes()
            headers = {"content-type": kind}
            client.put(f"/files/{folder}/{name}", content=content, headers=headers).raise_for_status()
        found = client.get("/playlist.m3u", params={"folder": folder}).text
        entries = [line for line in found.splitlines() if line.startswith("http")]
        assert [entry.rpartition("/")[2] for entry in entries] == [*declared]
        assert {client.head(entry).headers["content-type"] for entry in entries} == {"video/x-matroska"}
    for entry in entries:
        shown = run("ffprobe", "-v", "error", "-show_entries", "format=format_name", "-of", "csv=p=0", entry)
        assert shown.stdout.strip() == '"matroska,webm"'


def test_mpv_plays_entries_with_dot_segments(server: Server, folder: str, film: Path) -> None:
    """mpv only prefixes an entry with the playlist's folder, and leaves `../` in the path."""
    need("mpv")
    with server.client() as client:
        for name in ("first.mp4", "more/second.mp4"):
            client.put(f"/files/{folder}/{name}", content=film.read_bytes()).raise_for_status()
        playlist = b"#EXTM3U\n../first.mp4\n../more/.//second.mp4\n"
        client.put(f"/files/{folder}/lists/all.m3u", content=playlist).raise_for_status()
    # fmt: off
    run(
        "mpv", "--no-config", "--vo=null", "--ao=null", "--no-terminal", "--ytdl=no", "--end=0.3",
        f"{server.url}/files/{folder}/lists/all.m3u",
    )
    # fmt: on
    for name in ("first.mp4", "more/second.mp4"):
        assert set(logged_statuses(server, f"{server.url}/files/{folder}/{name}")) == {206}


@pytest.fixture
def presentations(server: Server, folder: str, film: Path, tmp_path: Path) -> list[str]:
    """The URLs of a film as HLS and as DASH, both written by ffmpeg, in the order of their folders."""
    hls, dash = tmp_path / "1 hls", tmp_path / "2 dash"
    for inside in (hls, dash):
        inside.mkdir()
    ffmpeg = ("ffmpeg", "-loglevel", "error", "-t", "6", "-i", film, "-c", "copy")
    run(*ffmpeg, "-hls_time", "2", "-hls_list_size", "0", "-master_pl_name", "film.m3u8", hls / "720.m3u8")
    run(*ffmpeg, "-seg_duration", "2", "-f", "dash", dash / "film.mpd")
    with server.client() as client:
        for file in sorted([*hls.iterdir(), *dash.iterdir()]):
            path = quote(f"{folder}/{file.parent.name}/{file.name}")
            client.put(f"/files/{path}", content=file.read_bytes()).raise_for_status()
    return [f"{server.url}/files/{folder}/{path}" for path in ("1%20hls/film.m3u8", "2%20dash/film.mpd")]


def test_playlist_has_one_playable_entry_per_presentation(
    server: Server, folder: str, presentations: list[str]
) -> None:
    need("vlc", "setpriv", "mpv")
    playlist = f"{server.url}/playlist.m3u?folder={folder}&recursive=1"
    with server.client() as client:
        entries = [line for line in client.get(playlist).text.splitlines() if not line.startswith("#")]
    assert entries == presentations
    with Vlc(playlist) as vlc:
        for url in presentations:
            if url != presentations[0]:
                vlc.send("next")
            until(lambda url=url: vlc.has_requested(url), f"a request for {url}\n{vlc.log()[-3000:]}")
            vlc.play_to(3)
        assert vlc.titles() == ["film.m3u8", "film.mpd"]
    # fmt: off
    run(
        "mpv", "--no-config", "--vo=null", "--ao=null", "--no-terminal", "--ytdl=no", "--end=0.3", playlist,
    )
    # fmt: on
    for url in presentations:
        assert len(logged_statuses(server, url, minimum=2)) >= 2
    log = server.log().rpartition("/playlist.m3u")[2]
    assert all(f"/{name}" in log for name in ("7200.ts", "chunk-stream0-00001.m4s")), log
