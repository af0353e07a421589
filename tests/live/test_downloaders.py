"""Programs that fetch for others: wget goes on, aria2 verifies, rclone copies a library."""

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

from tests.live.clients import logged_statuses, program, sha256, until
from tests.support import NewLibrary, Server, need, run, running
from tests.together import Outcomes, Together

pytestmark = pytest.mark.live

ODD_NAME = 'it\'s; a "film" — 100% #1 & more? 🎬 שלום.mp4'


@pytest.fixture(scope="module")
def big() -> bytes:
    return os.urandom(8_000_000)


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


slowly = Together("slowly")
"""Tests of programs that are told to be slow, or wait by themselves."""


@dataclass
class Place:
    """What each of them has: a folder here, one on a server for all, and servers of its own."""

    here: Path
    server: Server
    http: httpx.Client
    folder: str
    big: bytes
    new_library: NewLibrary


@pytest.fixture(scope="module", name="slowly")
def begun_slowly(
    request: pytest.FixtureRequest,
    server: Server,
    http: httpx.Client,
    big: bytes,
    new_library: NewLibrary,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Outcomes]:
    def place(name: str) -> tuple[Place]:
        return (Place(tmp_path_factory.mktemp(name), server, http, name, big, new_library),)

    with slowly.begun(request, place) as outcomes:
        yield outcomes


def put(http: httpx.Client, path: str, content: bytes) -> str:
    """Store it. Its URL."""
    target = f"/files/{quote(path)}"
    http.put(target, content=content).raise_for_status()
    return f"{http.base_url}{target}"


# wget


def cut(folder: Path, *command: object, file: Path) -> None:
    """Start a download, and kill it when some of the file has come."""
    with program(folder, *command) as download:
        until(lambda: file.exists() and file.stat().st_size > 1_000_000, "a part of it")
        download.process.kill()
        download.process.wait()


@slowly
def test_wget_goes_on_with_what_was_cut(place: Place) -> None:
    need("wget")
    url, file = put(place.http, f"{place.folder}/big.mp4", place.big), place.here / "big.mp4"
    cut(place.here, "wget", "--limit-rate=4m", url, file=file)
    there = file.stat().st_size
    assert there < len(place.big)
    log = run("wget", "-c", "-P", place.here, url).stderr
    assert f"{len(place.big) - there} " in log, "no more than was missing"
    assert file.read_bytes() == place.big


@slowly
def test_wget_goes_on_by_itself_when_the_server_comes_back(place: Place) -> None:
    need("wget")
    film = place.big * 5  # more than sockets hold at their largest: wget may read those to their end
    with running(place.here / "server", **place.new_library()) as server:
        with server.client() as http:
            url = put(http, "big.mp4", film)
        file = place.here / "big.mp4"
        (place.here / "wget").mkdir()
        patient = ("--tries=50", "--waitretry=1", "--retry-connrefused")
        wget_it = ("wget", "--limit-rate=20m", *patient, "-P", place.here, url)
        with program(place.here / "wget", *wget_it) as wget:
            until(lambda: file.exists() and file.stat().st_size > 1_000_000, "a part of it")
            port = server.port
            server.kill()
            server.start("--port", str(port))
            assert wget.process.wait(60) == 0, wget.log()
        assert "206 Partial Content" in wget.log()
        assert file.read_bytes() == film


@slowly
def test_wget_with_the_etag_mixes_nothing_when_the_file_was_replaced(place: Place) -> None:
    """By itself `wget -c` never asks whether it is still the same file, and a server cannot know."""
    need("wget")
    url, file = put(place.http, f"{place.folder}/big.mp4", place.big), place.here / "big.mp4"
    etag = place.http.head(url).headers["etag"]
    file.write_bytes(place.big[:3_000_000])
    same = ("wget", "-c", "-P", place.here, f"--header=If-Match: {etag}", url)
    put(place.http, f"{place.folder}/big.mp4", place.big[::-1])
    refused = run(*same, check=False)
    assert refused.returncode == 8
    assert "412" in refused.stderr
    assert file.read_bytes() == place.big[:3_000_000]
    put(place.http, f"{place.folder}/big.mp4", place.big)
    run(*same)
    assert file.read_bytes() == place.big


# aria2

