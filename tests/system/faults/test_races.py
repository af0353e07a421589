"""Many clients at once, and clients that leave: on every backend, but where the disk is named."""

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

Begin = Callable[..., socket.socket]
Until = Callable[..., bool]

CREATORS = 200
CLIENTS = 60
BIG = noise(24_000_000)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Race:
    """Requests that are sent but for their last byte, and then all at once."""

    def __init__(self, begin: Begin, server: Server) -> None:
        self._begin = begin
        self._server = server

    def run(self, requests: list[bytes]) -> list[httpx.Response]:
        start = threading.Barrier(len(requests))
        connections = [self._begin(self._server, request[:-1]) for request in requests]

        def finish(connection: socket.socket, request: bytes) -> httpx.Response:
            start.wait(30)
            connection.sendall(request[-1:])
            answer = b""
            while data := connection.recv(1 << 16):
                answer += data
            head, _, body = answer.partition(b"\r\n\r\n")
            status, *lines = head.decode("latin-1").split("\r\n")
            headers = [tuple(line.split(": ", 1)) for line in lines]
            return httpx.Response(int(status.split()[1]), headers=headers, content=body)  # type: ignore[arg-type]

        with ThreadPoolExecutor(len(requests)) as pool:
            return list(pool.map(finish, connections, requests))


@pytest.fixture
def race(begin: Begin, server: Server) -> Race:
    return Race(begin, server)


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
    """Different ones, of different lengths."""
    dice = random.Random()
    return [str(number).encode() + dice.randbytes(dice.randrange(20_000)) for number in range(count)]


def check_winner(
    server: Server, folder: str, datas: list[bytes], answers: list[httpx.Response], won: int
) -> None:
    """One request has this status, and what it sent is what is stored."""
    (winner,) = (number for number, answer in enumerate(answers) if answer.status_code == won)
    with server.client() as http:
        served = http.get(f"/files/{folder}/film.mp4")
        assert served.status_code == 200
        assert served.content == datas[winner]
        assert served.headers["etag"] == answers[winner].headers["etag"]
        assert served.headers["repr-digest"] == answers[winner].headers["repr-digest"]
        assert len(http.get("/files", params={"folder": folder}).json()["items"]) == 1
    check_staging(server)


