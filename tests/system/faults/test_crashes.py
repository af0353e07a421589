"""kill -9 at any moment, and the stored files after the next start. Over the filesystem backend, because the
tests inspect its files and staging folder."""

import contextlib
import hashlib
import random
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.support import Server
from tests.system.live.clients import until

StartRequest = Callable[..., socket.socket]
Until = Callable[..., bool]
HashesIn = Callable[[httpx.Client, str], dict[str, str]]

DECLARED_LENGTH = 50_000_000
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
            f"Content-Length: {DECLARED_LENGTH}",
        )
        + f'--xxx\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    )


def kill_and_restart(server: Server) -> None:
    server.kill()
    server.start()
    assert server.staging() == [], "the start left staged files"


@pytest.mark.parametrize(
    "upload_head",
    [
        head("PUT", "/files/a/b/film.mp4", f"Content-Length: {DECLARED_LENGTH}"),
        head("PUT", "/files/a/b/film.mp4", "Transfer-Encoding: chunked") + b"%x\r\n" % DECLARED_LENGTH,
        form_head("a/b", "film.mp4"),
    ],
    ids=["put", "chunked put", "form"],
)
def test_kill_during_upload_leaves_nothing_and_frees_the_name(
    filesystem_server: Server,
    start_request: StartRequest,
    until: Until,
    hashes_in: HashesIn,
    upload_head: bytes,
) -> None:
    start_request(filesystem_server, upload_head + PART)
    assert until(lambda: any(path.stat().st_size > 1_000_000 for path in filesystem_server.staging())), (
        "the upload did not begin"
    )
    kill_and_restart(filesystem_server)
    with filesystem_server.client() as http:
        page = http.get("/files").json()
        assert (page["items"], page["folders"]) == ([], [])
        assert http.get("/files/a/b/film.mp4").status_code == 404
        assert sorted(path.name for path in filesystem_server.files.iterdir()) == [".seekable"]
        assert http.put("/files/a/b/film.mp4", content=NEW).status_code == 201
        assert hashes_in(http, "a/b") == {"film.mp4": sha256(NEW)}


def test_kill_during_replacement_keeps_the_old_version(
    filesystem_server: Server, start_request: StartRequest, until: Until, hashes_in: HashesIn
) -> None:
    with filesystem_server.client() as http:
        old = http.put("/files/film.mp4", content=OLD).json()
    start_request(
        filesystem_server, head("PUT", "/files/film.mp4", f"Content-Length: {DECLARED_LENGTH}") + PART
    )
    assert until(lambda: any(path.stat().st_size > 1_000_000 for path in filesystem_server.staging())), (
        "the upload did not begin"
    )
    kill_and_restart(filesystem_server)
    with filesystem_server.client() as http:
        (now,) = http.get("/files").json()["items"]
        other_port = {"url": "", "stream_url": ""}
        assert now | other_port == old | other_port
        assert hashes_in(http, "") == {"film.mp4": sha256(OLD)}
        response = http.put("/files/film.mp4", content=NEW, headers={"if-match": f'"{old["etag"]}"'})
        assert response.status_code == 204


@pytest.mark.parametrize("how", ["put", "form", "replace", "delete"])
def test_kill_right_after_response_keeps_acknowledged_change(
    filesystem_server: Server, how: str, hashes_in: HashesIn
) -> None:
    for turn in range(2):
        name, data = f"{turn}.mp4", NEW[turn:]
        with filesystem_server.client() as http:
            if how in ("replace", "delete"):
                http.put(f"/files/a/{name}", content=OLD).raise_for_status()
            if how == "delete":
                response = http.delete(f"/files/a/{name}")
            elif how == "form":
                response = http.post("/file/upload", data={"folder": "a"}, files={"file": (name, data)})
            else:
                response = http.put(f"/files/a/{name}", content=data)
            filesystem_server.kill()
        assert response.status_code == (201 if how in ("put", "form") else 204)
        filesystem_server.start()
        assert filesystem_server.staging() == []
        with filesystem_server.client() as http:
            served = http.get(f"/files/a/{name}")
            if how == "delete":
                assert served.status_code == 404
                assert hashes_in(http, "a") == {}
                assert not (filesystem_server.files / "a").exists()
                continue
            assert served.status_code == 200
            assert sha256(served.content) == sha256(data)
            assert served.headers["etag"] == response.headers["etag"]
            assert served.headers["repr-digest"] == response.headers["repr-digest"]
            assert (filesystem_server.files / "a" / name).read_bytes() == data
            assert hashes_in(http, "a")[name] == sha256(data)


