"""kill -9 at any moment, and what is there after the next start. Over the filesystem backend, whose files and
staging folder are looked into."""

import contextlib
import hashlib
import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support import Server

Begin = Callable[..., socket.socket]
Until = Callable[..., bool]
Listed = Callable[[httpx.Client, str], dict[str, str]]

ANNOUNCED = 50_000_000
PART = random.Random(1).randbytes(8_000_000)
OLD = random.Random(2).randbytes(300_000)
NEW = random.Random(3).randbytes(3_000_000)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def head(method: str, target: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def form_head(folder: str, name: str) -> bytes:
    return (
        head(
            "POST",
            f"/file/upload?folder={folder}",
            "Content-Type: multipart/form-data; boundary=xxx",
            f"Content-Length: {ANNOUNCED}",
        )
        + f'--xxx\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    )


def restarted(server: Server) -> None:
    server.kill()
    server.start()
    assert server.staging() == [], "the debris is swept at the start"


@pytest.mark.parametrize(
    "beginning",
    [
        head("PUT", "/files/a/b/film.mp4", f"Content-Length: {ANNOUNCED}"),
        head("PUT", "/files/a/b/film.mp4", "Transfer-Encoding: chunked") + b"%x\r\n" % ANNOUNCED,
        form_head("a/b", "film.mp4"),
    ],
    ids=["put", "chunked put", "form"],
)
def test_killed_in_the_middle_of_an_upload(
    doomed: Server, begin: Begin, until: Until, listed: Listed, beginning: bytes
) -> None:
    begin(doomed, beginning + PART)
    assert until(lambda: any(path.stat().st_size > 1_000_000 for path in doomed.staging())), (
        "it was under way"
    )
    restarted(doomed)
    with doomed.client() as http:
        page = http.get("/files").json()
        assert (page["items"], page["folders"]) == ([], [])
        assert http.get("/files/a/b/film.mp4").status_code == 404
        assert sorted(path.name for path in doomed.files.iterdir()) == [".seekable"]
        assert http.put("/files/a/b/film.mp4", content=NEW).status_code == 201
        assert listed(http, "a/b") == {"film.mp4": sha256(NEW)}


def test_killed_in_the_middle_of_a_replacement(
    doomed: Server, begin: Begin, until: Until, listed: Listed
) -> None:
    with doomed.client() as http:
        old = http.put("/files/film.mp4", content=OLD).json()
    begin(doomed, head("PUT", "/files/film.mp4", f"Content-Length: {ANNOUNCED}") + PART)
    assert until(lambda: any(path.stat().st_size > 1_000_000 for path in doomed.staging())), (
        "it was under way"
    )
    restarted(doomed)
    with doomed.client() as http:
        (now,) = http.get("/files").json()["items"]
        assert now | {"url": "", "stream_url": ""} == old | {
            "url": "",
            "stream_url": "",
        }  # the port is another
        assert listed(http, "") == {"film.mp4": sha256(OLD)}
        response = http.put("/files/film.mp4", content=NEW, headers={"if-match": f'"{old["etag"]}"'})
        assert response.status_code == 204


@pytest.mark.parametrize("how", ["put", "form", "replace", "delete"])
def test_killed_right_after_the_answer(doomed: Server, how: str, listed: Listed) -> None:
    for turn in range(2):
        name, data = f"{turn}.mp4", NEW[turn:]
        with doomed.client() as http:
            if how in ("replace", "delete"):
                http.put(f"/files/a/{name}", content=OLD).raise_for_status()
            if how == "delete":
                response = http.delete(f"/files/a/{name}")
            elif how == "form":
                response = http.post("/file/upload", data={"folder": "a"}, files={"file": (name, data)})
            else:
                response = http.put(f"/files/a/{name}", content=data)
            doomed.kill()
        assert response.status_code == (201 if how in ("put", "form") else 204)
        doomed.start()
        assert doomed.staging() == []
        with doomed.client() as http:
            served = http.get(f"/files/a/{name}")
            if how == "delete":
                assert served.status_code == 404
                assert listed(http, "a") == {}
                assert not (doomed.files / "a").exists()
                continue
            assert served.status_code == 200
            assert sha256(served.content) == sha256(data)
            assert served.headers["etag"] == response.headers["etag"]
            assert served.headers["repr-digest"] == response.headers["repr-digest"]
            assert (doomed.files / "a" / name).read_bytes() == data
            assert listed(http, "a")[name] == sha256(data)


class Worker(threading.Thread):
    """Changes names that are its own, and knows what may be stored under each.

    `states` maps a name to the hashes that it may have, None being no file: one after an answer, two when
    an answer never came.
    """

    def __init__(self, server: Server, folder: str, number: int) -> None:
        super().__init__()
        self.states: dict[str, set[str | None]] = {}
        self.strange: list[str] = []
        self.acknowledged = 0
        self._url = server.url
        self._folder = folder
        self._number = number

    def run(self) -> None:
        dice = random.Random(f"{self._folder} {self._number}")
        # A connection that the server no longer takes ends it; so does one that it broke.
        try:
            with httpx.Client(base_url=self._url, trust_env=False, timeout=20) as http:
                while True:
                    self._change(http, dice)
        except httpx.TransportError:
            pass

    def _change(self, http: httpx.Client, dice: random.Random) -> None:
        name = f"{self._number}-{dice.randrange(5)}"
        now = self.states.setdefault(name, {None})
        (current,) = now
        path, data = (
            f"/files/{self._folder}/{name}",
            dice.randbytes(dice.choice([0, 10, 5000, 300_000, 2_000_000])),
        )
        action = dice.choice(["put", "put", "form", "delete"])
        wanted = None if action == "delete" else sha256(data)
        if action == "form" and current is not None:
            wanted = current
        self.states[name] = {current, wanted}
        if action == "put":
            response = http.put(path, content=data)
            expected = 201 if current is None else 204
        elif action == "delete":
            response = http.delete(path)
            expected = 404 if current is None else 204
        else:
            response = http.post("/file/upload", data={"folder": self._folder}, files={"file": (name, data)})
            expected = 201 if current is None else 409
        self.states[name] = {wanted}
        self.acknowledged += 1
        if response.status_code != expected:
            self.strange.append(f"{action} of {name}: {response.status_code} {response.text}")


def check(http: httpx.Client, folder: str, states: dict[str, set[str | None]], listed: Listed) -> None:
    seen: dict[str, str | None] = {}
    for name, allowed in states.items():
        response = http.get(f"/files/{folder}/{name}")
        assert response.status_code in (200, 404), response.text
        seen[name] = sha256(response.content) if response.status_code == 200 else None
        assert seen[name] in allowed, f"{folder}/{name}: of {allowed}"
    assert listed(http, folder) == {name: found for name, found in seen.items() if found is not None}


@pytest.mark.campaign
def test_killed_at_random_moments(doomed: Server, listed: Listed) -> None:
    dice = random.Random()
    expected: dict[str, dict[str, set[str | None]]] = {}
    acknowledged = 0
    for turn in range(5):
        folder = f"turn-{turn}"
        workers = [Worker(doomed, folder, number) for number in range(4)]
        for worker in workers:
            worker.start()
        time.sleep(dice.uniform(0.3, 1.2))
        doomed.kill()
        for worker in workers:
            worker.join()
        doomed.start()
        assert doomed.staging() == []
        assert [worker.strange for worker in workers if worker.strange] == []
        acknowledged += sum(worker.acknowledged for worker in workers)
        expected[folder] = {name: state for worker in workers for name, state in worker.states.items()}
        with doomed.client() as http:
            check(http, folder, expected[folder], listed)
    time.sleep(2.5)  # what stands there without a row is taken for finished by now
    with doomed.client() as http:
        for folder, states in expected.items():
            check(http, folder, states, listed)
            for name in states:
                # Whatever the crash left, the name can be used, and by the ordinary ways.
                assert http.put(f"/files/{folder}/{name}", content=OLD).status_code in (201, 204)
                assert http.delete(f"/files/{folder}/{name}").status_code == 204
            assert not (doomed.files / folder).exists()
        assert http.get("/files").json()["folders"] == []
    assert acknowledged > 20, "there was a stream of changes to kill"
    assert doomed.staging() == []
    assert "Traceback" not in doomed.log()
    assert '" 500' not in doomed.log()


@pytest.mark.campaign
def test_killed_while_it_starts_for_the_first_time(tmp_path: Path, listed: Listed) -> None:
    """The schema and the mark of the folder are there whole, or are made again."""
    for turn in range(3):
        server = Server(tmp_path / str(turn), storage="filesystem")
        killer = threading.Thread(target=_kill_soon, args=(server, random.uniform(0, 0.2)))
        killer.start()
        with contextlib.suppress(AssertionError):  # it does not come so far
            server.start()
        killer.join()
        try:
            server.start()
            with server.client() as http:
                assert http.put("/files/film.mp4", content=OLD).status_code == 201
                assert listed(http, "") == {"film.mp4": sha256(OLD)}
                assert http.get("/health/ready").status_code == 200
        finally:
            server.stop()


def _kill_soon(server: Server, delay: float) -> None:
    """Kill a server that is about to start, once it has begun to make its folder."""
    deadline = time.monotonic() + 30
    while not (server.files / ".seekable").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(delay)
    server.kill()
