"""Repeated answers whose rest is still being sent: slow readers, deadlines, shutdown, the log and metrics."""

import json
import random
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.http.conftest import RawConnection
from tests.http.test_metrics import read_metrics
from tests.support import Server, running
from tests.system.faults.descriptors import descriptors
from tests.system.live.clients import until

pytestmark = pytest.mark.live

FILM = random.Random(17).randbytes(12_000_000)  # much more than the buffers of a connection
QUIET_S = 2.1
"""Seconds after an upload before the file is opened from the cache, and its answers are repeated."""

SEND_TIMEOUT = 1
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextmanager
def serving_film(folder: Path, **settings: object) -> Iterator[Server]:
    """Run a server with a film whose answers can be repeated. Fails if it logs an error."""
    with running(folder, log_format="json", **settings) as server:
        with server.client() as http:
            http.put("/files/film.mp4", content=FILM).raise_for_status()
        time.sleep(QUIET_S)
        yield server
        assert "Traceback" not in server.log()
        assert '"ERROR"' not in server.log()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving_film(tmp_path_factory.mktemp("repeated"), send_timeout=SEND_TIMEOUT) as server:
        yield server


def requested(first: int, last: int | str = "", name: str = "") -> bytes:
    lines = ["GET /files/film.mp4 HTTP/1.1", "Host: localhost", f"Range: bytes={first}-{last}"]
    return "\r\n".join([*lines, *([f"X-Request-ID: {name}"] if name else []), "", ""]).encode()


def metric(server: Server, name: str) -> int:
    with server.client() as http:
        return int(read_metrics(http)[name])


def repeated(server: Server) -> int:
    return metric(server, "seekable_http_repeated_total")


def receive_to_end(connection: RawConnection) -> tuple[int, bool]:
    """Receive until the connection ends. Returns the number of bytes, and whether it was reset."""
    received = 0
    try:
        while data := connection.socket.recv(1 << 20):
            received += len(data)
    except ConnectionResetError:
        return received, True
    return received, False


@contextmanager
def begun(server: Server, first: int = 0, name: str = "") -> Iterator[RawConnection]:
    """Request the film from this byte to its end, with a small receive buffer, on the fast path."""
    with closing(RawConnection("127.0.0.1", server.port, 4096)) as connection:
        for start in range(2):  # the first opens the file, the second is kept
            connection.send(requested(start, 9, name and "another"))
            assert connection.receive_response().content == FILM[start:10]
        before = repeated(server)
        connection.send(requested(first, name=name))
        until(lambda: repeated(server) == before + 1, "the answer is repeated")
        yield connection


def test_segment_with_the_beginning_of_another_request_is_read_to_its_end(server: Server) -> None:
    """The first answer to such a segment must not be kept: a repetition would lose what follows."""
    with closing(RawConnection("127.0.0.1", server.port)) as connection:
        for number in range(3):
            connection.send(requested(number, number) + HEALTH[:10])
            assert connection.receive_response().content == FILM[number : number + 1]
            connection.send(HEALTH[10:])
            assert b'"ok"' in connection.receive_response().content


def test_body_of_refused_upload_is_not_taken_for_a_repeated_request(server: Server) -> None:
    """Its sender may be a proxy whose client chose the body."""
    smuggled = requested(3, 5)
    with closing(RawConnection("127.0.0.1", server.port)) as connection:
        for _ in range(3):
            connection.send(smuggled)
            assert connection.receive_response().content == FILM[3:6]
        length = f"Content-Length: {len(smuggled)}"
        connection.request("PUT", "/files/film.mp4", "If-None-Match: *", length)
        assert connection.receive_response().status_code == 412
        connection.send(smuggled)
        connection.send(HEALTH)
        assert b'"ok"' in connection.receive_response().content


def test_slow_reader_gets_all_bytes_and_then_the_next_response(server: Server) -> None:
    with begun(server, 7) as connection:
        connection.send(requested(1, 2) + HEALTH)
        end = time.monotonic() + 2 * SEND_TIMEOUT
        while time.monotonic() < end:
            connection.receive_more(12_000)
            time.sleep(0.1)
        response = connection.receive_response()
        assert response.headers["content-range"] == f"bytes 7-{len(FILM) - 1}/{len(FILM)}"
        assert response.content == FILM[7:]
        assert connection.receive_response().content == FILM[1:3]
        assert b'"ok"' in connection.receive_response().content


def test_reader_that_stalls_is_reset_and_leaves_nothing_open(server: Server) -> None:
    with closing(RawConnection("127.0.0.1", server.port)) as connection:
        connection.send(HEALTH)
        connection.receive_response()
    time.sleep(0.2)
    before = descriptors(server)
    with begun(server) as connection:
        assert metric(server, "seekable_active_streams") == 1
        until(lambda: metric(server, "seekable_active_streams") == 0, "the response has ended")
        received, was_reset = receive_to_end(connection)
        assert was_reset
        assert received < len(FILM)
    until(lambda: descriptors(server) <= before, "its descriptors are closed")


def test_client_that_leaves_ends_response_and_its_record_has_the_id(server: Server) -> None:
    with begun(server, 5, name="the-one") as connection:
        connection.receive_more(100)
    until(lambda: '"id": "the-one"' in server.log(), "the response is logged")
    (record,) = (json.loads(line) for line in server.log().splitlines() if '"id": "the-one"' in line)
    assert record["status"] == 206
    assert 0 < record["bytes"] < len(FILM) - 5


@pytest.mark.parametrize("reads", [True, False])
def test_shutdown_waits_for_reader_within_its_timeout(tmp_path: Path, reads: bool) -> None:
    timeout = 20 if reads else 1
    with serving_film(tmp_path, shutdown_timeout=timeout) as server, begun(server, 3) as connection:
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "Stopping" in server.log(), "the server stops")
        if reads:
            assert connection.receive_response().content == FILM[3:]
            assert connection.is_closed()
        assert server.process.wait(timeout=10) == 0
        if not reads:
            received, _ = receive_to_end(connection)
            assert received < len(FILM)