class Worker(threading.Thread):
    """A client that changes names of its own, and tracks the versions that may be stored under each.

    `states` maps a name to the possible hashes (None: no file): one after a response, two while the outcome
    of a change is unknown.
    """

    def __init__(self, server: Server, folder: str, number: int) -> None:
        super().__init__()
        self.states: dict[str, set[str | None]] = {}
        self.violations: list[str] = []
        self.acknowledged = 0
        self._url = server.url
        self._folder = folder
        self._number = number

    def run(self) -> None:
        rng = random.Random(f"{self._folder} {self._number}")
        # The thread ends when the server refuses or breaks a connection.
        try:
            with httpx.Client(base_url=self._url, trust_env=False, timeout=20) as http:
                while True:
                    self._change(http, rng)
        except httpx.TransportError:
            pass

    def _change(self, http: httpx.Client, rng: random.Random) -> None:
        name = f"{self._number}-{rng.randrange(5)}"
        states = self.states.setdefault(name, {None})
        (current,) = states
        path, data = (
            f"/files/{self._folder}/{name}",
            rng.randbytes(rng.choice([0, 10, 5000, 300_000, 2_000_000])),
        )
        action = rng.choice(["put", "put", "form", "delete"])
        intended = None if action == "delete" else sha256(data)
        if action == "form" and current is not None:
            intended = current
        self.states[name] = {current, intended}
        if action == "put":
            response = http.put(path, content=data)
            expected = 201 if current is None else 204
        elif action == "delete":
            response = http.delete(path)
            expected = 404 if current is None else 204
        else:
            response = http.post("/file/upload", data={"folder": self._folder}, files={"file": (name, data)})
            expected = 201 if current is None else 409
        self.states[name] = {intended}
        self.acknowledged += 1
        if response.status_code != expected:
            self.violations.append(f"{action} of {name}: {response.status_code} {response.text}")


def check(http: httpx.Client, folder: str, states: dict[str, set[str | None]], hashes_in: HashesIn) -> None:
    found: dict[str, str | None] = {}
    for name, allowed in states.items():
        response = http.get(f"/files/{folder}/{name}")
        assert response.status_code in (200, 404), response.text
        found[name] = sha256(response.content) if response.status_code == 200 else None
        assert found[name] in allowed, f"{folder}/{name}: of {allowed}"
    assert hashes_in(http, folder) == {
        name: version for name, version in found.items() if version is not None
    }


def has_acknowledged(workers: list[Worker], changes: int) -> bool:
    return sum(worker.acknowledged for worker in workers) >= changes


@pytest.mark.campaign
def test_kill_at_random_moments_loses_no_acknowledged_change(
    filesystem_server: Server, hashes_in: HashesIn
) -> None:
    rng = random.Random()
    expected: dict[str, dict[str, set[str | None]]] = {}
    acknowledged = 0
    for turn in range(5):
        folder = f"turn-{turn}"
        workers = [Worker(filesystem_server, folder, number) for number in range(4)]
        for worker in workers:
            worker.start()
        until(partial(has_acknowledged, workers, 5), "the workers have made changes")
        time.sleep(rng.uniform(0, 0.9))
        filesystem_server.kill()
        for worker in workers:
            worker.join()
        filesystem_server.start()
        assert filesystem_server.staging() == []
        assert [worker.violations for worker in workers if worker.violations] == []
        acknowledged += sum(worker.acknowledged for worker in workers)
        expected[folder] = {name: state for worker in workers for name, state in worker.states.items()}
        with filesystem_server.client() as http:
            check(http, folder, expected[folder], hashes_in)
    with filesystem_server.client() as http:
        for folder, states in expected.items():
            check(http, folder, states, hashes_in)
            for name in states:
                # The name is usable, whatever the crash left there.
                assert http.put(f"/files/{folder}/{name}", content=OLD).status_code in (201, 204)
                assert http.delete(f"/files/{folder}/{name}").status_code == 204
            assert not (filesystem_server.files / folder).exists()
        assert http.get("/files").json()["folders"] == []
    assert acknowledged > 20, "too few changes were made before the kills"
    assert filesystem_server.staging() == []
    assert "Traceback" not in filesystem_server.log()
    assert '" 500' not in filesystem_server.log()


@pytest.mark.campaign
def test_kill_during_first_start_does_not_prevent_the_next(tmp_path: Path, hashes_in: HashesIn) -> None:
    """The schema and the library ID of the folder are complete, or the next start creates them."""
    for turn in range(3):
        server = Server(tmp_path / str(turn), storage="filesystem")
        killer = threading.Thread(target=_kill_during_start, args=(server, random.uniform(0, 0.2)))
        killer.start()
        with contextlib.suppress(AssertionError):  # killed before it was ready
            server.start()
        killer.join()
        try:
            server.start()
            with server.client() as http:
                assert http.put("/files/film.mp4", content=OLD).status_code == 201
                assert hashes_in(http, "") == {"film.mp4": sha256(OLD)}
                assert http.get("/health/ready").status_code == 200
        finally:
            server.stop()


def _kill_during_start(server: Server, delay: float) -> None:
    """Kill a starting server, `delay` seconds after it has created its folder."""
    deadline = time.monotonic() + 30
    while not (server.files / ".seekable").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(delay)
    server.kill()
