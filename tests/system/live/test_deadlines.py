"""Deadlines and limits for clients that stall or flood a connection."""

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.http.conftest import RawConnection
from tests.support import NewLibrary, Server, on_disk_and_gridfs, running
from tests.support.beneath import beneath
from tests.support.sockets import PING, PONG, Socket
from tests.support.together import Outcomes, Together
from tests.system.faults.descriptors import descriptors
from tests.system.live.clients import until

pytestmark = pytest.mark.live

RECEIVE_TIMEOUT = 1
KEEPALIVE_TIMEOUT = 0.5
SEND_TIMEOUT = 2
TOO_LATE = 5
"""Seconds. By TOO_LATE, each of the timeouts must have had its effect, even on a busy machine."""

FILM = random.Random(5).randbytes(12_000_000)


@contextlib.contextmanager
def server_with_short_timeouts(
    tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary
) -> Iterator[Server]:
    """Run a server with short timeouts and a film. Fails if it logs an error."""
    limits = {
        "header_timeout": RECEIVE_TIMEOUT,
        "body_timeout": RECEIVE_TIMEOUT,
        "keepalive_timeout": KEEPALIVE_TIMEOUT,
    }
    folder = tmp_path_factory.mktemp("deadlines")
    settings = {
        "send_timeout": SEND_TIMEOUT,
        "max_header_size": 4096,
        "body_rate": 1,
        **limits,
        **new_library(),
    }
    with running(folder, **settings) as server:
        with server.client() as http:
            http.put("/files/film.mp4", content=FILM).raise_for_status()
        yield server
        assert "Traceback" not in server.log()
        assert " ERROR " not in server.log()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary) -> Iterator[Server]:
    with server_with_short_timeouts(tmp_path_factory, new_library) as server:
        yield server


Open = Callable[..., RawConnection]


@contextlib.contextmanager
def opening(server: Server) -> Iterator[Open]:
    connections: list[RawConnection] = []

    def begin(data: bytes, buffer: int | None = None) -> RawConnection:
        connections.append(connection := RawConnection("127.0.0.1", server.port, buffer))
        connection.send(data)
        return connection

    yield begin
    for connection in connections:
        connection.close()


@pytest.fixture
def begin(server: Server) -> Iterator[Open]:
    """Call it to open a connection and send these bytes."""
    with opening(server) as begin:
        yield begin


on_each_backend = Together("on_each_backend")
on_one_backend = Together("on_one_backend")


@pytest.fixture(scope="module", name="on_each_backend")
def begun_on_each_backend(
    request: pytest.FixtureRequest,
    server: Server,
    tmp_path_factory: pytest.TempPathFactory,
    new_library: NewLibrary,
) -> Iterator[Outcomes]:
    """Start these tests. The one that counts descriptors has a server to itself."""
    with (
        server_with_short_timeouts(tmp_path_factory, new_library) as another,
        opening(server) as one,
        opening(another) as two,
    ):
        arguments = {"test_stalled_body_gets_408": (server, one)}
        with on_each_backend.begun(request, lambda name: arguments.get(name, (another, two))) as outcomes:
            yield outcomes


@pytest.fixture(scope="module", name="on_one_backend")
def begun_on_one_backend(request: pytest.FixtureRequest, server: Server) -> Iterator[Outcomes]:
    with opening(server) as begin, on_one_backend.begun(request, lambda name: (begin,)) as outcomes:
        yield outcomes


