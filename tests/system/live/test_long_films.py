"""Films of two hours, where a client that seeks fetches little of the film, and files above 4 GiB."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser

from tests.support import Server, need, noise, on_disk_and_gridfs, run
from tests.system.live.clients import program, until
from tests.system.live.conftest import shared_film
from tests.system.live.test_players import frame_at
from tests.system.page.engines import firefox

pytestmark = [pytest.mark.live, pytest.mark.campaign, pytest.mark.timeout(600), on_disk_and_gridfs]

FILM_SIZE = 230_000_000
SECONDS = 2 * 60 * 60
LATE = SECONDS - 5 * 60
EARLY = 10

SEEK_LATE_AND_BACK = f"""
    const video = document.querySelector("video");
    const event = name => new Promise((resolve, reject) => {{
        video.addEventListener(name, resolve, {{once: true}});
        video.addEventListener("error", () => reject(video.error.message), {{once: true}});
    }});
    video.muted = true;
    await video.play();
    const positions = [video.duration];
    for (const second of [{LATE}, {EARLY}]) {{
        const sought = event("seeked");
        video.currentTime = second;
        await sought;
        positions.push(video.currentTime);
        while (video.currentTime < second + 1) await event("timeupdate");
    }}
    video.pause();
    return positions;
"""


@pytest.fixture(scope="session")
def two_hours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 230 MB as MP4, with its index (moov) at the end, and a key frame every five seconds."""
    need("ffmpeg")
    picture = f"testsrc=size=320x180:rate=2:duration={SECONDS},noise=alls=20:allf=t"
    with shared_film(tmp_path_factory, "two-hours.mp4") as (film, unfinished):
        if not film.exists():
            # fmt: off
            run(
                "ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error",
                "-f", "lavfi", "-i", picture,
                "-f", "lavfi", "-i", f"sine=frequency=440:duration={SECONDS}",
                "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "10",
                "-b:v", "200k", "-maxrate", "200k", "-bufsize", "400k",
                "-c:a", "aac", "-aac_coder", "fast", "-b:a", "64k", unfinished,
                timeout=600,
            )
            # fmt: on
    assert film.stat().st_size == pytest.approx(FILM_SIZE, rel=0.05)
    return film


@dataclass
class Stored:
    """A film on a server, and the file that was uploaded."""

    server: Server
    url: str
    path: str
    film: Path

    def fetched(self) -> int:
        """Return the bytes of all bodies of the film that were sent, in requests that have ended."""
        target = re.escape(urlsplit(self.url).path)
        sent = re.findall(rf'"GET {target} HTTP/1\.1" 20[06] in=0 out=(\d+)', self.server.log())
        return sum(map(int, sent))


@pytest.fixture(scope="module", params=["mp4", "mkv"])
def stored(
    request: pytest.FixtureRequest, server: Server, two_hours: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stored]:
    film = two_hours
    if request.param != "mp4":
        film = tmp_path_factory.mktemp("films") / f"film.{request.param}"
        run("ffmpeg", "-nostdin", "-loglevel", "error", "-i", two_hours, "-c", "copy", film)
    path = f"long/film.{request.param}"
    with server.client() as http, film.open("rb") as body:
        url = http.put(f"/files/{path}", content=body).raise_for_status().json()["url"]
        yield Stored(server, url, path, film)
        http.delete(url).raise_for_status()


@contextmanager
def fetching_at_most(limit: int, stored: Stored) -> Iterator[None]:
    """Check how many bytes of the film a client fetches. It must have closed its connections at the end."""
    before = stored.fetched()
    yield
    with stored.server.client() as http:
        until(
            lambda: "\nseekable_active_streams 0.0\n" in http.get("/metrics").text, "the ends of all requests"
        )
    assert 0 < stored.fetched() - before < limit


