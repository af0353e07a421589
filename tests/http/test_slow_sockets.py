"""WebSocket clients that do not read, do not answer pings, disconnect without a close frame, or are too
many."""

import contextlib
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support import Server, running
from tests.support.sockets import CLOSE, HANDSHAKE, PING, PONG, TEXT, Socket, descriptors, frame
from tests.support.together import Outcomes, Together

LONG = "/".join(["f" * 200] * 5)


def until(condition: Callable[[], bool], within: float, expectation: str) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, expectation
        time.sleep(0.02)


@contextmanager
def descriptors_for(sockets: int) -> Iterator[None]:
    """Raise the limit of file descriptors for this process and the servers that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, sockets + 200), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


concurrent = Together("concurrent")
"""Tests that run at the same time, each with its own server; the slowest is the last."""


@pytest.fixture(scope="module", name="concurrent")
def concurrent_outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    with concurrent.begun(request, lambda name: (tmp_path_factory.mktemp(name),)) as outcomes:
        yield outcomes


@concurrent
def test_socket_is_closed_when_client_answers_no_pings(folder: Path) -> None:
    with running(folder, heartbeat=0.5) as server, Socket(server) as responsive, Socket(server) as mute:
        responsive.json()
        pings = 0
        end = time.monotonic() + 2
        while time.monotonic() < end:
            if not responsive.is_silent(0.05):
                opcode, payload = responsive.receive()
                assert opcode == PING
                responsive.send(PONG, payload)
                pings += 1
        assert pings >= 2
        responsive.send(TEXT, b"still there?")
        assert responsive.json() == {"pong": True}
        assert mute.close_code() == 1011
        with pytest.raises(ConnectionError):
            mute.receive()


def test_thousand_idle_sockets_use_less_than_50_mb(tmp_path: Path) -> None:
    with descriptors_for(1000), running(tmp_path) as server, server.client() as http, ExitStack() as stack:
        http.get("/health/ready").raise_for_status()
        with Socket(server) as first:
            first.json()
        time.sleep(0.2)
        memory, descriptors_before = server.rss(), descriptors(server)
        sockets = [stack.enter_context(Socket(server, "/events" if n % 2 else "/")) for n in range(1000)]
        for client in sockets:
            client.json()
        # An idle connection of the HTTP client may close.
        assert descriptors(server) >= descriptors_before + 990
        assert server.rss() - memory < 50e6
        started = time.monotonic()
        assert http.put("/files/a", content=b"x").status_code == 201
        assert {client.json()["path"] for client in sockets[1::2]} == {"a"}
        assert time.monotonic() - started < 20
        for number, client in enumerate(sockets):
            if number % 2:
                client.reset()
            else:
                client.socket.close()
        until(lambda: descriptors(server) <= descriptors_before, 20, "all descriptors are closed")
        assert "Traceback" not in server.log()


def test_socket_is_refused_beyond_limit_or_from_foreign_origin(
    tmp_path: Path,
) -> None:
    settings = {"cors_origins": "https://App.example", "max_sockets": 2}
    with running(tmp_path, **settings) as server, Socket(server, "/events") as listener:
        with Socket(server, "/", "Origin: https://other.example") as foreign:
            assert foreign.problem()["status"] == foreign.status == 403
        with Socket(server, "/", "Origin: https://app.example") as page:
            assert "sid" in page.json()
            with Socket(server) as third:
                assert third.problem()["status"] == third.status == 503
                assert "retry-after: " in third.head
        assert listener.json() == {"type": "resync"}
        listener.reset()
        statuses: list[int] = []

        def has_capacity() -> bool:
            with Socket(server) as another:
                statuses.append(another.status)
            return statuses[-1] == 101

        until(has_capacity, 5, f"capacity is released: {statuses}")
        assert "Traceback" not in server.log()
        assert "ERROR" not in server.log()


@concurrent
def test_open_sockets_do_not_delay_shutdown(folder: Path) -> None:
    with running(folder) as server, server.client() as http, ExitStack() as stack:
        session, listener = (stack.enter_context(Socket(server, target)) for target in ("/", "/events"))
        session.json()
        not_reading, closing = (
            stack.enter_context(Socket(server, "/events", receive_buffer=4096)) for _ in range(2)
        )
        for number in range(150):
            http.put(f"/files/{LONG}", content=b"%d" % number)
        closing.send(CLOSE, b"\x03\xe8")  # queued after messages that it does not read
        http.get("/health").raise_for_status()
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 10  # transfers get 30 s
        assert session.close_code() == listener.close_code() == 1012
        assert not_reading.status == closing.status == 101
        assert "Traceback" not in server.log()
        assert "Application shutdown complete" in server.log()


@pytest.mark.parametrize("target", ["/", "/events"])
def test_abrupt_disconnects_leak_no_descriptors(server: Server, target: str, no_server_errors: None) -> None:
    time.sleep(0.05)
    descriptors_before = descriptors(server)
    for number in range(20):
        client = Socket(server, target)
        client.send(TEXT, b"x" * 1000)
        if number % 2:
            client.send(TEXT, b"cut", length=1000)
        client.reset()
    until(lambda: descriptors(server) <= descriptors_before, 5, "all descriptors are closed")


@concurrent
def test_endless_pings_use_bounded_memory_when_client_does_not_read(folder: Path) -> None:
    check_memory_of_flood(folder, frame(PING, b"p" * 125))


@concurrent
def test_endless_texts_use_bounded_memory_when_client_does_not_read(folder: Path) -> None:
    check_memory_of_flood(folder, frame(TEXT, b"t"))


def check_memory_of_flood(folder: Path, frames: bytes) -> None:
    """Send these frames for two seconds; the server may use 8 MiB for them."""
    with running(folder) as server, ExitStack() as stack:
        floods = [stack.enter_context(Socket(server, receive_buffer=4096)) for _ in range(4)]
        for flood in floods:
            flood.json()
            flood.socket.setblocking(False)
        memory = server.rss()
        block = frames * ((1 << 20) // len(frames))
        sent = dict.fromkeys(floods, 0)
        end = time.monotonic() + 2
        while time.monotonic() < end:
            for flood in floods:
                with contextlib.suppress(BlockingIOError):
                    sent[flood] += flood.socket.send(block[sent[flood] % len(frames) :])
            time.sleep(0.001)
        assert server.rss() - memory < 8 << 20
        assert "Traceback" not in server.log()


def test_upgrade_during_response_ends_connection(
    server: Server, http: httpx.Client, folder: str, no_server_errors: None
) -> None:
    """uvicorn would continue the response without checking whether the client reads it."""
    assert http.put(f"/files/{folder}/big", content=b"f" * (24 << 20)).status_code == 201
    memory = server.rss()
    host = f"Host: 127.0.0.1:{server.port}"
    get = "\r\n".join([f"GET /files/{folder}/big HTTP/1.1", host, "", ""])
    upgrade = "\r\n".join(["GET / HTTP/1.1", host, *HANDSHAKE, "", ""])
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall((get + upgrade).encode())
        time.sleep(0.3)
        assert server.rss() - memory < 16 << 20
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(1 << 16):
                received += data
        assert b"101 Switching" not in received


@concurrent
def test_socket_that_does_not_read_is_closed_without_delaying_others(folder: Path) -> None:
    with running(folder) as server, server.client() as http, ExitStack() as stack:
        reading = stack.enter_context(Socket(server, "/events"))
        assert reading.json() == {"type": "resync"}
        http.get("/health/ready").raise_for_status()
        descriptors_before = descriptors(server)
        resumed, stopped = (
            stack.enter_context(Socket(server, "/events", receive_buffer=4096)) for _ in range(2)
        )
        slowest = 0.0
        # More messages than the backlog holds, in too short a time to give up the socket.
        for number in range(250):
            assert http.put(f"/files/{LONG}", content=b"%d" % number).status_code in (201, 204)
            answered = time.monotonic()
            assert reading.json()["path"] == LONG
            slowest = max(slowest, time.monotonic() - answered)
        assert slowest < 10, "it does not wait for the sockets that do not read"
        assert resumed.close_code() == 1013
        until(lambda: descriptors(server) <= descriptors_before, 20, "the socket that never reads is closed")
        assert stopped.status == 101
        assert http.put(f"/files/{LONG}", content=b"last").status_code == 204
        assert reading.json()["path"] == LONG
        assert "Traceback" not in server.log()
        assert "ERROR" not in server.log()
