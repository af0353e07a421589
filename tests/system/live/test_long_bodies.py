"""Long bodies bypass the HTTP parser: the server reads them whole, and no byte of the next request."""

import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import pytest

from app.server.http_connection import BODY_BUFFER_SIZE, LONG_BODY
from tests.http.conftest import RawConnection
from tests.system.live.clients import forked_python
from tests.system.live.test_zerocopy import check_equal, server_code

pytestmark = pytest.mark.live

BODY_TIMEOUT_S = 1
BYTES = random.Random(7).randbytes(3 * BODY_BUFFER_SIZE + LONG_BODY)
SIZES = [
    LONG_BODY,
    LONG_BODY + 1,
    BODY_BUFFER_SIZE,
    BODY_BUFFER_SIZE + 1,
    2 * BODY_BUFFER_SIZE + 17,
    len(BYTES),
]


@dataclass
class Uploads:
    """A server on one of the two event loops."""

    port: int

    def connect(self, buffer: int | None = None) -> RawConnection:
        return RawConnection("127.0.0.1", self.port, buffer)

    def check_stored(self, name: str, body: bytes) -> None:
        with closing(self.connect()) as connection:
            connection.request("GET", f"/files/{name}")
            check_equal(connection.receive_response().content, body)


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def uploads(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uploads]:
    folder = tmp_path_factory.mktemp("uploads") / "workdir"
    folder.mkdir()
    settings = {"SEEKABLE_FILES_DIR": str(folder / "files"), "SEEKABLE_BODY_TIMEOUT": str(BODY_TIMEOUT_S)}
    code = server_code(f"loop='{request.param}'")
    with forked_python(folder, code, **settings) as started:
        yield Uploads(int(started.wait_for(r"running on http://127\.0\.0\.1:(\d+)")[1]))
        assert "Traceback" not in started.log()


def put(name: str, body: bytes, *headers: str) -> bytes:
    lines = (f"PUT /files/{name} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers)
    return "\r\n".join((*lines, "", "")).encode() + body


def get(name: str) -> bytes:
    return f"GET /files/{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def test_request_after_long_body_is_answered(uploads: Uploads) -> None:
    names = [f"{size}.bin" for size in SIZES]
    stream = b"".join(put(name, BYTES[:size]) + get(name) for name, size in zip(names, SIZES, strict=True))
    with closing(uploads.connect()) as connection, ThreadPoolExecutor(1) as sender:
        sending = sender.submit(connection.send, stream)
        for size in SIZES:
            assert connection.receive_response().status_code == 201
            check_equal(connection.receive_response().content, BYTES[:size])
        sending.result()


@pytest.mark.parametrize("first", [0, 1, BODY_BUFFER_SIZE])
@pytest.mark.parametrize("last", [0, 1, BODY_BUFFER_SIZE])
def test_long_body_is_stored_when_sent_in_pieces(uploads: Uploads, first: int, last: int) -> None:
    """Send `first` bytes of the body with the head, and its `last` bytes with the next request."""
    body = random.Random(first + last).randbytes(len(BYTES))
    request = put("pieces.bin", body)
    head = len(request) - len(body)
    with closing(uploads.connect()) as connection:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start, stop in ((0, head + first), (head + first, len(request) - last)):
            connection.send(request[start:stop])
            time.sleep(0.05)
        connection.send(request[len(request) - last :] + get("pieces.bin"))
        assert connection.receive_response().status_code in (201, 204)
        check_equal(connection.receive_response().content, body)


def test_concurrent_long_bodies_are_not_mixed_up(uploads: Uploads) -> None:
    def upload(number: int) -> None:
        chance = random.Random(number)
        body = chance.randbytes(len(BYTES))
        request = put(f"many/{number}.bin", body)
        with closing(uploads.connect()) as connection:
            while request:
                size = chance.choice((1000, 50_000, 600_000))
                connection.send(request[:size])
                request = request[size:]
            assert connection.receive_response().status_code == 201
        uploads.check_stored(f"many/{number}.bin", body)

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(upload, range(8)))


def test_long_body_may_take_longer_than_timeout_while_it_makes_progress(uploads: Uploads) -> None:
    request = put("slow.bin", BYTES)
    steps = 6
    with closing(uploads.connect()) as connection:
        for step in range(steps):
            connection.send(request[step * 100_000 : (step + 1) * 100_000])
            time.sleep(2.5 * BODY_TIMEOUT_S / steps)
        connection.send(request[steps * 100_000 :])
        assert connection.receive_response().status_code == 201
    uploads.check_stored("slow.bin", BYTES)


def test_refused_long_body_is_read_to_its_end(uploads: Uploads) -> None:
    with closing(uploads.connect()) as connection:
        connection.send(put("there.bin", BYTES))
        assert connection.receive_response().status_code == 201
        refused = put("there.bin", BYTES, "If-None-Match: *")
        connection.send(refused[: LONG_BODY // 2])
        assert connection.receive_response().status_code == 412
        connection.send(refused[LONG_BODY // 2 :] + get("there.bin"))
        check_equal(connection.receive_response().content, BYTES)


def test_long_body_is_stored_after_100_continue_on_closing_connection(uploads: Uploads) -> None:
    with closing(uploads.connect()) as connection:
        request = put("asked.bin", BYTES, "Expect: 100-continue", "Connection: close")
        head = len(request) - len(BYTES)
        connection.send(request[:head])
        assert connection.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(request[head:])
        assert connection.receive_response().status_code == 201
        assert connection.is_closed()
    uploads.check_stored("asked.bin", BYTES)


def test_pipelined_long_body_is_not_read_before_its_turn(uploads: Uploads) -> None:
    with closing(uploads.connect()) as connection:
        connection.send(put("before.bin", BYTES))
        assert connection.receive_response().status_code == 201
    endless = put("behind.bin", b"").replace(b"Length: 0", b"Length: 99999999")
    with closing(uploads.connect(buffer=4096)) as connection:
        connection.send(get("before.bin") * 3 + endless)
        connection.socket.settimeout(0.3)
        sent = 0
        with pytest.raises(TimeoutError):
            while True:
                sent += connection.socket.send(BYTES)
        assert sent < 30_000_000