def test_ffmpeg_shows_last_minute(stored: Stored) -> None:
    second = SECONDS - 30
    with fetching_at_most(FILM_SIZE // 8, stored):
        shown = frame_at(second, stored.url)[0]
    assert shown == frame_at(second, stored.film)[0]


class Mpv:
    """The JSON IPC of an mpv (https://mpv.io/manual/stable/#json-ipc)."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._messages = connection.makefile("r")
        self._sent = 0

    def seek(self, second: int) -> None:
        """Seek, and wait until it has played one second from there."""
        self._send("seek", second, "absolute")
        until(lambda: second + 1 <= self.position() < second + 15, f"mpv at {second} s")

    def position(self) -> float:
        """Return the position in seconds, or -1 if mpv has none yet."""
        return float(self._send("get_property", "time-pos").get("data") or -1)

    def _send(self, *command: object) -> dict[str, Any]:
        self._sent += 1
        self._socket.sendall(json.dumps({"command": command, "request_id": self._sent}).encode() + b"\n")
        for line in self._messages:
            message: dict[str, Any] = json.loads(line)
            if message.get("request_id") == self._sent and "error" in message:
                return message
        raise AssertionError("mpv has exited")


def test_mpv_seeks_forth_and_back(stored: Stored, tmp_path_factory: pytest.TempPathFactory) -> None:
    need("mpv")
    folder = tmp_path_factory.mktemp("mpv")
    # fmt: off
    command = (
        "mpv", "--no-config", "--vo=null", "--ao=null", "--no-terminal", "--ytdl=no",
        "--demuxer-max-bytes=2MiB",  # otherwise mpv reads 150 MiB ahead
        "--input-ipc-server=ipc", stored.url,
    )
    # fmt: on
    with (
        fetching_at_most(FILM_SIZE // 4, stored),
        program(folder, *command),
        socket.socket(socket.AF_UNIX) as connection,
    ):
        until(lambda: connection.connect_ex(str(folder / "ipc")) == 0, "mpv")
        mpv = Mpv(connection)
        until(lambda: mpv.position() > 0, "mpv plays")
        for second in (LATE, EARLY, LATE):
            mpv.seek(second)


def test_chromium_seeks_late_and_back(stored: Stored, browser: Browser) -> None:
    page = browser.new_page()
    with fetching_at_most(browser_limit(stored), stored):
        page.goto(f"{stored.server.url}/?play={stored.path}")
        check_positions(page.evaluate(f"async () => {{ {SEEK_LATE_AND_BACK} }}"))
        page.close()


def test_firefox_seeks_late_and_back(stored: Stored, tmp_path: Path) -> None:
    with fetching_at_most(browser_limit(stored), stored), firefox(tmp_path / "firefox") as browser:
        browser.open(f"{stored.server.url}/?play={stored.path}")
        check_positions(browser.evaluate(SEEK_LATE_AND_BACK))


def browser_limit(stored: Stored) -> int:
    """Return how many bytes a browser may fetch. Firefox reads Matroska to its end, Chromium sometimes."""
    return FILM_SIZE // 4 if stored.path.endswith("mp4") else FILM_SIZE * 5 // 4


def check_positions(positions: list[float]) -> None:
    assert positions == [pytest.approx(second, abs=0.5) for second in (SECONDS, LATE, EARLY)]


# Files above 4 GiB

BLOCK = 1 << 20
BIG_SIZE = (1 << 32) + (64 << 20) + 17


@pytest.fixture(scope="module")
def big(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The URL of a file above 4 GiB, and its source: zeros, with noise where an offset needs one more bit."""
    need("curl")
    source = tmp_path_factory.mktemp("big") / "big.bin"
    with source.open("wb") as file:
        for offset in (0, (1 << 31) - BLOCK // 2, (1 << 32) - BLOCK // 2, BIG_SIZE - BLOCK):
            file.seek(offset)
            file.write(noise(BLOCK))
    url = f"{server.url}/files/big/big.bin"
    run("curl", "--fail", "--silent", "--show-error", "--upload-file", source, url, timeout=500)
    yield url, source
    source.unlink()
    with server.client() as http:
        http.delete(url).raise_for_status()


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        ((1 << 31) - 1, (1 << 31) + 1),
        ((1 << 32) - 1, 1 << 32),
        (1 << 32, (1 << 32) + 1),
        ((1 << 32) - 400_000, (1 << 32) + 400_000),
        (BIG_SIZE - 1000, BIG_SIZE),
    ],
)
def test_curl_reads_ranges_beyond_32_bits(
    big: tuple[str, Path], tmp_path: Path, start: int, stop: int
) -> None:
    url, source = big
    with source.open("rb") as file:
        file.seek(start)
        expected = file.read(stop - start)
    requested = [f"{start}-{stop - 1}"]
    if stop == BIG_SIZE:
        requested += [f"{start}-", f"-{stop - start}", f"{start}-{1 << 63}"]
    for span in requested:
        part = tmp_path / "part"
        wanted = "%{http_code} %header{content-range}"
        shown = run("curl", "--silent", "--show-error", "--range", span, "-o", part, "-w", wanted, url).stdout
        assert shown == f"206 bytes {start}-{stop - 1}/{BIG_SIZE}"
        assert part.read_bytes() == expected


def test_curl_reads_whole_file_above_4_gib(big: tuple[str, Path]) -> None:
    url, source = big
    assert (
        run(
            "curl", "--silent", "--range", f"{BIG_SIZE}-", "-w", "%{http_code}", "-o", "/dev/null", url
        ).stdout
        == "416"
    )
    command = 'curl --fail --silent --show-error "$0" | cmp - "$1"'
    assert run("bash", "-o", "pipefail", "-c", command, url, source, timeout=500).stdout == ""
