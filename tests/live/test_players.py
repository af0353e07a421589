"""Films play and seek in the players that people use."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.live.clients import Vlc, logged_statuses, until
from tests.live.conftest import SECONDS
from tests.support import Server, need, on_disk_and_gridfs, run
from tests.together import Outcomes, Together

pytestmark = pytest.mark.live

Put = Callable[[Path, str], dict[str, Any]]


@pytest.fixture
def put(server: Server, folder: str) -> Put:
    """Store a film under a name; its JSON."""
    return putting(server, folder)


def putting(server: Server, folder: str) -> Put:
    def put(film: Path, name: str) -> dict[str, Any]:
        with server.client() as client, film.open("rb") as body:
            answer = client.put(f"/files/{folder}/{quote(name, safe='')}", content=body)
        assert answer.status_code == 201, answer.text
        file: dict[str, Any] = answer.json()
        return file

    return put


watching = Together("watching")
"""Tests of VLC, which takes its time; the server's log, not VLC, says whether it went well."""


@dataclass
class Cinema:
    """A server with a folder, and films to put there."""

    server: Server
    put: Put
    film: Path
    long_film: Path
    matroska_film: Path


@pytest.fixture(scope="module", name="watching")
def begun_watching(
    request: pytest.FixtureRequest, server: Server, film: Path, long_film: Path, matroska_film: Path
) -> Iterator[Outcomes]:
    need("vlc", "setpriv")

    def cinema(name: str) -> tuple[Cinema]:
        return (Cinema(server, putting(server, name), film, long_film, matroska_film),)

    with watching.begun(request, cinema) as outcomes:
        yield outcomes


def duration(url: str) -> float:
    return float(
        run("ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", url).stdout
    )


def frame_at(second: int, source: object) -> tuple[str, str]:
    """The hash of the picture that ffmpeg shows at this second, and its log."""
    # fmt: off
    shown = run(
        "ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "debug", "-ss", second, "-i", source,
        "-frames:v", "1", "-map", "0:v", "-f", "hash", "-",
    )
    # fmt: on
    return shown.stdout, shown.stderr


@pytest.mark.parametrize("kind", ["film", "faststart_film", "matroska_film"])
def test_ffprobe_tells_the_duration(
    kind: str, request: pytest.FixtureRequest, server: Server, put: Put
) -> None:
    film: Path = request.getfixturevalue(kind)
    file = put(film, film.name)
    assert duration(file["url"]) == pytest.approx(SECONDS, abs=0.2)
    assert duration(file["stream_url"]) == pytest.approx(SECONDS, abs=0.2)
    assert set(logged_statuses(server, file["url"])) == {206}
    if kind == "film":
        assert len(logged_statuses(server, file["url"], 2)) > 1, "the index is at the end, so it has to seek"


@pytest.mark.parametrize("kind", ["film", "faststart_film", "matroska_film"])
@on_disk_and_gridfs
def test_ffmpeg_seeks(kind: str, request: pytest.FixtureRequest, server: Server, put: Put) -> None:
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
    assert any(0.6 < start / film.stat().st_size < 0.8 for start in starts), "where second 45 is"


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
def test_a_film_of_any_name_plays_at_its_own_url(name: str, film: Path, server: Server, put: Put) -> None:
    file = put(film, name)
    for url in (file["url"], file["stream_url"]):
        assert duration(url) == pytest.approx(SECONDS, abs=0.2)
        assert set(logged_statuses(server, url)) == {206}


@watching
@on_disk_and_gridfs
def test_vlc_opens_a_film_and_seeks_twice(cinema: Cinema) -> None:
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
    # VLC repeats the ETag in If-Match, where only a strong one matches (RFC 9110 13.1.1).
    assert set(re.findall(r"^etag: (.*)", log, re.MULTILINE)) == {f'"{file["etag"]}"'}
    assert {request.get("if-match") for request in requests[1:]} == {f'"{file["etag"]}"'}
    starts = [int(request["range"].removeprefix("bytes=").removesuffix("-")) for request in requests]
    assert starts[0] == 0
    assert starts[1] > long_film.stat().st_size / 2, "the index at the end"
    assert any(start > long_film.stat().st_size / 2 for start in starts[2:]), "second 45"


@watching
def test_vlc_plays_any_name(cinema: Cinema) -> None:
    plays(cinema, cinema.film, "100% #1? 🎬 סרט.mp4")


@watching
def test_vlc_plays_matroska(cinema: Cinema) -> None:
    plays(cinema, cinema.matroska_film, "film.mkv")


def plays(cinema: Cinema, film: Path, name: str) -> None:
    file = cinema.put(film, name)
    with Vlc(file["url"]) as vlc:
        vlc.play_to(1)
    assert set(logged_statuses(cinema.server, file["url"])) == {206}


@watching
@on_disk_and_gridfs
def test_vlc_sees_one_film_while_it_is_replaced(cinema: Cinema) -> None:
    """Never the bytes of one version after those of another: a seek is then refused, by its If-Match."""
    server = cinema.server
    file = cinema.put(cinema.long_film, "film.mp4")
    with Vlc(file["url"]) as vlc:
        vlc.play_to(1)
        with server.client() as client, cinema.film.open("rb") as body:
            assert client.put(file["url"], content=body).status_code == 204
        vlc.send("seek 45")
        until(lambda: 412 in logged_statuses(server, file["url"], 0), "the seek")
