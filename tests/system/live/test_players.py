"""Films play and seek in common players."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support import Server, need, on_disk_and_gridfs, run
from tests.support.together import Outcomes, Together
from tests.system.live.clients import Vlc, logged_statuses, until
from tests.system.live.conftest import SECONDS

pytestmark = pytest.mark.live

Put = Callable[[Path, str], dict[str, Any]]


@pytest.fixture
def put(server: Server, folder: str) -> Put:
    """Call it to store a film under a name. Returns the response's JSON."""
    return uploader(server, folder)


def uploader(server: Server, folder: str) -> Put:
    def put(film: Path, name: str) -> dict[str, Any]:
        with server.client() as client, film.open("rb") as body:
            response = client.put(f"/files/{folder}/{quote(name, safe='')}", content=body)
        assert response.status_code == 201, response.text
        file: dict[str, Any] = response.json()
        return file

    return put


vlc_tests = Together("vlc_tests")
"""Tests of VLC, which is slow. They check the server's log, as VLC exits with 0 even when it fails."""


@dataclass
class Cinema:
    """A server, a function that uploads to one of its folders, and films."""

    server: Server
    put: Put
    film: Path
    long_film: Path
    matroska_film: Path


@pytest.fixture(scope="module", name="vlc_tests")
def begun_vlc_tests(
    request: pytest.FixtureRequest, server: Server, film: Path, long_film: Path, matroska_film: Path
) -> Iterator[Outcomes]:
    need("vlc", "setpriv")

    def cinema(name: str) -> tuple[Cinema]:
        return (Cinema(server, uploader(server, name), film, long_film, matroska_film),)

    with vlc_tests.begun(request, cinema) as outcomes:
        yield outcomes


def duration(url: str) -> float:
    return float(
        run("ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", url).stdout
    )


def frame_at(second: int, source: object) -> tuple[str, str]:
    """Return the hash of the picture that ffmpeg decodes at this second, and ffmpeg's log."""
    # fmt: off
    shown = run(
        "ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "debug", "-ss", second, "-i", source,
        "-frames:v", "1", "-map", "0:v", "-f", "hash", "-",
    )
    # fmt: on
    return shown.stdout, shown.stderr


@pytest.mark.parametrize("kind", ["film", "faststart_film", "matroska_film"])
def test_ffprobe_reads_duration(kind: str, request: pytest.FixtureRequest, server: Server, put: Put) -> None:
    film: Path = request.getfixturevalue(kind)
    file = put(film, film.name)
    assert duration(file["url"]) == pytest.approx(SECONDS, abs=0.2)
    assert duration(file["stream_url"]) == pytest.approx(SECONDS, abs=0.2)
    assert set(logged_statuses(server, file["url"])) == {206}
    if kind == "film":
        assert len(logged_statuses(server, file["url"], 2)) > 1, "ffprobe seeks to the index at the end"


@pytest.mark.parametrize("kind", ["film", "faststart_film", "matroska_film"])
@on_disk_and_gridfs
def test_ffmpeg_seeks_by_range_request(
    kind: str, request: pytest.FixtureRequest, server: Server, put: Put
) -> None:
    film: Path = request.getfixturevalue(kind)
    file = put(film, film.name)
    expected, _ = frame_at(45, film)
    assert expected.startswith("SHA256=")
    assert expected != frame_at(44, film)[0]
    shown, log = frame_at(45, file["url"])
    assert shown == expected
    assert set(logged_statuses(server, file["url"])) == {206}
    starts = [int(start) for start in re.findall(r"^Range: bytes=(\d+)-", log, re.MULTILINE)]
    assert len(starts) == len(logged_statuses(server, file["url"], len(starts)))
    assert any(0.6 < start / film.stat().st_size < 0.8 for start in starts), "ffmpeg reads at second 45"


@pytest.mark.parametrize(
    "name",
    [
        "two words.mp4",
        'it\'s "quoted".mp4',
        "100%.mp4",
        "%41%2F.mp4",
        "#1?.mp4",
        "a=1&b=2;c+d.mp4",
        "film 🎬.mp4",
        "סרט עברי.mp4",
        "Ame\u0301lie ½.mp4",
        "-leading dash.mp4",
        ".hidden.mp4",
        "<b>:*|.mp4",
    ],
)
def test_film_plays_at_its_url_under_odd_name(name: str, film: Path, server: Server, put: Put) -> None:
    file = put(film, name)
    for url in (file["url"], file["stream_url"]):
        assert duration(url) == pytest.approx(SECONDS, abs=0.2)
        assert set(logged_statuses(server, url)) == {206}


@vlc_tests
@on_disk_and_gridfs
def test_vlc_plays_film_and_seeks_twice(cinema: Cinema) -> None:
    server, long_film = cinema.server, cinema.long_film
    file = cinema.put(long_film, "film.mp4")
    url = file["url"]
    with Vlc(url) as vlc:
        vlc.play_to(1)
        assert vlc.query("get_length") == pytest.approx(SECONDS, abs=1)
        for second in (45, 10):
            vlc.seek(second)
        requests, log = vlc.requests(), vlc.log()
    assert set(logged_statuses(server, url, len(requests))) == {206}
    # VLC repeats the ETag in If-Match, where only a strong one matches (RFC 9110 §13.1.1).
    assert set(re.findall(r"^etag: (.*)", log, re.MULTILINE)) == {f'"{file["etag"]}"'}
    assert {request.get("if-match") for request in requests[1:]} == {f'"{file["etag"]}"'}
    starts = [int(request["range"].removeprefix("bytes=").removesuffix("-")) for request in requests]
    assert starts[0] == 0
    assert starts[1] > long_film.stat().st_size / 2, "VLC reads the index at the end"
    assert any(start > long_film.stat().st_size / 2 for start in starts[2:]), "VLC reads at second 45"


@vlc_tests
def test_vlc_plays_film_of_odd_name(cinema: Cinema) -> None:
    check_vlc_plays(cinema, cinema.film, "100% #1? 🎬 סרט.mp4")


@vlc_tests
def test_vlc_plays_matroska(cinema: Cinema) -> None:
    check_vlc_plays(cinema, cinema.matroska_film, "film.mkv")


def check_vlc_plays(cinema: Cinema, film: Path, name: str) -> None:
    file = cinema.put(film, name)
    with Vlc(file["url"]) as vlc:
        vlc.play_to(1)
    assert set(logged_statuses(cinema.server, file["url"])) == {206}


@vlc_tests
@on_disk_and_gridfs
def test_vlc_does_not_mix_versions_when_film_is_replaced(cinema: Cinema) -> None:
    """VLC sends If-Match with each seek, so that the server refuses the seek after the replacement."""
    server = cinema.server
    file = cinema.put(cinema.long_film, "film.mp4")
    with Vlc(file["url"]) as vlc:
        vlc.play_to(1)
        with server.client() as client, cinema.film.open("rb") as body:
            assert client.put(file["url"], content=body).status_code == 204
        vlc.send("seek 45")
        until(lambda: 412 in logged_statuses(server, file["url"], 0), "the seek is refused")