def check_staging(server: Server, within: float = 15) -> None:
    deadline = time.monotonic() + within
    while (left := beneath(server).leftovers()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == set()


def statuses(answers: list[httpx.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


# One name


def test_forms_that_race_for_a_name(server: Server, folder: str, race: Race) -> None:
    datas = contents(CREATORS)
    answers = race.run([form(folder, "film.mp4", data) for data in datas])
    assert statuses(answers) == {201: 1, 409: CREATORS - 1}
    check_winner(server, folder, datas, answers, 201)


def test_puts_that_race_to_create(server: Server, folder: str, race: Race) -> None:
    datas = contents(CLIENTS)
    target = f"/files/{folder}/film.mp4"
    answers = race.run([request("PUT", target, data, "If-None-Match: *") for data in datas])
    assert statuses(answers) == {201: 1, 412: CLIENTS - 1}
    check_winner(server, folder, datas, answers, 201)


def test_puts_that_race_to_replace_one_version(server: Server, folder: str, race: Race) -> None:
    with server.client() as http:
        tag = http.put(f"/files/{folder}/film.mp4", content=b"old").headers["etag"]
    datas = contents(CLIENTS)
    target = f"/files/{folder}/film.mp4"
    answers = race.run([request("PUT", target, data, f"If-Match: {tag}") for data in datas])
    assert statuses(answers) == {204: 1, 412: CLIENTS - 1}
    check_winner(server, folder, datas, answers, 204)


def test_puts_that_race_without_conditions(server: Server, folder: str, race: Race) -> None:
    datas = contents(CLIENTS)
    answers = race.run([request("PUT", f"/files/{folder}/film.mp4", data) for data in datas])
    assert statuses(answers) == {201: 1, 204: CLIENTS - 1}
    with server.client() as http:
        served = http.get(f"/files/{folder}/film.mp4")
        assert served.content in datas
        (last,) = (answer for answer, data in zip(answers, datas, strict=True) if data == served.content)
        assert served.headers["etag"] == last.headers["etag"]
    check_staging(server)


def test_deletions_that_race(server: Server, folder: str, race: Race) -> None:
    with server.client() as http:
        http.put(f"/files/{folder}/film.mp4", content=b"old").raise_for_status()
    target = f"/files/{folder}/film.mp4"
    answers = race.run([request("DELETE", target, b"", f"X: {number}") for number in range(40)])
    assert statuses(answers) == {204: 1, 404: 39}


def test_puts_and_deletions_that_race(server: Server, folder: str) -> None:
    """Without a condition a PUT creates or replaces, whatever else happens to the name at that moment."""
    target = f"/files/{folder}/film.mp4"

    def change(number: int) -> set[tuple[str, int]]:
        seen = set()
        with server.client() as http:
            for turn in range(16):
                method, content = ("PUT", b"data") if (number + turn) % 2 else ("DELETE", None)
                seen.add((method, http.request(method, target, content=content).status_code))
        return seen

    with ThreadPoolExecutor(8) as pool:
        seen = set().union(*pool.map(change, range(8)))
    assert seen <= {("PUT", 201), ("PUT", 204), ("DELETE", 204), ("DELETE", 404)}
    assert ("PUT", 201) in seen


def test_a_file_and_a_folder_that_race_for_a_path(server: Server, folder: str, race: Race) -> None:
    requests = [
        request(
            "PUT", f"/files/{folder}/x" + ("/below.mp4" if number % 2 else ""), b"data", "If-None-Match: *"
        )
        for number in range(40)
    ]
    answers = race.run(requests)
    seen = statuses(answers)
    assert seen[201] == 1
    assert set(seen) <= {201, 409, 412}
    with server.client() as http:
        there = [http.get(f"/files/{folder}/x{below}").status_code for below in ("", "/below.mp4")]
        assert there in ([200, 404], [308, 200])  # a folder redirects to the path with its slash
        http.delete(f"/files/{folder}/x/below.mp4")
    check_staging(server)


def test_a_file_and_a_folder_that_come_and_go_at_one_path(server: Server, folder: str) -> None:
    """What stands in the way may be gone a moment later: that is a conflict or none, and no fault."""

    def change(number: int) -> set[tuple[str, int]]:
        seen = set()
        path = f"/files/{folder}/x" + ("/below.mp4" if number % 2 else "")
        with server.client() as http:
            for turn in range(20):
                method, content = ("DELETE", None) if turn % 2 else ("PUT", b"data")
                seen.add((method, http.request(method, path, content=content).status_code))
            seen.add(("GET", http.get(path).status_code))
        return seen

    with ThreadPoolExecutor(8) as pool:
        seen = set().union(*pool.map(change, range(8)))
    expected = {"PUT": {201, 204, 409}, "DELETE": {204, 404}, "GET": {200, 308, 404}}
    assert {(method, status) for method, status in seen if status not in expected[method]} == set()
    with server.client() as http:
        http.delete(f"/files/{folder}/x/below.mp4")
    check_staging(server)


def test_changes_of_many_kinds_leave_one_whole_version(server: Server, folder: str) -> None:
    """Readers meet a whole version or none, whatever is done to the name meanwhile."""
    versions = {sha256(data): data for data in (bytes([n]) * (100_000 + n) for n in range(20))}
    over = threading.Event()
    strange: list[str] = []

    def change(number: int) -> None:
        dice = random.Random(number)
        with server.client() as http:
            for _ in range(15):
                data = dice.choice(list(versions.values()))
                action = dice.choice(["put", "put", "form", "delete"])
                if action == "put":
                    response = http.put(f"/files/{folder}/film.mp4", content=data)
                elif action == "delete":
                    response = http.delete(f"/files/{folder}/film.mp4")
                else:
                    files = {"file": ("film.mp4", data)}
                    response = http.post("/file/upload", data={"folder": folder}, files=files)
                allowed = {"put": (201, 204), "delete": (204, 404), "form": (201, 409)}[action]
                if response.status_code not in allowed:
                    strange.append(f"{action}: {response.status_code} {response.text}")

    def read() -> int:
        whole = 0
        with server.client() as http:
            while not over.is_set():
                response = http.get(f"/files/{folder}/film.mp4")
                if response.status_code == 200 and sha256(response.content) in versions:
                    whole += 1
                    if response.headers["etag"] != f'"{sha256(response.content)}"':
                        strange.append("the ETag is that of another version")
                elif response.status_code != 404:
                    strange.append(f"read: {response.status_code} {len(response.content)} bytes")
        return whole

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        changes = [pool.submit(change, number) for number in range(5)]
        try:
            for job in changes:
                job.result()
        finally:
            over.set()
        assert sum(job.result() for job in readers) > 0
    assert strange == []
    check_staging(server)


# Readers


class SlowReader:
    """Reads a file, at first only a little of it: most is neither sent nor in a buffer."""

    def __init__(self, begin: Begin, server: Server, target: str) -> None:
        head = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        self._connection = begin(server, head.encode(), buffer=1 << 16)
        self._answer = b""
        while len(self._answer) < 100_000:
            self._answer += self._connection.recv(1 << 14)

    def rest(self) -> tuple[bytes, bytes]:
        """Head and body."""
        pieces = [self._answer]
        while data := self._connection.recv(1 << 18):
            pieces.append(data)
        head, _, body = b"".join(pieces).partition(b"\r\n\r\n")
        return head, body


@pytest.mark.parametrize("change", ["replace", "delete", "replace and delete", "delete and create"])
def test_a_slow_reader_gets_the_version_that_it_began(
    server: Server, folder: str, begin: Begin, change: str
) -> None:
    target = f"/files/{folder}/film.mp4"
    with server.client() as http:
        file = http.put(target, content=BIG).json()
        readers = [SlowReader(begin, server, path) for path in (target, target, f"/stream/{file['id']}")]
        for step in change.split(" and "):
            if step == "delete":
                assert http.delete(target).status_code == 204
                assert http.get(target).status_code == 404
            else:
                assert http.put(target, content=b"new").status_code == (204 if step == "replace" else 201)
                assert http.get(target).content == b"new"
        for reader in readers:
            head, body = reader.rest()
            assert head.startswith(b"HTTP/1.1 200")
            assert file["etag"].encode() in head
            assert sha256(body) == sha256(BIG)
        after = http.get(target)
        assert after.status_code == (404 if change.endswith("delete") else 200)


def test_a_replacement_in_the_middle_of_a_download_in_ranges(server: Server, folder: str) -> None:
    target, step = f"/files/{folder}/film.mp4", 3_000_000
    new = BIG[::-1]
    with server.client() as http:
        tag = http.put(target, content=BIG).headers["etag"]
        got = b""
        while len(got) < len(BIG):
            if len(got) == 4 * step:
                assert http.put(target, content=new).status_code == 204
            wanted = {"range": f"bytes={len(got)}-{len(got) + step - 1}", "if-range": tag}
            response = http.get(target, headers=wanted)
            if response.status_code == 200:  # what was begun is no longer there: begin again
                got = response.content
                tag = response.headers["etag"]
                break
            assert response.status_code == 206
            assert response.headers["etag"] == tag
            got += response.content
        assert sha256(got) == sha256(new)
        # With If-Match, as VLC seeks, the client is told.
        assert (
            http.get(target, headers={"range": "bytes=0-9", "if-match": f'"{sha256(BIG)}"'}).status_code
            == 412
        )
        assert http.get(target, headers={"range": "bytes=0-9", "if-match": tag}).content == new[:10]


# Clients that leave


@pytest.fixture
def baseline(server: Server, folder: str) -> Iterator[Counter[str]]:
    """What is open when nobody is connected, after there was some work; and the log has no traceback."""
    with server.client() as http:
        http.put(f"/files/{folder}/film.mp4", content=BIG).raise_for_status()
    time.sleep(0.2)
    before, said = descriptors(server), len(server.log())
    yield before
    assert "Traceback" not in server.log()[said:]
    assert "ERROR" not in server.log()[said:]


def check_back(server: Server, baseline: Counter[str], until: Until) -> None:
    assert until(lambda: descriptors(server) <= baseline), descriptors(server) - baseline
    check_staging(server)
    with server.client() as http:
        assert http.get("/health/ready").status_code == 200


@pytest.mark.campaign
@pytest.mark.parametrize("way", ["put", "chunked put", "form"])
@pytest.mark.parametrize("rude", [False, True], ids=["closing", "resetting"])
def test_clients_that_leave_in_the_middle_of_an_upload(
    server: Server,
    folder: str,
    begin: Begin,
    until: Until,
    reset: Callable[[socket.socket], None],
    baseline: Counter[str],
    way: str,
    rude: bool,
) -> None:
    leaving = []
    for number in range(CLIENTS):
        whole = (
            form(folder, f"{number}.mp4", BIG[:1_000_000])
            if way == "form"
            else request("PUT", f"/files/{folder}/{number}.mp4", BIG[:1_000_000])
        )
        if way == "chunked put":
            whole = whole.replace(b"Content-Length: 1000000\r\n", b"Transfer-Encoding: chunked\r\n")
            whole = whole.replace(b"\r\n\r\n", b"\r\n\r\nf4240\r\n", 1)
        # From nothing of the body to nearly all of it.
        leaving.append(begin(server, whole[: 400 + number * 9_900]))
    assert until(lambda: len(beneath(server).leftovers()) > CLIENTS * 0.9), "they were under way"
    for connection in leaving:
        reset(connection) if rude else connection.close()
    check_back(server, baseline, until)
    with server.client() as http:
        page = http.get("/files", params={"folder": folder}).json()
        assert [item["filename"] for item in page["items"]] == ["film.mp4"]
        # None of the names is taken.
        for number in (0, 50, CLIENTS - 1):
            assert http.put(f"/files/{folder}/{number}.mp4", content=b"x").status_code == 201


@pytest.mark.campaign
@pytest.mark.parametrize("rude", [False, True], ids=["closing", "resetting"])
@pytest.mark.parametrize("header", ["X: y", "Range: bytes=1000-", "Range: bytes=0-9000000,10000000-23000000"])
def test_clients_that_leave_in_the_middle_of_a_download(
    server: Server,
    folder: str,
    begin: Begin,
    until: Until,
    reset: Callable[[socket.socket], None],
    baseline: Counter[str],
    rude: bool,
    header: str,
) -> None:
    head = f"GET /files/{folder}/film.mp4 HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n".encode()
    leaving = [begin(server, head, buffer=1 << 16) for _ in range(CLIENTS)]
    for connection in leaving:
        assert connection.recv(1 << 14).startswith(b"HTTP/1.1 20")
    assert sum((descriptors(server) - baseline).values()) >= CLIENTS, "they were under way"
    for connection in leaving:
        reset(connection) if rude else connection.close()
    check_back(server, baseline, until)
    with server.client() as http:
        assert sha256(http.get(f"/files/{folder}/film.mp4").content) == sha256(BIG)


def test_clients_that_say_nothing(server: Server, begin: Begin, until: Until, baseline: Counter[str]) -> None:
    beginnings: list[Any] = [
        b"",
        b"G",
        b"GET /files",
        b"GET /files HTTP/1.1\r\n",
        b"GET /files HTTP/1.1\r\nHost: loc",
    ]
    waiting = [begin(server, beginnings[number % 5]) for number in range(CLIENTS)]
    with server.client() as http:
        assert http.get("/health/ready").status_code == 200
    for connection in waiting:
        connection.close()
    check_back(server, baseline, until)
