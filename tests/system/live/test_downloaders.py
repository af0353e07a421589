"""Download clients: wget resumes, aria2 verifies, rclone copies a library."""

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.support import NewLibrary, Server, need, on_disk_and_gridfs, run, running
from tests.support.together import Outcomes, Together
from tests.system.live.clients import ODD_NAME, logged_statuses, program, sha256, until

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def big() -> bytes:
    return os.urandom(8_000_000)


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


slow_clients = Together("slow_clients")
"""Tests of clients that are throttled, or wait."""


@dataclass
class Setup:
    """Resources of one test: a local folder, a folder on the shared server, and settings for more servers."""

    local: Path
    server: Server
    http: httpx.Client
    folder: str
    big: bytes
    new_library: NewLibrary


@pytest.fixture(scope="module", name="slow_clients")
def begun_slow_clients(
    request: pytest.FixtureRequest,
    server: Server,
    http: httpx.Client,
    big: bytes,
    new_library: NewLibrary,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Outcomes]:
    def setup(name: str) -> tuple[Setup]:
        return (Setup(tmp_path_factory.mktemp(name), server, http, name, big, new_library),)

    with slow_clients.begun(request, setup) as outcomes:
        yield outcomes


def put(http: httpx.Client, path: str, content: bytes) -> str:
    """Store a file, and return its URL."""
    target = f"/files/{quote(path)}"
    http.put(target, content=content).raise_for_status()
    return f"{http.base_url}{target}"


# wget


def interrupt(folder: Path, *command: object, file: Path) -> None:
    """Start a download, and kill it when part of the file has arrived."""
    with program(folder, *command) as download:
        until(lambda: file.exists() and file.stat().st_size > 1_000_000, "part of the file")
        download.process.kill()
        download.process.wait()


@slow_clients
def test_wget_resumes_interrupted_download(setup: Setup) -> None:
    need("wget")
    url, file = put(setup.http, f"{setup.folder}/big.mp4", setup.big), setup.local / "big.mp4"
    interrupt(setup.local, "wget", "--limit-rate=4m", url, file=file)
    received = file.stat().st_size
    assert received < len(setup.big)
    log = run("wget", "-c", "-P", setup.local, url).stderr
    assert f"{len(setup.big) - received} " in log, "wget fetches only the rest"
    assert file.read_bytes() == setup.big


@slow_clients
def test_wget_resumes_when_server_restarts(setup: Setup) -> None:
    need("wget")
    film = setup.big * 5  # more than the largest socket buffers hold: wget may read those to their end
    with running(setup.local / "server", **setup.new_library()) as server:
        with server.client() as http:
            url = put(http, "big.mp4", film)
        file = setup.local / "big.mp4"
        (setup.local / "wget").mkdir()
        patient = ("--tries=50", "--waitretry=1", "--retry-connrefused")
        command = ("wget", "--limit-rate=20m", *patient, "-P", setup.local, url)
        with program(setup.local / "wget", *command) as wget:
            until(lambda: file.exists() and file.stat().st_size > 1_000_000, "part of the file")
            port = server.port
            server.kill()
            server.start("--port", str(port))
            assert wget.process.wait(60) == 0, wget.log()
        assert "206 Partial Content" in wget.log()
        assert file.read_bytes() == film


@slow_clients
def test_wget_with_if_match_does_not_mix_versions_when_file_is_replaced(setup: Setup) -> None:
    """Without the header, `wget -c` sends no validator, so that no server could detect the replacement."""
    need("wget")
    url, file = put(setup.http, f"{setup.folder}/big.mp4", setup.big), setup.local / "big.mp4"
    etag = setup.http.head(url).headers["etag"]
    file.write_bytes(setup.big[:3_000_000])
    resume = ("wget", "-c", "-P", setup.local, f"--header=If-Match: {etag}", url)
    put(setup.http, f"{setup.folder}/big.mp4", setup.big[::-1])
    refused = run(*resume, check=False)
    assert refused.returncode == 8
    assert "412" in refused.stderr
    assert file.read_bytes() == setup.big[:3_000_000]
    put(setup.http, f"{setup.folder}/big.mp4", setup.big)
    run(*resume)
    assert file.read_bytes() == setup.big


# aria2

ARIA2 = ("aria2c", "--no-conf", "-x4", "-s4", "-k1M", "--summary-interval=0", "--log-level=debug")
CHECKSUM_ERROR = 32  # exit status (aria2c(1), EXIT STATUS)


@slow_clients
def test_aria2_verifies_file_fetched_in_pieces(setup: Setup) -> None:
    check_verified(setup, "big.mp4")


@slow_clients
def test_aria2_verifies_file_of_odd_name(setup: Setup) -> None:
    check_verified(setup, ODD_NAME)