def head(method: str, target: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def receive_to_end(connection: RawConnection, dribble: bytes = b"") -> tuple[bytes, float]:
    """Receive until the server closes the connection, sending `dribble` every 0.2 s.

    Returns the bytes received, and the seconds until the close.
    """
    began = time.monotonic()
    received = b""
    connection.socket.settimeout(0.2)
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < began + 10:
            with contextlib.suppress(TimeoutError):
                data = connection.socket.recv(1 << 16)
                if not data:
                    break
                received += data
            if dribble:
                connection.send(dribble)
    return received, time.monotonic() - began


def receive_all_to_end(connections: dict[str, tuple[RawConnection, bytes]]) -> dict[str, tuple[bytes, float]]:
    with ThreadPoolExecutor(len(connections)) as pool:
        return dict(
            zip(connections, pool.map(lambda one: receive_to_end(*one), connections.values()), strict=True)
        )


HEALTH = head("GET", "/health")


@on_one_backend
def test_incomplete_head_gets_408(begin: Open) -> None:
    found = receive_all_to_end(
        {
            "nothing": (begin(b""), b""),
            "empty lines": (begin(b"\r\n"), b"\r\n"),
            "half of it": (begin(HEALTH[:-2]), b""),
            "byte by byte": (begin(HEALTH[:-2] + b"X: "), b"y"),
            "header by header": (begin(HEALTH[:-2]), b"X: y\r\n"),
            "half of the second": (begin(HEALTH + HEALTH[:-2]), b""),
        }
    )
    for name, (received, seconds) in found.items():
        assert RECEIVE_TIMEOUT * 0.9 < seconds < TOO_LATE, name
        count = received.count(b"HTTP/1.1 ")
        if name in ("nothing", "empty lines"):
            assert count == 0, name
        else:
            assert received.count(b"HTTP/1.1 408 Request Timeout\r\n") == 1, name
            assert count == (2 if "second" in name else 1), name


LONG = f"Content-Length: {len(FILM)}"
FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="new.mp4"\r\n\r\n'
BODIES = {
    "before the body": head("PUT", "/files/new.mp4", LONG),
    "after 100 Continue": head("PUT", "/files/new.mp4", LONG, "Expect: 100-continue"),
    "within the body": head("PUT", "/files/new.mp4", LONG) + FILM[:3_000_000],
    "within a chunk": head("PUT", "/files/new.mp4", "Transfer-Encoding: chunked") + b"fff\r\nx",
    "before the last chunk": head("PUT", "/files/new.mp4", "Transfer-Encoding: chunked") + b"1\r\nx\r\n",
    "in a trailer": head("PUT", "/files/new.mp4", "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\nX: y\r\n",
    "in a form": head("POST", "/file/upload", LONG, "Content-Type: multipart/form-data; boundary=x") + FORM,
}


@on_each_backend
@on_disk_and_gridfs
def test_stalled_body_gets_408(server: Server, begin: Open) -> None:
    before = beneath(server).leftovers()
    slow = begin(head("PUT", "/files/slow.mp4", "Content-Length: 15"))
    found = receive_all_to_end(
        {name: (begin(data), b"") for name, data in BODIES.items()} | {"slow": (slow, b"y")}
    )
    received, seconds = found.pop("slow")
    assert received.startswith(b"HTTP/1.1 201 "), "a slow body is accepted while it makes progress"
    assert seconds > RECEIVE_TIMEOUT * 2
    for name, (received, seconds) in found.items():
        final = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert final.startswith(b"HTTP/1.1 408 Request Timeout\r\n"), name
        assert b"connection: close\r\n" in final, name
        assert RECEIVE_TIMEOUT * 0.9 < seconds < TOO_LATE, name
    until(lambda: beneath(server).leftovers() == before, "nothing of the stalled uploads is left")
    with server.client() as http:
        assert [item["path"] for item in http.get("/files").json()["items"]] == ["film.mp4", "slow.mp4"]


@pytest.mark.campaign
def test_time_while_server_is_stopped_does_not_count_against_client(tmp_path: Path) -> None:
    """As when its machine sleeps. The kernel has received the body, which the server has yet to read."""
    with running(tmp_path, body_timeout=2) as server:
        for number in range(20):  # some of these stop the server just before it reads
            with closing(RawConnection("127.0.0.1", server.port)) as connection:
                connection.send(head("PUT", f"/files/{number}", "Content-Length: 2") + b"x")
                time.sleep(0.3 + number * 0.03)
                server.process.send_signal(signal.SIGSTOP)
                time.sleep(2.2)
                connection.send(b"y")
                server.process.send_signal(signal.SIGCONT)
                assert connection.receive_response().status_code == 201


def test_body_below_minimum_rate_gets_408(tmp_path: Path) -> None:
    with running(tmp_path, body_timeout=RECEIVE_TIMEOUT, body_rate=1000) as server, opening(server) as begin:
        slow = begin(head("PUT", "/files/slow.mp4", "Content-Length: 5000"))
        fast = begin(head("PUT", "/files/fast.mp4", "Content-Length: 5000"))
        found = receive_all_to_end({"slow": (slow, b"x" * 50), "fast": (fast, b"x" * 500)})
        received, seconds = found["slow"]
        assert received.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"at least 1000 bytes a second" in received
        assert RECEIVE_TIMEOUT * 0.9 < seconds < TOO_LATE
        assert found["fast"][0].startswith(b"HTTP/1.1 201 ")
        assert server.staging() == []


@on_one_backend
def test_connection_closes_when_refused_body_does_not_end(begin: Open) -> None:
    refused = head("PUT", "/files/film.mp4", LONG, "If-None-Match: *")
    found = receive_all_to_end(
        {"stalled": (begin(refused + b"x"), b""), "still sending": (begin(refused), b"x" * 1000)}
    )
    for name, (received, seconds) in found.items():
        assert received.startswith(b"HTTP/1.1 412 "), name
        assert received.count(b"HTTP/1.1 ") == 1, name
        assert seconds < TOO_LATE, name


def test_refused_body_leaves_connection_open_when_client_sends_it_unasked(
    server: Server, begin: Open
) -> None:
    """A client that waits for 100 Continue never sends the body, and its connection is closed."""
    refused = head(
        "PUT", "/files/film.mp4", "Content-Length: 300000", "If-None-Match: *", "Expect: 100-continue"
    )
    connection = begin(refused + FILM[:1000])
    answer = connection.receive_response()
    assert (answer.status_code, answer.headers.get("connection")) == (412, None)
    connection.send(FILM[1000:300_000] + HEALTH)
    assert connection.receive_response().status_code == 200
    waiting = begin(refused)
    answer = waiting.receive_response()
    assert (answer.status_code, answer.headers["connection"]) == (412, "close")
    assert waiting.is_closed()


@on_one_backend
def test_idle_connection_closes(begin: Open) -> None:
    refused = head("PUT", "/files/film.mp4", "Content-Length: 1", "If-None-Match: *") + b"x"
    found = receive_all_to_end(
        {
            "silent": (begin(HEALTH), b""),
            "empty lines": (begin(HEALTH), b"\r\n"),
            "after a refusal": (begin(refused), b""),
            "empty lines after a refusal": (begin(refused), b"\r\n"),
            "after a HEAD of a film": (begin(head("HEAD", "/files/film.mp4")), b"\r\n"),
        }
    )
    for name, (received, seconds) in found.items():
        assert received.count(b"HTTP/1.1 ") == 1, name
        assert KEEPALIVE_TIMEOUT * 0.9 < seconds < TOO_LATE, name


@on_each_backend
@on_disk_and_gridfs
def test_stalled_reader_is_disconnected_and_slow_reader_is_served(server: Server, begin: Open) -> None:
    time.sleep(0.2)
    before = descriptors(server)
    film = head("GET", "/files/film.mp4")
    never = [begin(film, 4096), begin(film, 65536), begin(HEALTH + film + film, 4096)]
    # A kernel reports free buffer space only when about half of the buffer is free.
    slow = [begin(film, 4096), begin(film, 16384)]
    until(lambda: descriptors(server)["socket"] >= before["socket"] + 5, "all five are connected")
    with Socket(server) as quiet:  # a WebSocket on which neither side sends
        quiet.json()
        end = time.monotonic() + SEND_TIMEOUT * 1.75
        while time.monotonic() < end:
            for connection in slow:
                connection.receive_more(12_000)
            time.sleep(0.3)
        quiet.send(PING, b"?")
        assert quiet.receive() == (PONG, b"?")
    with ThreadPoolExecutor(len(slow)) as pool:
        assert [answer.content == FILM for answer in pool.map(RawConnection.receive_response, slow)] == [
            True,
            True,
        ]
    for connection in slow:
        connection.close()
    until(lambda: descriptors(server) <= before, "the descriptors of stalled readers are closed")
    for connection in never:
        # The client gets the bytes that its kernel has buffered, and then a reset instead of an end.
        connection.socket.settimeout(5)
        with pytest.raises(ConnectionResetError):
            while connection.socket.recv(1 << 20):
                pass


@on_one_backend
def test_slow_client_gets_bytes_in_kernel_buffer_after_keepalive_timeout(begin: Open) -> None:
    """The server has written the response and awaits the next request long before the client has read it."""
    connection = begin(head("GET", "/files/film.mp4", "Range: bytes=0-999999"))
    time.sleep(KEEPALIVE_TIMEOUT * 4)
    assert connection.receive_response().content == FILM[:1_000_000]
    assert connection.is_closed()


# Sizes


@pytest.mark.parametrize(
    "data",
    [
        HEALTH[:-2] + b"X: " + b"y" * 5000,
        HEALTH[:-2] + b"X: " + b"y" * 5000 + b"\r\n\r\n",
        b"GET /health?" + b"y" * 5000,
        head("GET", "/health?" + "y" * 5000),
        b"\r\n" * 3000,
    ],
    ids=["half of a head", "head", "half of a target", "target", "empty lines"],
)
def test_too_long_head_gets_431(begin: Open, data: bytes) -> None:
    received, seconds = receive_to_end(begin(data))
    assert received.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert seconds < RECEIVE_TIMEOUT


def test_head_limit_ignores_bodies_and_other_heads(begin: Open) -> None:
    put = head("PUT", "/files/new.mp4", "Content-Length: 100000")
    connection = begin(put + FILM[:100_000] + HEALTH * 90 + HEALTH[:10])
    assert connection.receive_response().status_code == 201
    assert [connection.receive_response().status_code for _ in range(90)] == [200] * 90
    connection.send(HEALTH[10:])
    assert connection.receive_response().status_code == 200


def test_pipelined_requests_are_answered_in_order_up_to_limit(begin: Open) -> None:
    connection = begin(head("GET", "/files/film.mp4") + HEALTH * 70)
    time.sleep(0.1)
    connection.send(HEALTH * 70)
    assert connection.receive_response().content == FILM
    assert [connection.receive_response().status_code for _ in range(140)] == [200] * 140
    connection = begin(HEALTH * 1000)
    received, _ = receive_to_end(connection)
    assert received.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert received.count(b"HTTP/1.1 ") == 1


def test_malformed_bytes_after_put_do_not_change_its_response(begin: Open) -> None:
    connection = begin(head("PUT", "/files/changed.mp4", "Content-Length: 3") + b"abc" + b"\x00\r\n\r\n")
    received, _ = receive_to_end(connection)
    assert received[:12] in (b"", b"HTTP/1.1 201")


def test_trailer_is_not_merged_into_any_head(server: Server, begin: Open) -> None:
    """RFC 9110 §6.5.1. The whole request arrives before the application has started to handle it."""
    with server.client() as http:
        http.put("/files/there.mp4", content=b"old").raise_for_status()
    put = head("PUT", "/files/there.mp4", "Transfer-Encoding: chunked") + b"3\r\nnew\r\n0\r\n"
    connection = begin(put + b"If-None-Match: *\r\n\r\n")
    assert connection.receive_response().status_code == 204
    connection.send(put)
    connection.send(b"X: " + b"y" * 3000 + b"\r\n\r\n")
    assert connection.receive_response().status_code == 204
    connection.send(HEALTH[:-2] + b"X: " + b"y" * 3000)
    connection.send(b"\r\n\r\n")
    assert connection.receive_response().status_code == 200


CHUNKED = head("PUT", "/files/endless.mp4", "Transfer-Encoding: chunked") + b"1\r\nx\r\n"
FLOODS = {
    "a head": (HEALTH[:-2] + b"X: ", b"y" * 10_000),
    "headers": (HEALTH[:-2], b"X: y\r\n" * 2000),
    "a trailer": (CHUNKED + b"0\r\nX: ", b"y" * 10_000),
    "trailers": (CHUNKED + b"0\r\n", b"X: y\r\n" * 2000),
    "a chunk extension": (CHUNKED + b"1;", b"y" * 10_000),
    "requests": (b"", b"GET / HTTP/1.1\r\nHost:a\r\n\r\n" * 500),
    "requests for films": (b"", head("GET", "/files/film.mp4", "Range: bytes=0-0") * 200),
    "empty lines": (b"", b"\r\n" * 5000),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_endless_input_is_cut_off_without_using_memory(server: Server, begin: Open, flood: str) -> None:
    first, more = FLOODS[flood]
    connection = begin(first)
    memory = server.rss()
    sent = 0
    with contextlib.suppress(ConnectionError, TimeoutError):
        connection.socket.settimeout(0.5)
        while sent < 30 << 20:
            sent += connection.socket.send(more)
    assert sent < 30 << 20, "the server stopped reading"
    assert server.rss() - memory < 8 << 20
    until(lambda: not beneath(server).leftovers(), "the staged bytes are removed")
