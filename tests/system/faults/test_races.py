"""Many clients at once, and clients that disconnect. On every backend."""

import hashlib
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support import Server, noise, on_disk_and_gridfs
from tests.support.beneath import beneath
from tests.system.faults.descriptors import descriptors

pytestmark = on_disk_and_gridfs

StartRequest = Callable[..., socket.socket]
Until = Callable[..., bool]

CREATORS = 80
CLIENTS = 60
BIG = noise(24_000_000)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Race:
    """Requests that a server receives at the same time: all their last bytes are sent at once."""

    def __init__(self, start_request: StartRequest, server: Server) -> None:
        self._start_request = start_request
        self._server = server

    def run(self, requests: list[bytes]) -> list[httpx.Response]:
        start = threading.Barrier(len(requests))
        connections = [self._start_request(self._server, request[:-1]) for request in requests]

        def finish(connection: socket.socket, request: bytes) -> httpx.Response:
            start.wait(30)
            connection.sendall(request[-1:])
            response = b""
            while data := connection.recv(1 << 16):
                response += data
            head, _, body = response.partition(b"\r\n\r\n")
            status, *lines = head.decode("latin-1").split("\r\n")
            headers = [tuple(line.split(": ", 1)) for line in lines]
            return httpx.Response(int(status.split()[1]), headers=headers, content=body)  # type: ignore[arg-type]

        with ThreadPoolExecutor(len(requests)) as pool:
            return list(pool.map(finish, connections, requests))


@pytest.fixture
def race(start_request: StartRequest, server: Server) -> Race:
    return Race(start_request, server)


