"""Shutdown, and the format of the log."""

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import SEEKABLE, NewLibrary, Server
from tests.support.beneath import beneath
from tests.system.live.clients import forked_python, refuses_connections, until

pytestmark = pytest.mark.live

LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d (DEBUG|INFO|WARNING|ERROR|CRITICAL) \S.*"
)
BANNER = 6

FILM = os.urandom(1 << 20) * 12  # much more than the buffers between server and client hold
TIMEOUT_S = 25

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path, new_library: NewLibrary) -> Iterator[Start]:
    """Call it to start a server with these settings and a film."""
    started: list[Server] = []
    library = new_library()

    def start(**settings: object) -> Server:
        server = Server(tmp_path / "server", **library, **settings)
        started.append(server.start())
        with server.client() as http:
            http.put("/files/film.mp4", content=FILM).raise_for_status()
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill()


Begin = Callable[[Server, bytes], socket.socket]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Call it to open a connection with a small receive buffer, and send the beginning of a request."""
    with ExitStack() as stack:

        def begin(server: Server, data: bytes) -> socket.socket:
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
            connection.settimeout(TIMEOUT_S)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(data)
            return connection

        yield begin


HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def receive_health(connection: socket.socket) -> socket.socket:
    """Read the response to GET /health, and return the connection, which stays open."""
    response = b""
    while not response.endswith(b"}\n"):
        response += connection.recv(1000)
    return connection


Transfer = Callable[..., socket.socket]


@pytest.fixture
def download(begin: Begin) -> Transfer:
    """Call it to start a download."""

    def download(server: Server) -> socket.socket:
        connection = begin(server, b"GET /files/film.mp4 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
        return connection

    return download


@pytest.fixture
def upload(begin: Begin) -> Transfer:
    """Call it to send the first half of an upload."""

    def upload(server: Server, name: str) -> socket.socket:
        head = f"PUT /files/{name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(FILM)}\r\n\r\n"
        return begin(server, head.encode() + FILM[: len(FILM) // 2])

    return upload


def receive_rest(connection: socket.socket) -> tuple[bytes, bool]:
    """Receive until the connection closes. Returns the bytes, and whether it was reset."""
    received = bytearray()
    try:
        while data := connection.recv(1 << 20):
            received += data
    except ConnectionResetError:
        return bytes(received), True
    return bytes(received), False


def body(received: bytes) -> bytes:
    return received.partition(b"\r\n\r\n")[2]


def count_staged(server: Server) -> int:
    return len(beneath(server).leftovers())


# Shutdown


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_shutdown_completes_transfers_and_refuses_new_connections(
    start: Start, begin: Begin, download: Transfer, upload: Transfer, signal_number: signal.Signals
) -> None:
    server = start(shutdown_timeout=TIMEOUT_S)
    downloads = [download(server) for _ in range(10)]
    uploads = {name: upload(server, name) for name in ("one.mp4", "two.mp4")}
    idle = receive_health(begin(server, HEALTH))
    until(lambda: count_staged(server) == 2, "two uploads under way")
    server.process.send_signal(signal_number)

    until(lambda: refuses_connections(server), "new connections are refused", within=10)
    assert idle.recv(1) == b"", "an idle connection is closed"
    assert server.process.poll() is None
    with ThreadPoolExecutor(12) as pool:
        received = pool.map(receive_rest, downloads)
        for connection in uploads.values():
            connection.sendall(FILM[len(FILM) // 2 :])
        outcomes = [*pool.map(receive_rest, uploads.values())]
        assert refuses_connections(server)
        for data, reset in received:
            assert (hashlib.sha256(body(data)).digest(), reset) == (hashlib.sha256(FILM).digest(), False)
    for name, (response, reset) in zip(uploads, outcomes, strict=True):
        assert (response[:12], reset) == (b"HTTP/1.1 201", False)
        assert json.loads(body(response))["sha256"] == hashlib.sha256(FILM).hexdigest()
        assert beneath(server).content(name) == FILM
    assert server.process.wait(10) == 0
    # The server may still count the idle connection.
    assert re.search("Connections that may finish within 25 s: 1[23]\n", server.log()), server.log()
    check_clean(server)


def test_shutdown_breaks_off_transfers_after_timeout(
    start: Start, download: Transfer, upload: Transfer
) -> None:
    server = start(shutdown_timeout=1)
    downloads = [download(server) for _ in range(3)]
    uploads = [upload(server, f"{number}.mp4") for number in range(2)]
    until(lambda: count_staged(server) == 2, "two uploads under way")
    server.process.terminate()
    began = time.monotonic()
    assert server.process.wait(10) == 0
    assert 0.7 < time.monotonic() - began < 8
    for connection in downloads:
        data, _ = receive_rest(connection)
        assert len(body(data)) < len(FILM)
    for connection in uploads:
        assert receive_rest(connection)[0] == b""
    assert count_staged(server) == 0
    assert beneath(server).content("0.mp4") is None
    assert "Connections aborted because they did not finish in time: 5\n" in server.log(), server.log()
    check_clean(server, warnings=1)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_breaks_off_transfers_at_once(
    start: Start, download: Transfer, upload: Transfer, second: signal.Signals
) -> None:
    server = start(shutdown_timeout=TIMEOUT_S)
    reading, writing = download(server), upload(server, "new.mp4")
    until(lambda: count_staged(server) == 1, "an upload under way")
    server.process.terminate()
    until(lambda: refuses_connections(server), "the shutdown has begun", within=10)
    server.process.send_signal(second)
    assert server.process.wait(6) == 0
    assert len(body(receive_rest(reading)[0])) < len(FILM)
    assert receive_rest(writing)[0] == b""
    assert count_staged(server) == 0
    check_clean(server, warnings=1)


def test_shutdown_closes_connections_without_complete_request(start: Start, begin: Begin) -> None:
    server = start(shutdown_timeout=TIMEOUT_S)
    silent, halfway = begin(server, b""), begin(server, b"GET /health HTTP/1.1\r\nHost: loc")
    kept = receive_health(begin(server, HEALTH))
    server.process.terminate()
    assert server.process.wait(6) == 0
    for connection in (silent, halfway, kept):
        assert receive_rest(connection)[0] == b""
    check_clean(server)


def test_shutdown_waits_only_seconds_for_blocked_thread(start: Start, begin: Begin) -> None:
    """Here a thread waits for the database; one that waits for a dead disk is no different."""
    server = start(shutdown_timeout=1)
    with server.client() as http:
        film = http.get("/files").json()["items"][0]
    with beneath(server).replaced(film["id"]):
        begin(server, b"DELETE /files/film.mp4 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.5)
        server.process.terminate()
        status = server.process.wait(15)
    assert (status != 0) == ("did not respond" in server.log()), server.log()
    assert "Traceback" not in server.log()
    assert server.start()
    with server.client() as http:
        assert http.get("/files/film.mp4").content == FILM


# The log of requests


def ask(connection: socket.socket, count: int, path: str = "/health") -> None:
    """Send so many requests, each after the response to the one before, on one connection."""
    for number in range(count):
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: n{number}.\r\n\r\n"
        connection.sendall(head.encode())
        receive_health(connection)


def logged_ids(log: str) -> list[int]:
    return [int(found) for found in re.findall(r"id=n(\d+)\.\n", log)]


@pytest.mark.parametrize("log_format", ["line", "json"])
def test_log_has_every_request_after_shutdown(start: Start, begin: Begin, log_format: str) -> None:
    server = start(log_format=log_format)
    ask(begin(server, b""), 200)
    assert server.stop() == 0
    log = server.log().replace('"id": "n', '"id": "id=n').replace('."}\n', ".\n")
    assert logged_ids(log) == [*range(200)]


def test_log_has_requests_before_the_last_after_kill(start: Start, begin: Begin) -> None:
    server = start()
    ask(begin(server, b""), 50)
    server.kill()
    assert logged_ids(server.log())[:49] == [*range(49)]


def test_server_responds_while_its_log_is_not_read(tmp_path: Path, begin: Begin) -> None:
    """The reader of a pipe stops, as a pager does, and later continues."""
    server = Server(tmp_path / "server")
    server.folder.mkdir()
    command = [SEEKABLE, "serve", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        printed = ""
        while not (found := re.search(r"docs +(http\S+)/docs", printed)):
            printed = process.stdout.readline()
        server.url = found[1]
        ask(begin(server, b""), 2000)  # several times as many records as a pipe holds
        log = ""
        while "id=n1999." not in log:
            log += process.stdout.readline()
        assert logged_ids(log) == [*range(2000)]
        process.terminate()
        assert process.wait(10) == 0


def check_clean(server: Server, *, warnings: int = 0) -> None:
    """Check that the log consists of well-formed lines, with no error and so many warnings."""
    lines = levels(server.log())
    assert "ERROR" not in lines
    assert lines.count("WARNING") == warnings, server.log()
    assert "Application shutdown complete." in server.log()


def levels(log: str) -> list[str]:
    """Return the level of each line of the log, without the start banner."""
    found = []
    printed = 0
    for line in log.split("\n")[:-1]:
        if match := LINE.fullmatch(line):
            found.append(match[1])
        else:
            printed += 1
    assert printed == BANNER, log
    return found


# Log format

ACCIDENTS = """
import asyncio, logging, threading, warnings
import app.main
from app.cli import main