ARIA2 = ("aria2c", "--no-conf", "-x4", "-s4", "-k1M", "--summary-interval=0", "--log-level=debug")
CHECKSUM_ERROR = 32  # what it ends with (aria2c(1), EXIT STATUS)


@slowly
def test_aria2_verifies_what_it_fetched_in_pieces(place: Place) -> None:
    check_verified(place, "big.mp4")


@slowly
def test_aria2_verifies_a_file_of_any_name(place: Place) -> None:
    check_verified(place, ODD_NAME)


def check_verified(place: Place, name: str) -> None:
    need("aria2c")
    url = put(place.http, f"{place.folder}/{name}", place.big)
    saved, log_file = place.here / "saved", place.here / "log"
    # At full speed the first connection may have brought it all before the others are answered.
    run(*ARIA2, "--max-download-limit=16M", f"--log={log_file}", f"--dir={saved}", url)
    log = log_file.read_text(errors="replace")
    assert "Valid hash found in Digest header field" in log
    assert "Verification finished successfully" in log
    assert logged_statuses(place.server, url, 3).count(206) >= 3
    assert [file.name for file in saved.iterdir()] == [name]
    assert sha256(saved / name) == sha256(place.big)


def test_aria2_refuses_what_rotted_on_the_disk(big: bytes, tmp_path: Path) -> None:
    need("aria2c")
    with running(tmp_path / "server", storage="filesystem") as server, server.client() as http:
        url = put(http, "big.mp4", big)
        # Rot changes no time of a file, and every write of ours would: so the hash stands for other bytes.
        with closing(sqlite3.connect(server.files / ".seekable" / "seekable.db")) as database, database:
            database.execute("UPDATE media SET sha256 = ?", ["0" * 64])
        result = run(*ARIA2, f"--log={tmp_path / 'log'}", f"--dir={tmp_path}", url, check=False)
        assert result.returncode == CHECKSUM_ERROR, result.stdout
        assert "Checksum error detected" in (tmp_path / "log").read_text(errors="replace")


@slowly
def test_aria2_mixes_nothing_when_the_file_was_replaced(place: Place) -> None:
    need("aria2c")
    url, file = put(place.http, f"{place.folder}/big.mp4", place.big), place.here / "big.mp4"
    (place.here / "aria2").mkdir()
    command = (*ARIA2, "--max-download-limit=3M", "--file-allocation=none", f"--dir={place.here}", url)
    with program(place.here / "aria2", *command) as aria2:
        until(lambda: file.exists() and file.stat().st_blocks > 2_000_000 // 512, "a part of it")
        aria2.terminate()
    assert file.with_name("big.mp4.aria2").exists(), "what it needs to go on"
    put(place.http, f"{place.folder}/big.mp4", place.big[::-1])
    result = run(*ARIA2, "-c", f"--dir={place.here}", url, check=False)
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
    """What it says of a run that went well at the first try."""
    settings = ("--config", os.devnull, "--retries", 1, "-v", "--http-url", f"{url}/files/")
    return run("rclone", *arguments, *settings).stderr


@slowly
def test_rclone_copies_a_library(place: Place) -> None:
    """But for names with a colon at the top of what is copied: it asks for `./c:d`, which is refused."""
    need("rclone")
    copy = place.here / "copy"
    with running(place.here / "server", **place.new_library()) as server, server.client() as http:
        rclone(server.url, "copy", ":http:", copy)
        assert tree(copy) == {}, "no files are no failure"
        for path, content in LIBRARY.items():
            put(http, path, content)
        rclone(server.url, "copy", ":http:", copy)
        assert tree(copy) == LIBRARY
        time.sleep(2.1)  # it takes dates for equal that are a second apart
        assert "There was nothing to transfer" in rclone(server.url, "copy", ":http:", copy)

        put(http, "films/film.mp4", b"replaced")
        http.delete("/files/top.mp4")
        said = rclone(server.url, "sync", ":http:", copy)
        changes = dict(re.findall(r"INFO +: (.*): (Copied|Deleted)", said))
        assert changes == {"films/film.mp4": "Copied", "top.mp4": "Deleted"}
        now = {**LIBRARY, "films/film.mp4": b"replaced"}
        del now["top.mp4"]
        assert tree(copy) == now
        rclone(server.url, "copy", ":http:films/2024 (new)", place.here / "part")
        assert set(tree(place.here / "part")) == {"a b.mp4", ODD_NAME}
