"""WebSockets of clients that do not read, do not answer, leave without a word, or are too many."""

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


def until(condition: Callable[[], bool], within: float, what: str) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextmanager
def descriptors_for(sockets: int) -> Iterator[None]:
    """Room for so many in this process and in the servers that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, sockets + 200), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


apart = Together("apart")
"""Tests that have a server each. The one that waits longest is the last: the others are done meanwhile."""


@pytest.fixture(scope="module", name="apart")
def begun_apart(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    with apart.begun(request, lambda name: (tmp_path_factory.mktemp(name),)) as outcomes:
        yield outcomes


@apart
def test_one_that_answers_no_pings_is_dropped(folder: Path) -> None:
    with running(folder, heartbeat=0.5) as server, Socket(server) as alive, Socket(server) as dead:
        alive.json()
        pings = 0
        end = time.monotonic() + 2
        while time.monotonic() < end:
            if not alive.is_silent(0.05):
                opcode, payload = alive.receive()
                assert opcode == PING
                alive.send(PONG, payload)
                pings += 1
        assert pings >= 2
        alive.send(TEXT, b"still there?")
        assert alive.json() == {"pong": True}
        assert dead.close_code() == 1011
        with pytest.raises(ConnectionError):
            dead.receive()


def test_a_thousand_idle_sockets_cost_less_than_50_mb(tmp_path: Path) -> None:
    with descriptors_for(1000), running(tmp_path) as server, server.client() as http, ExitStack() as stack:
        http.get("/health/ready").raise_for_status()
        with Socket(server) as first:
            first.json()
        time.sleep(0.2)
        memory, before = server.rss(), descriptors(server)
        sockets = [stack.enter_context(Socket(server, "/events" if n % 2 else "/")) for n in range(1000)]
        for one in sockets:
            one.json()
        assert descriptors(server) >= before + 990  # an idle connection of the client may end
        assert server.rss() - memory < 50e6
        started = time.monotonic()
        assert http.put("/files/a", content=b"x").status_code == 201
        assert {one.json()["path"] for one in sockets[1::2]} == {"a"}
        assert time.monotonic() - started < 20
        for number, one in enumerate(sockets):
            if number % 2:
                one.reset()
            else:
                one.socket.close()
        until(lambda: descriptors(server) <= before, 20, "descriptors are still open")
        assert "Traceback" not in server.log()


def test_beyond_the_limit_is_refused_and_a_foreign_page_too_but_one_of_a_named_site_is_not(
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

        def taken_again() -> bool:
            with Socket(server) as another:
                statuses.append(another.status)
            return statuses[-1] == 101

        until(taken_again, 5, f"room is not given back: {statuses}")
        assert "Traceback" not in server.log()
        assert "ERROR" not in server.log()


@apart
def test_those_who_are_connected_do_not_hold_the_end(folder: Path) -> None:
    with running(folder) as server, server.client() as http, ExitStack() as stack:
        session, listener = (stack.enter_context(Socket(server, target)) for target in ("/", "/events"))
        session.json()
        stuck, leaving = (
            stack.enter_context(Socket(server, "/events", receive_buffer=4096)) for _ in range(2)
        )
        for number in range(150):
            http.put(f"/files/{LONG}", content=b"%d" % number)
        leaving.send(CLOSE, b"\x03\xe8")  # behind what it does not read
        http.get("/health").raise_for_status()
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 10  # of the 30 s that transfers have
        assert session.close_code() == listener.close_code() == 1012
        assert stuck.status == leaving.status == 101
        assert "Traceback" not in server.log()
        assert "Application shutdown complete" in server.log()


@pytest.mark.parametrize("target", ["/", "/events"])
def test_nothing_remains_of_those_who_leave_without_a_word(
    server: Server, target: str, no_server_errors: None
) -> None:
    time.sleep(0.05)
    before = descriptors(server)
    for number in range(20):
        leaving = Socket(server, target)
        leaving.send(TEXT, b"x" * 1000)
        if number % 2:
            leaving.send(TEXT, b"cut", length=1000)
        leaving.reset()
    until(lambda: descriptors(server) <= before, 5, "descriptors are still open")


@apart
def test_pings_without_end_of_those_who_do_not_read_do_not_pile_up(folder: Path) -> None:
    flooded(folder, frame(PING, b"p" * 125))


@apart
def test_short_texts_without_end_of_those_who_do_not_read_do_not_pile_up(folder: Path) -> None:
    flooded(folder, frame(TEXT, b"t"))


def flooded(folder: Path, frames: bytes) -> None:
    """With these, for two seconds."""
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


def test_an_upgrade_amid_an_answer_ends_the_connection(
    server: Server, http: httpx.Client, folder: str, no_server_errors: None
) -> None:
    """uvicorn would go on with the answer, and not ask whether anybody reads it."""
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


@apart
def test_one_that_does_not_read_is_closed_and_delays_nobody(folder: Path) -> None:
    with running(folder) as server, server.client() as http, ExitStack() as stack:
        fine = stack.enter_context(Socket(server, "/events"))
        assert fine.json() == {"type": "resync"}
        http.get("/health/ready").raise_for_status()
        before = descriptors(server)
        late, never = (stack.enter_context(Socket(server, "/events", receive_buffer=4096)) for _ in range(2))
        slowest = 0.0
        for number in range(250):  # more than is kept for them, and no time to give them up
            assert http.put(f"/files/{LONG}", content=b"%d" % number).status_code in (201, 204)
            answered = time.monotonic()
            assert fine.json()["path"] == LONG
            slowest = max(slowest, time.monotonic() - answered)
        assert slowest < 10, "it waits for those who do not read"
        assert late.close_code() == 1013
        until(lambda: descriptors(server) <= before, 20, "the one that never reads is not dropped")
        assert never.status == 101
        assert http.put(f"/files/{LONG}", content=b"last").status_code == 204
        assert fine.json()["path"] == LONG
        assert "Traceback" not in server.log()
        assert "ERROR" not in server.log()
