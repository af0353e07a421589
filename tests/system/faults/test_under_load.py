"""Many clients of every kind at once: each receives the right bytes, and the server keeps nothing of them."""

import contextlib
import hashlib
import os
import random
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.http.conftest import RawConnection
from tests.support import Server, on_disk_and_gridfs, running
from tests.support.beneath import beneath
from tests.system.faults.descriptors import descriptors
from tests.system.faults.test_disconnects import MOST_THREADS, threads

pytestmark = on_disk_and_gridfs

AT_ONCE = 16
FILM = random.Random(6).randbytes(5_000_000)

Reset = Callable[[socket.socket], None]
Until = Callable[..., bool]


def assert_equal(received: bytes, expected: bytes) -> None:
    """Compare without printing megabytes of difference."""
    assert len(received) == len(expected)
    assert hashlib.sha256(received).digest() == hashlib.sha256(expected).digest()


class Client:
    """A client that performs random actions, and changes only a file of its own."""

    def __init__(self, server: Server, folder: str, number: int, reset: Reset) -> None:
        self.server = server
        self.folder = f"/files/{folder}"
        self.film = f"{self.folder}/film.mp4"
        self.own_film = f"{self.folder}/{number}.mp4"
        self.stored: bytes | None = None
        self.random = random.Random(number)
        self.reset = reset

    def run(self, times: int) -> None:
        for _ in range(times):
            self.random.choice(
                [self.read, self.read_slowly, self.pipeline, self.pipeline, self.write, self.disconnect]
            )()

    def connect(self, buffer: int | None = None) -> closing[RawConnection]:
        return closing(RawConnection("127.0.0.1", self.server.port, buffer))

    def span(self) -> tuple[int, int, str]:
        start = self.random.randrange(len(FILM))
        stop = min(start + self.random.choice([1, 70_000, 1_500_000]), len(FILM))
        return start, stop, f"Range: bytes={start}-{stop - 1}"

    def read(self) -> None:
        with self.connect() as connection:
            for _ in range(2):
                connection.request("GET", self.film)
                assert_equal(connection.receive_response().content, FILM)

    def read_slowly(self) -> None:
        with self.connect(self.random.choice([4096, 65536])) as connection:
            connection.request("GET", self.film, "Range: bytes=0-2999999")
            for _ in range(10):
                time.sleep(0.02)
                connection.receive_more(5000)
            assert_equal(connection.receive_response().content, FILM[:3_000_000])

    def pipeline(self) -> None:
        """Send eight requests of random kinds, then read all responses."""
        with self.connect(self.random.choice([None, 16384])) as connection:
            expected = [self.send_request(connection, kind) for kind in self.random.choices(range(7), k=8)]
            for method, status, body in expected:
                response = connection.receive_response(method)
                assert response.status_code == status
                if body is not None:
                    assert_equal(response.content, body)

    def send_request(self, connection: RawConnection, kind: int) -> tuple[str, int, bytes | None]:
        """Send a request. Return its method, and the expected status and body (None: any body)."""
        start, stop, header = self.span()
        method, target, headers, body, status, response_body = [
            ("GET", self.film, (header,), None, 206, FILM[start:stop]),
            ("HEAD", self.film, (header,), None, 200, b""),
            ("GET", self.film, ("If-None-Match: *",), None, 304, b""),
            ("GET", self.film, (f"Range: bytes={len(FILM)}-",), None, 416, None),
            ("GET", f"{self.film}.none", (), None, 404, None),
            ("PUT", self.film, ("If-None-Match: *",), b"x" * 1000, 412, None),
            ("GET", self.film, ("Range: bytes=0-9,2000000-4000000",), None, 206, None),
        ][kind]
        connection.request(method, target, *headers, body=body)
        return method, status, response_body

    def write(self) -> None:
        body = self.random.randbytes(self.random.choice([0, 10, 300_000]))
        with self.connect() as connection:
            connection.request("PUT", self.own_film, body=body)
            assert connection.receive_response("PUT").status_code == (201 if self.stored is None else 204)
            self.stored = body
            connection.request("GET", self.own_film)
            assert_equal(connection.receive_response().content, body)

    def disconnect(self) -> None:
        """Disconnect at a random moment of an upload or of downloads."""
        with (
            self.connect(self.random.choice([4096, 65536, None])) as connection,
            contextlib.suppress(ConnectionError),
        ):
            if self.random.random() < 0.3:
                connection.request("PUT", f"{self.own_film}.cut", "Content-Length: 2000000")
                connection.send(b"x" * self.random.randrange(1_500_000))
            else:
                for _ in range(self.random.choice([1, 1, 5])):
                    connection.request("GET", self.film, *self.random.choice([(), (self.span()[2],)]))
                if self.random.random() < 0.5:
                    connection.socket.recv(self.random.randrange(1, 1_000_000))
            time.sleep(self.random.random() * 0.03)
            if self.random.random() < 0.5:
                self.reset(connection.socket)


def cpu_share(server: Server, seconds: float = 0.5) -> float:
    """Return the processor time of the server over some seconds, as a share of one processor."""

    def ticks() -> int:
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(seconds)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds


@pytest.mark.parametrize("times", [5, pytest.param(300, marks=pytest.mark.campaign)])
@pytest.mark.timeout(900)
def test_random_clients_get_right_bytes_and_leave_nothing(
    server: Server, folder: str, reset: Reset, until: Until, times: int
) -> None:
    with server.client() as http:
        http.put(f"/files/{folder}/film.mp4", content=FILM).raise_for_status()
    time.sleep(0.2)  # until the server has closed that connection
    before, log_start = descriptors(server), len(server.log())
    clients = [Client(server, folder, number, reset) for number in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda client: client.run(times), clients))
    assert until(lambda: descriptors(server) <= before), descriptors(server) - before
    assert until(lambda: not beneath(server).leftovers(), within=15)
    assert threads(server) <= MOST_THREADS
    assert cpu_share(server) < 0.5, "the idle server is in a busy loop"
    log = server.log()[log_start:]
    assert "Traceback" not in log
    assert " ERROR " not in log
    assert " WARNING " not in log
    with server.client() as http:
        assert http.get(f"/files/{folder}/film.mp4").content == FILM
        for client in clients:
            if client.stored is not None:
                assert http.get(client.own_film).content == client.stored


def test_hundreds_of_incomplete_heads_do_not_block_other_requests(tmp_path: Path, until: Until) -> None:
    with running(tmp_path, header_timeout=2) as server, server.client() as http, ExitStack() as stack:
        http.put("/files/film.mp4", content=FILM).raise_for_status()
        before = descriptors(server)
        began = time.monotonic()
        connections = [
            stack.enter_context(closing(RawConnection("127.0.0.1", server.port))) for _ in range(300)
        ]
        for connection in connections:
            connection.send(b"GET /files/film.mp4 HTTP/1.1\r\nHost: localhost\r\nX: ")
        assert until(lambda: descriptors(server)["socket"] >= before["socket"] + 300)
        longest = 0.0
        served = 0
        while descriptors(server)["socket"] > before["socket"]:
            assert time.monotonic() < began + 30
            for connection in connections:
                with contextlib.suppress(ConnectionError):
                    connection.send(b"y")
            expected = time.monotonic()
            assert http.get("/files/film.mp4").content == FILM
            longest = max(longest, time.monotonic() - expected)
            served += 1
        assert served > 3
        assert longest < 10, "slow heads blocked a request"
        for connection in connections:
            assert connection.receive_response().status_code == 408