def check_verified(setup: Setup, name: str) -> None:
    need("aria2c")
    url = put(setup.http, f"{setup.folder}/{name}", setup.big)
    saved, log_file = setup.local / "saved", setup.local / "log"
    # Throttled: otherwise the first connection may fetch the whole file before the others get a response.
    run(*ARIA2, "--max-download-limit=16M", f"--log={log_file}", f"--dir={saved}", url)
    log = log_file.read_text(errors="replace")
    assert "Valid hash found in Digest header field" in log
    assert "Verification finished successfully" in log
    assert logged_statuses(setup.server, url, 3).count(206) >= 3
    assert [file.name for file in saved.iterdir()] == [name]
    assert sha256(saved / name) == sha256(setup.big)


def test_aria2_reports_checksum_error_when_bytes_rotted_on_disk(big: bytes, tmp_path: Path) -> None:
    need("aria2c")
    with running(tmp_path / "server", storage="filesystem") as server, server.client() as http:
        url = put(http, "big.mp4", big)
        # Bit rot changes no timestamp, but our own write would: so change the hash instead of the bytes.
        with closing(sqlite3.connect(server.files / ".seekable" / "seekable.db")) as database, database:
            database.execute("UPDATE media SET sha256 = ?", ["0" * 64])
        result = run(*ARIA2, f"--log={tmp_path / 'log'}", f"--dir={tmp_path}", url, check=False)
        assert result.returncode == CHECKSUM_ERROR, result.stdout
        assert "Checksum error detected" in (tmp_path / "log").read_text(errors="replace")


@slow_clients
@on_disk_and_gridfs
def test_aria2_does_not_mix_versions_when_file_is_replaced(setup: Setup) -> None:
    need("aria2c")
    url, file = put(setup.http, f"{setup.folder}/big.mp4", setup.big), setup.local / "big.mp4"
    (setup.local / "aria2").mkdir()
    command = (*ARIA2, "--max-download-limit=3M", "--file-allocation=none", f"--dir={setup.local}", url)
    with program(setup.local / "aria2", *command) as aria2:
        until(lambda: file.exists() and file.stat().st_blocks > 2_000_000 // 512, "part of the file")
        aria2.terminate()
    assert file.with_name("big.mp4.aria2").exists(), "the control file for a resumed download"
    put(setup.http, f"{setup.folder}/big.mp4", setup.big[::-1])
    result = run(*ARIA2, "-c", f"--dir={setup.local}", url, check=False)
    assert result.returncode == CHECKSUM_ERROR, result.stdout


# rclone

LIBRARY = {
    "top.mp4": b"top",
    "empty.txt": b"",
    "films/film.mp4": os.urandom(300_000),
    "films/index.html": b"<a href='../gone'>not an index</a>",
    "films/2024 (new)/a b.mp4": b"spaces",
    f"films/2024 (new)/{ODD_NAME}": b"odd",
    "films/http:/c:d.mp4": b"colons",
    "films/%2e%2e/%2F.mp4": b"escapes",
    "films/-dash/.dot": b"dash and dot",
    "films/ leading/trailing ": b"spaces at the ends",
    "films/&amp;/<b>.mp4": b"markup",
    "שלום/🎬/été.mp4": b"scripts",
}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def rclone(url: str, *arguments: object) -> str:
    """Run rclone without retries, and return its log."""
    settings = ("--config", os.devnull, "--retries", 1, "-v", "--http-url", f"{url}/files/")
    return run("rclone", *arguments, *settings).stderr


@slow_clients
@on_disk_and_gridfs
def test_rclone_copies_and_syncs_library(setup: Setup) -> None:
    """Without top-level names that contain a colon: rclone requests `./c:d`, which the server refuses."""
    need("rclone")
    copy = setup.local / "copy"
    with running(setup.local / "server", **setup.new_library()) as server, server.client() as http:
        rclone(server.url, "copy", ":http:", copy)
        assert tree(copy) == {}, "an empty library is no failure"
        for path, content in LIBRARY.items():
            put(http, path, content)
        rclone(server.url, "copy", ":http:", copy)
        assert tree(copy) == LIBRARY
        time.sleep(2.1)  # rclone treats dates that are a second apart as equal
        assert "There was nothing to transfer" in rclone(server.url, "copy", ":http:", copy)

        put(http, "films/film.mp4", b"replaced")
        http.delete("/files/top.mp4")
        log = rclone(server.url, "sync", ":http:", copy)
        changes = dict(re.findall(r"INFO +: (.*): (Copied|Deleted)", log))
        assert changes == {"films/film.mp4": "Copied", "top.mp4": "Deleted"}
        expected = {**LIBRARY, "films/film.mp4": b"replaced"}
        del expected["top.mp4"]
        assert tree(copy) == expected
        rclone(server.url, "copy", ":http:films/2024 (new)", setup.local / "part")
        assert set(tree(setup.local / "part")) == {"a b.mp4", ODD_NAME}