def request(method: str, target: str, body: bytes, *headers: str) -> bytes:
    lines = (
        f"{method} {target} HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def form(folder: str, name: str, data: bytes) -> bytes:
    part = f'--xxx\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    kind = "Content-Type: multipart/form-data; boundary=xxx"
    return request("POST", f"/file/upload?folder={folder}", part + data + b"\r\n--xxx--", kind)


def contents(count: int) -> list[bytes]:
    """Return different contents, of different lengths."""
    rng = random.Random()
    return [str(number).encode() + rng.randbytes(rng.randrange(20_000)) for number in range(count)]


def check_winner(
    server: Server, folder: str, bodies: list[bytes], responses: list[httpx.Response], won: int
) -> None:
    """Assert that one response has the status `won`, and that the content of its request is stored."""
    (winner,) = (number for number, response in enumerate(responses) if response.status_code == won)
    with server.client() as http:
        served = http.get(f"/files/{folder}/film.mp4")
        assert served.status_code == 200
        assert served.content == bodies[winner]
        assert served.headers["etag"] == responses[winner].headers["etag"]
        assert served.headers["repr-digest"] == responses[winner].headers["repr-digest"]
        assert len(http.get("/files", params={"folder": folder}).json()["items"]) == 1
    check_no_leftovers(server)


def check_no_leftovers(server: Server, within: float = 15) -> None:
    deadline = time.monotonic() + within
    while (left := beneath(server).leftovers()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == set()


def statuses(responses: list[httpx.Response]) -> Counter[int]:
    return Counter(response.status_code for response in responses)


# One name


def test_one_of_racing_forms_wins(server: Server, folder: str, race: Race) -> None:
    bodies = contents(CREATORS)
    responses = race.run([form(folder, "film.mp4", data) for data in bodies])
    assert statuses(responses) == {201: 1, 409: CREATORS - 1}
    check_winner(server, folder, bodies, responses, 201)


def test_one_of_racing_puts_creates(server: Server, folder: str, race: Race) -> None:
    bodies = contents(CLIENTS)
    target = f"/files/{folder}/film.mp4"
    responses = race.run([request("PUT", target, data, "If-None-Match: *") for data in bodies])
    assert statuses(responses) == {201: 1, 412: CLIENTS - 1}
    check_winner(server, folder, bodies, responses, 201)


def test_one_of_racing_puts_replaces_a_version(server: Server, folder: str, race: Race) -> None:
    with server.client() as http:
        tag = http.put(f"/files/{folder}/film.mp4", content=b"old").headers["etag"]
    bodies = contents(CLIENTS)
    target = f"/files/{folder}/film.mp4"
    responses = race.run([request("PUT", target, data, f"If-Match: {tag}") for data in bodies])
    assert statuses(responses) == {204: 1, 412: CLIENTS - 1}
    check_winner(server, folder, bodies, responses, 204)


def test_all_racing_puts_without_conditions_succeed(server: Server, folder: str, race: Race) -> None:
    bodies = contents(CLIENTS)
    responses = race.run([request("PUT", f"/files/{folder}/film.mp4", data) for data in bodies])
    assert statuses(responses) == {201: 1, 204: CLIENTS - 1}
    with server.client() as http:
        served = http.get(f"/files/{folder}/film.mp4")
        assert served.content in bodies
        (last,) = (
            response for response, data in zip(responses, bodies, strict=True) if data == served.content
        )
        assert served.headers["etag"] == last.headers["etag"]
    check_no_leftovers(server)


def test_one_of_racing_deletions_succeeds(server: Server, folder: str, race: Race) -> None:
    with server.client() as http:
        http.put(f"/files/{folder}/film.mp4", content=b"old").raise_for_status()
    target = f"/files/{folder}/film.mp4"
    responses = race.run([request("DELETE", target, b"", f"X: {number}") for number in range(40)])
    assert statuses(responses) == {204: 1, 404: 39}


def test_racing_puts_and_deletions_never_conflict(server: Server, folder: str) -> None:
    """A PUT without conditions creates or replaces, whatever other requests do to the name meanwhile."""
    target = f"/files/{folder}/film.mp4"

    def change(number: int) -> set[tuple[str, int]]:
        outcomes = set()
        with server.client() as http:
            for turn in range(16):
                method, content = ("PUT", b"data") if (number + turn) % 2 else ("DELETE", None)
                outcomes.add((method, http.request(method, target, content=content).status_code))
        return outcomes

    with ThreadPoolExecutor(8) as pool:
        outcomes = set().union(*pool.map(change, range(8)))
    assert outcomes <= {("PUT", 201), ("PUT", 204), ("DELETE", 204), ("DELETE", 404)}
    assert ("PUT", 201) in outcomes


def test_racing_file_and_folder_are_not_both_created(server: Server, folder: str, race: Race) -> None:
    requests = [
        request(
            "PUT", f"/files/{folder}/x" + ("/below.mp4" if number % 2 else ""), b"data", "If-None-Match: *"
        )
        for number in range(40)
    ]
    responses = race.run(requests)
    outcomes = statuses(responses)
    assert outcomes[201] == 1
    assert set(outcomes) <= {201, 409, 412}
    with server.client() as http:
        found = [http.get(f"/files/{folder}/x{below}").status_code for below in ("", "/below.mp4")]
        assert found in ([200, 404], [308, 200])  # a folder redirects to the path with its slash
        http.delete(f"/files/{folder}/x/below.mp4")
    check_no_leftovers(server)


def test_file_and_folder_that_alternate_at_a_path_cause_no_error(server: Server, folder: str) -> None:
    """A conflicting file or folder may vanish at any moment: the response is 409 or a success, never 5xx."""

    def change(number: int) -> set[tuple[str, int]]:
        outcomes = set()
        path = f"/files/{folder}/x" + ("/below.mp4" if number % 2 else "")
        with server.client() as http:
            for turn in range(20):
                method, content = ("DELETE", None) if turn % 2 else ("PUT", b"data")
                outcomes.add((method, http.request(method, path, content=content).status_code))
            outcomes.add(("GET", http.get(path).status_code))
        return outcomes

    with ThreadPoolExecutor(8) as pool:
        outcomes = set().union(*pool.map(change, range(8)))
    expected = {"PUT": {201, 204, 409}, "DELETE": {204, 404}, "GET": {200, 308, 404}}
    assert {(method, status) for method, status in outcomes if status not in expected[method]} == set()
    with server.client() as http:
        http.delete(f"/files/{folder}/x/below.mp4")
    check_no_leftovers(server)


def test_readers_get_whole_versions_during_changes_of_many_kinds(server: Server, folder: str) -> None:
    """A reader receives a whole version or a 404, whatever changes the name meanwhile."""
    versions = {sha256(data): data for data in (bytes([n]) * (100_000 + n) for n in range(20))}
    stop = threading.Event()
    violations: list[str] = []

    def change(number: int) -> None:
        rng = random.Random(number)
        with server.client() as http:
            for _ in range(15):
                data = rng.choice(list(versions.values()))
                action = rng.choice(["put", "put", "form", "delete"])
                if action == "put":
                    response = http.put(f"/files/{folder}/film.mp4", content=data)
                elif action == "delete":
                    response = http.delete(f"/files/{folder}/film.mp4")
                else:
                    files = {"file": ("film.mp4", data)}
                    response = http.post("/file/upload", data={"folder": folder}, files=files)
                allowed = {"put": (201, 204), "delete": (204, 404), "form": (201, 409)}[action]
                if response.status_code not in allowed:
                    violations.append(f"{action}: {response.status_code} {response.text}")

    def read() -> int:
        whole = 0
        with server.client() as http:
            while not stop.is_set():
                response = http.get(f"/files/{folder}/film.mp4")
                if response.status_code == 200 and sha256(response.content) in versions:
                    whole += 1
                    if response.headers["etag"] != f'"{sha256(response.content)}"':
                        violations.append("the ETag is that of another version")
                elif response.status_code != 404:
                    violations.append(f"read: {response.status_code} {len(response.content)} bytes")
        return whole

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        changes = [pool.submit(change, number) for number in range(5)]
        try:
            for job in changes:
                job.result()
        finally:
            stop.set()
        assert sum(job.result() for job in readers) > 0
    assert violations == []
    check_no_leftovers(server)


# Readers


class SlowReader:
    """A client that reads the start of a file, so that most of it is neither sent nor buffered."""

    def __init__(self, start_request: StartRequest, server: Server, target: str) -> None:
        head = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        self._connection = start_request(server, head.encode(), buffer=1 << 16)
        self._answer = b""
        while len(self._answer) < 100_000:
            self._answer += self._connection.recv(1 << 14)

    def read_to_end(self) -> tuple[bytes, bytes]:
        """Read the rest. Return head and body of the response."""
        pieces = [self._answer]
        while data := self._connection.recv(1 << 18):
            pieces.append(data)
        head, _, body = b"".join(pieces).partition(b"\r\n\r\n")
        return head, body


@pytest.mark.parametrize("change", ["replace", "delete", "replace and delete", "delete and create"])
def test_slow_reader_gets_the_version_that_it_began(
    server: Server, folder: str, start_request: StartRequest, change: str
) -> None:
    target = f"/files/{folder}/film.mp4"
    with server.client() as http:
        file = http.put(target, content=BIG).json()
        readers = [
            SlowReader(start_request, server, path) for path in (target, target, f"/stream/{file['id']}")
        ]
        for step in change.split(" and "):
            if step == "delete":
                assert http.delete(target).status_code == 204
                assert http.get(target).status_code == 404
            else:
                assert http.put(target, content=b"new").status_code == (204 if step == "replace" else 201)
                assert http.get(target).content == b"new"
        for reader in readers:
            head, body = reader.read_to_end()
            assert head.startswith(b"HTTP/1.1 200")
            assert file["etag"].encode() in head
            assert sha256(body) == sha256(BIG)
        after = http.get(target)
        assert after.status_code == (404 if change.endswith("delete") else 200)


def test_replacement_restarts_a_download_in_ranges(server: Server, folder: str) -> None:
    target, step = f"/files/{folder}/film.mp4", 3_000_000
    new = BIG[::-1]
    with server.client() as http:
        tag = http.put(target, content=BIG).headers["etag"]
        received = b""
        while len(received) < len(BIG):
            if len(received) == 4 * step:
                assert http.put(target, content=new).status_code == 204
            headers = {"range": f"bytes={len(received)}-{len(received) + step - 1}", "if-range": tag}
            response = http.get(target, headers=headers)
            if response.status_code == 200:  # the version was replaced: start again
                received = response.content
                tag = response.headers["etag"]
                break
            assert response.status_code == 206
            assert response.headers["etag"] == tag
            received += response.content
        assert sha256(received) == sha256(new)
        # VLC seeks with If-Match, and gets a 412.
        assert (
            http.get(target, headers={"range": "bytes=0-9", "if-match": f'"{sha256(BIG)}"'}).status_code
            == 412
        )
        assert http.get(target, headers={"range": "bytes=0-9", "if-match": tag}).content == new[:10]


# Clients that disconnect


@pytest.fixture
def baseline(server: Server, folder: str) -> Iterator[Counter[str]]:
    """Yield the open descriptors of the idle server. Assert afterwards that it has logged no error."""
    with server.client() as http:
        http.put(f"/files/{folder}/film.mp4", content=BIG).raise_for_status()
    time.sleep(0.2)
    before, log_start = descriptors(server), len(server.log())
    yield before
    assert "Traceback" not in server.log()[log_start:]
    assert "ERROR" not in server.log()[log_start:]


def check_idle(server: Server, baseline: Counter[str], until: Until) -> None:
    assert until(lambda: descriptors(server) <= baseline), descriptors(server) - baseline
    check_no_leftovers(server)
    with server.client() as http:
        assert http.get("/health/ready").status_code == 200


@pytest.mark.campaign
@pytest.mark.parametrize("method", ["put", "chunked put", "form"])
@pytest.mark.parametrize("resets", [False, True], ids=["closing", "resetting"])
def test_disconnects_during_uploads_leave_nothing(
    server: Server,
    folder: str,
    start_request: StartRequest,
    until: Until,
    reset: Callable[[socket.socket], None],
    baseline: Counter[str],
    method: str,
    resets: bool,
) -> None:
    connections = []
    for number in range(CLIENTS):
        whole = (
            form(folder, f"{number}.mp4", BIG[:1_000_000])
            if method == "form"
            else request("PUT", f"/files/{folder}/{number}.mp4", BIG[:1_000_000])
        )
        if method == "chunked put":
            whole = whole.replace(b"Content-Length: 1000000\r\n", b"Transfer-Encoding: chunked\r\n")
            whole = whole.replace(b"\r\n\r\n", b"\r\n\r\nf4240\r\n", 1)
        # From nothing of the body to nearly all of it.
        connections.append(start_request(server, whole[: 400 + number * 9_900]))
    assert until(lambda: len(beneath(server).leftovers()) > CLIENTS * 0.9), "not all transfers began"
    for connection in connections:
        reset(connection) if resets else connection.close()
    check_idle(server, baseline, until)
    with server.client() as http:
        page = http.get("/files", params={"folder": folder}).json()
        assert [item["filename"] for item in page["items"]] == ["film.mp4"]
        # The names are free.
        for number in (0, 50, CLIENTS - 1):
            assert http.put(f"/files/{folder}/{number}.mp4", content=b"x").status_code == 201


@pytest.mark.campaign
@pytest.mark.parametrize("resets", [False, True], ids=["closing", "resetting"])
@pytest.mark.parametrize("header", ["X: y", "Range: bytes=1000-", "Range: bytes=0-9000000,10000000-23000000"])
def test_disconnects_during_downloads_leave_nothing(
    server: Server,
    folder: str,
    start_request: StartRequest,
    until: Until,
    reset: Callable[[socket.socket], None],
    baseline: Counter[str],
    resets: bool,
    header: str,
) -> None:
    head = f"GET /files/{folder}/film.mp4 HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n".encode()
    connections = [start_request(server, head, buffer=1 << 16) for _ in range(CLIENTS)]
    for connection in connections:
        assert connection.recv(1 << 14).startswith(b"HTTP/1.1 20")
    assert sum((descriptors(server) - baseline).values()) >= CLIENTS, "not all transfers began"
    for connection in connections:
        reset(connection) if resets else connection.close()
    check_idle(server, baseline, until)
    with server.client() as http:
        assert sha256(http.get(f"/files/{folder}/film.mp4").content) == sha256(BIG)


def test_idle_connections_do_not_block_others_and_leave_nothing(
    server: Server, start_request: StartRequest, until: Until, baseline: Counter[str]
) -> None:
    beginnings: list[Any] = [
        b"",
        b"G",
        b"GET /files",
        b"GET /files HTTP/1.1\r\n",
        b"GET /files HTTP/1.1\r\nHost: loc",
    ]
    connections = [start_request(server, beginnings[number % 5]) for number in range(CLIENTS)]
    with server.client() as http:
        assert http.get("/health/ready").status_code == 200
    for connection in connections:
        connection.close()
    check_idle(server, baseline, until)