async def boom():
    try:
        open("/nowhere\\n\\x1b[2J")
    except OSError as error:
        raise RuntimeError("the reason\\nis long") from error

async def others():
    warnings.warn("old\\nstyle")
    logging.getLogger("library").error("forged\\n2026-01-01T00:00:00.000+00:00 INFO line")
    logging.getLogger("uvicorn.error").warning("too %d", "many")
    thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()
    class Odd:
        def __del__(self):
            raise KeyError("gone\\n")
    Odd()
    async def lost():
        raise ValueError("never\\nawaited")
    asyncio.create_task(lost())
    await asyncio.sleep(0.01)

for route in (boom, others):
    app.main.app.add_api_route("/" + route.__name__, route)
main(["serve", "--port", "0"])
"""


def test_every_event_is_logged_as_one_line(tmp_path: Path) -> None:
    workdir = tmp_path / "workdir"
    workdir.mkdir()
    with forked_python(workdir, ACCIDENTS) as server:
        host, port = server.wait_for(r"docs +http://(.+):(\d+)/docs").groups()

        def send_get(target: bytes, head: bytes = b"") -> bytes:
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n")
                return connection.recv(12)

        assert send_get(b"/boom") == b"HTTP/1.1 500"
        assert send_get(b"/others") == b"HTTP/1.1 200"
        assert send_get(b"/files/a%0A%1B%5B2Jb%E2%80%A8%C2%9B") == b"HTTP/1.1 400"
        assert send_get(b"/files/a?x=%0A%1B") == b"HTTP/1.1 404"
        send_get(b"/files/a?\xc2\x9b\xe2\x80\xa8\x7f")
        send_get(b"/files/\xff\xfe")
        assert send_get(b"/files/b", b"X-Forwarded-For: \x9b2J\x85 forged\xad\r\n") == b"HTTP/1.1 403"
        time.sleep(0.2)
        assert server.terminate() == 0
        log = server.log()
    lines = levels(log)
    assert "\x1b" not in log
    assert "Traceback" not in log
    messages = [line.split(" ", 2)[2] for line in log.splitlines() if LINE.fullmatch(line)]

    def check_logged_once(pattern: str) -> None:
        assert len([line for line in messages if re.search(pattern, line)]) == 1, (pattern, log)

    check_logged_once(
        r"^Exception in ASGI application: RuntimeError: the reason\\nis long at <string>:\d+ boom < .*; "
        r"caused by FileNotFoundError: \[Errno 2\] .* at <string>:\d+ boom$"
    )
    check_logged_once(r"UserWarning: old\\nstyle")
    check_logged_once(r"^forged\\n2026-01-01T00:00:00.000\+00:00 INFO line$")
    check_logged_once(r"^'too %d' \('many',\)$")
    check_logged_once(
        r"^A thread ended with an exception: ZeroDivisionError: division by zero "
        r"at <string>:\d+ <lambda> < threading"
    )
    check_logged_once(r"Odd.__del__.*: KeyError: 'gone\\n' at")
    check_logged_once(
        r"^Task exception was never retrieved\\n.*: ValueError: never\\nawaited at <string>:\d+ lost$"
    )
    check_logged_once(r'"GET /files/a%0A%1B%5B2Jb%E2%80%A8%C2%9B HTTP/1.1" 400 ')
    check_logged_once(r'"GET /files/a\?x=%0A%1B HTTP/1.1" 404 ')
    check_logged_once(r'^\S+ - "GET /boom HTTP/1.1" 500 in=0 out=\d+ s=\d+\.\d{4} id=[0-9a-f]+-\d+$')
    check_logged_once(r'"GET /files/b HTTP/1.1" 403 ')
    assert lines.count("ERROR") == 5, log
