"""Symbolic links out of the library, which replace folders and files during requests. Over the filesystem
backend."""

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from app.storage.errors import StorageError
from app.storage.types import SHARED, Expect, Key
from tests.support import Server
from tests.system.faults.victim import Library

SECONDS = 2.5
SECRET = b"secret" * 1000 + b"!"
INSIDE = b"inside" * 1000


SWAP = """
import ctypes, sys
rename = ctypes.CDLL(None).renameat2
one, other = (name.encode() for name in sys.argv[1:])
while rename(-100, one, -100, other, 2) == 0:  # AT_FDCWD, RENAME_EXCHANGE
    pass
"""
"""A program that exchanges two names forever, each time atomically."""


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Exchange two names as fast as possible inside the context; restore them at its end."""
    linked = one.is_symlink()
    process = subprocess.Popen([sys.executable, "-c", SWAP, one, other])
    try:
        yield
    finally:
        assert process.poll() is None, "the exchange ended too early"
        process.kill()
        process.wait()
        if one.is_symlink() != linked:
            aside = one.with_name("aside")
            one.rename(aside)
            other.rename(one)
            aside.rename(other)


class Client(threading.Thread):
    """A client that sends requests of all kinds to the exchanged paths, and records leaks from outside."""

    def __init__(self, server: Server, number: int) -> None:
        super().__init__()
        self.outcomes: Counter[tuple[str, int]] = Counter()
        self.violations: list[str] = []
        self._server = server
        self._number = number

    def run(self) -> None:
        rng = random.Random(self._number)
        end = time.monotonic() + SECONDS
        with self._server.client() as http:
            while time.monotonic() < end:
                folder = rng.choice(("a", "a/deep", "b"))
                method = rng.choice(("GET", "GET", "HEAD", "PUT", "POST", "DELETE", "LIST"))
                response = self._send(http, method, folder, rng)
                self.outcomes[method, response.status_code] += 1
                if b"secret" in response.content or response.headers.get("content-length") == str(
                    len(SECRET) + 1
                ):
                    self.violations.append(f"{method} {response.url}")

    def _send(self, http: httpx.Client, method: str, folder: str, rng: random.Random) -> httpx.Response:
        name = rng.choice(("film.mp4", "film.mp4", f"{self._number}.mp4"))
        match method:
            case "LIST":
                return http.get("/files", params={"folder": folder})
            case "POST":
                return http.post("/file/upload", data={"folder": folder}, files={"file": (name, INSIDE)})
            case "PUT":
                return http.put(f"/files/{folder}/{name}", content=INSIDE)
            case "DELETE":
                return http.delete(f"/files/{folder}/{self._number}.mp4")
        filename = rng.choice((name, "hidden.mp4"))
        return http.request(method, f"/files/{folder}/{filename}")


def move_files(root: Path) -> None:
    """Move files out of and into the exchanged folders until the time is up."""
    end = time.monotonic() + SECONDS
    names = [
        Key.at(SHARED, path) for path in ("a/film.mp4", "a/moved.mp4", "a/deep/moved.mp4", "c/moved.mp4")
    ]
    rng = random.Random()
    with ExitStack() as stack:
        library = Library(root, stack)
        while time.monotonic() < end:
            try:
                library.backend.move(*rng.sample(names, 2), Expect.ANY)
            except StorageError:
                continue


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Create a folder outside the library, with the same names as inside."""
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    for folder in (outside, outside / "deep"):
        for name in ("film.mp4", "hidden.mp4", "0.mp4", "1.mp4", "moved.mp4"):
            (folder / name).write_bytes(SECRET)
    return outside


def test_symlinks_swapped_in_during_requests_are_never_followed(
    filesystem_server: Server, outside: Path
) -> None:
    files = filesystem_server.files
    with filesystem_server.client() as http:
        for path in ("a/film.mp4", "a/deep/film.mp4", "b/film.mp4"):
            http.put(f"/files/{path}", content=INSIDE).raise_for_status()
    (files / "link").symlink_to(outside)
    (files / "b" / "link.mp4").symlink_to(outside / "film.mp4")
    before = snapshot(outside)
    with swapping(files / "a", files / "link"), swapping(files / "b" / "film.mp4", files / "b" / "link.mp4"):
        clients = [Client(filesystem_server, number) for number in range(2)]
        others = [threading.Thread(target=move_files, args=(files,))]
        for thread in (*clients, *others):
            thread.start()
        for thread in (*clients, *others):
            thread.join()
    assert snapshot(outside) == before
    outcomes: Counter[tuple[str, int]] = sum((client.outcomes for client in clients), Counter())
    assert [client.violations for client in clients] == [[], []]
    assert {status for _, status in outcomes} <= {200, 201, 204, 404, 409, 503}, outcomes
    assert sum(count for (_, status), count in outcomes.items() if status < 300) > 0, "no request succeeded"
    assert outcomes["GET", 404], "no GET met a link"
    assert "Traceback" not in filesystem_server.log()
    assert filesystem_server.staging() == []
    with filesystem_server.client() as http:
        for item in http.get("/files?folder=a").json()["items"]:
            assert http.get(f"/files/{item['path']}").content == INSIDE


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return the content and the link count of each file in the folder."""
    return {
        str(path): (path.read_bytes(), path.stat().st_nlink) for path in folder.rglob("*") if path.is_file()
    }
