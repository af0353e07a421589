"""Live HLS that ffmpeg writes into the library's folder plays from its first segment while it is written."""

import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support import Server, need, run, running
from tests.system.live.clients import Vlc, logged_statuses, until

pytestmark = pytest.mark.live

SECONDS = 6
RATE = 15


@contextmanager
def recording(folder: Path, flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ffmpeg as a recorder that writes a segment per second, and rewrites the playlist with each."""
    need("ffmpeg")
    folder.mkdir()
    # fmt: off
    command = [
        "ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error", "-re",
        "-f", "lavfi", "-i", f"testsrc=size=320x180:rate={RATE}:duration={SECONDS}",
        "-f", "lavfi", "-i", f"sine=frequency=440:duration={SECONDS}",
        "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", str(RATE), "-c:a", "aac",
        "-f", "hls", "-hls_time", "1", "-hls_list_size", "0", "-hls_flags", flags, "live.m3u8",
    ]
    # fmt: on
    process = subprocess.Popen(command, cwd=folder)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that scans its folder only at its start."""
    folder = tmp_path_factory.mktemp("studio") / "server"
    with running(folder, storage="filesystem", scan_interval=100_000) as server:
        yield server


class Poller(threading.Thread):
    """A player that polls the playlist, and requests each segment as soon as the playlist names it."""

    def __init__(self, server: Server, folder: str) -> None:
        super().__init__()
        self.statuses: list[int] = []
        self.versions: set[str] = set()
        self.segments: dict[str, int] = {}
        self.stop = threading.Event()
        self._server = server
        self._folder = folder

    def run(self) -> None:
        with self._server.client() as http:
            while not self.stop.wait(0.02):
                self._poll(http)

    def _poll(self, http: httpx.Client) -> None:
        response = http.get(f"/files/{self._folder}/live.m3u8")
        if response.status_code == 404 and not self.statuses:
            return  # the recording has yet to begin
        self.statuses.append(response.status_code)
        if response.status_code == 200:
            assert response.text.startswith("#EXTM3U")
            self.versions.add(response.headers["etag"])
            for name in re.findall(r"^\S+\.ts$", response.text, re.MULTILINE):
                if name not in self.segments:
                    self.segments[name] = http.get(f"/files/{self._folder}/{name}").status_code


@pytest.mark.parametrize("flags", ["temp_file", "0"], ids=["renamed", "in place"])
def test_live_playlist_is_served_in_every_version(studio: Server, flags: str, tmp_path: Path) -> None:
    name = f"live-{'renamed' if flags == 'temp_file' else 'in-place'}"
    url = f"{studio.url}/files/{name}/live.m3u8"
    poller = Poller(studio, name)
    poller.start()
    try:
        with recording(studio.files / name, flags) as recorder:
            until(lambda: bool(poller.statuses), "a playlist")
            assert recorder.poll() is None
            # A player that starts with the first segment gets every picture.
            copy = tmp_path / "copy.ts"
            begins = ("-live_start_index", "0")
            run("ffmpeg", "-nostdin", "-loglevel", "error", *begins, "-i", url, "-c", "copy", copy)
            assert recorder.wait() == 0
    finally:
        poller.stop.set()
        poller.join()
    assert set(poller.statuses) == {200}
    assert len(poller.versions) >= SECONDS
    assert poller.segments == {f"live{number}.ts": 200 for number in range(SECONDS)}
    assert count_pictures(copy) == SECONDS * RATE
    assert set(logged_statuses(studio, url)) <= {200, 206, 404}, "404 before the recording began"


def count_pictures(film: Path) -> int:
    # fmt: off
    counted = run(
        "ffprobe", "-v", "error", "-select_streams", "v", "-count_packets",
        "-show_entries", "stream=nb_read_packets", "-of", "csv=p=0", film,
    )
    # fmt: on
    return int(re.findall(r"\d+", counted.stdout)[0])


def test_vlc_plays_live_hls_during_recording(studio: Server) -> None:
    need("vlc", "setpriv")
    url = f"{studio.url}/files/vlc/live.m3u8"
    with recording(studio.files / "vlc", "temp_file") as recorder:
        with studio.client() as http:
            until(lambda: http.get("/files/vlc/live.m3u8").status_code == 200, "a playlist")
        with Vlc(url) as vlc:
            until(lambda: vlc.query("get_time") >= 1, f"VLC at the first second\n{vlc.log()[-3000:]}")
            assert recorder.poll() is None, "the recording continues"
            until(lambda: len(requested_segments(studio)) >= 3, "requests for three segments")
    found = requested_segments(studio)
    assert min(found) == 0
    assert set(logged_statuses(studio, url)) <= {200, 206, 404}
    for number in found:
        assert set(logged_statuses(studio, f"/files/vlc/live{number}.ts")) <= {200, 206}


def requested_segments(server: Server) -> set[int]:
    return {int(number) for number in re.findall(r"GET /files/vlc/live(\d+)\.ts HTTP", server.log())}
