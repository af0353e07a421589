"""Symbolic links that lead out of the folder, swapped in while requests walk through. Over the filesystem
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
"""Lets two names change places for ever, each time at one stroke."""


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """The names change places as often as can be; at the end each stands for what it did at first."""
    linked = one.is_symlink()
    process = subprocess.Popen([sys.executable, "-c", SWAP, one, other])
    try:
        yield
    finally:
        assert process.poll() is None, "they were swapped to the end"
        process.kill()
        process.wait()
        if one.is_symlink() != linked:
            aside = one.with_name("aside")
            one.rename(aside)
            other.rename(one)
            aside.rename(other)


class Client(threading.Thread):
    """Asks for all sorts of things where the names are swapped, and remembers what must not be."""

    def __init__(self, server: Server, number: int) -> None:
        super().__init__()
        self.answers: Counter[tuple[str, int]] = Counter()
        self.strange: list[str] = []
        self._server = server
        self._number = number

    def run(self) -> None:
        dice = random.Random(self._number)
        end = time.monotonic() + SECONDS
        with self._server.client() as http:
            while time.monotonic() < end:
                folder = dice.choice(("a", "a/deep", "b"))
                method = dice.choice(("GET", "GET", "HEAD", "PUT", "POST", "DELETE", "LIST"))
                response = self._ask(http, method, folder, dice)
                self.answers[method, response.status_code] += 1
                if b"secret" in response.content or response.headers.get("content-length") == str(
                    len(SECRET) + 1
                ):
                    self.strange.append(f"{method} {response.url}")

    def _ask(self, http: httpx.Client, method: str, folder: str, dice: random.Random) -> httpx.Response:
        name = dice.choice(("film.mp4", "film.mp4", f"{self._number}.mp4"))
        match method:
            case "LIST":
                return http.get("/files", params={"folder": folder})
            case "POST":
                return http.post("/file/upload", data={"folder": folder}, files={"file": (name, INSIDE)})
            case "PUT":
                return http.put(f"/files/{folder}/{name}", content=INSIDE)
            case "DELETE":
                return http.delete(f"/files/{folder}/{self._number}.mp4")
        wanted = dice.choice((name, "hidden.mp4"))
        return http.request(method, f"/files/{folder}/{wanted}")


def move_about(root: Path) -> None:
    """Until time is up, out of the folders that are swapped and into them."""
    end = time.monotonic() + SECONDS
    names = [
        Key.at(SHARED, path) for path in ("a/film.mp4", "a/moved.mp4", "a/deep/moved.mp4", "c/moved.mp4")
    ]
    dice = random.Random()
    with ExitStack() as stack:
        library = Library(root, stack)
        while time.monotonic() < end:
            try:
                library.backend.move(*dice.sample(names, 2), Expect.ANY)
            except StorageError:
                continue


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that is none of the server's, with names that it knows."""
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    for folder in (outside, outside / "deep"):
        for name in ("film.mp4", "hidden.mp4", "0.mp4", "1.mp4", "moved.mp4"):
            (folder / name).write_bytes(SECRET)
    return outside


def test_links_that_are_swapped_in_lead_nowhere(doomed: Server, outside: Path) -> None:
    files = doomed.files
    with doomed.client() as http:
        for path in ("a/film.mp4", "a/deep/film.mp4", "b/film.mp4"):
            http.put(f"/files/{path}", content=INSIDE).raise_for_status()
    (files / "link").symlink_to(outside)
    (files / "b" / "link.mp4").symlink_to(outside / "film.mp4")
    before = snapshot(outside)
    time.sleep(2.1)  # or what is outside would be taken for unfinished, and not be served for that reason
    with swapping(files / "a", files / "link"), swapping(files / "b" / "film.mp4", files / "b" / "link.mp4"):
        clients = [Client(doomed, number) for number in range(2)]
        others = [threading.Thread(target=move_about, args=(files,))]
        for thread in (*clients, *others):
            thread.start()
        for thread in (*clients, *others):
            thread.join()
    assert snapshot(outside) == before
    answers: Counter[tuple[str, int]] = sum((client.answers for client in clients), Counter())
    assert [client.strange for client in clients] == [[], []]
    assert {status for _, status in answers} <= {200, 201, 204, 404, 409, 503}, answers
    assert sum(count for (_, status), count in answers.items() if status < 300) > 0, "it was there at times"
    assert answers["GET", 404], "and at times not"
    assert "Traceback" not in doomed.log()
    assert doomed.staging() == []
    with doomed.client() as http:
        for item in http.get("/files?folder=a").json()["items"]:
            assert http.get(f"/files/{item['path']}").content == INSIDE


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """All files in it, with how many names each has."""
    return {
        str(path): (path.read_bytes(), path.stat().st_nlink) for path in folder.rglob("*") if path.is_file()
    }
