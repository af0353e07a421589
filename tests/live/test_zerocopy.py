"""Files that are sent without a copy, where that is possible, and the same responses where it is not."""

import hashlib
import os
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.server.uvicorn_compat import missing
from tests.faults.tracing import injected
from tests.http.conftest import RawConnection
from tests.live.clients import Program, forked_python
from tests.support import need, need_root, run

pytestmark = pytest.mark.live

FILM = random.Random(4).randbytes(6_000_000)  # more than the buffers of a connection hold
SIZE = len(FILM)
MEMORY = Path("/dev/shm")

OURS = """
import functools, sys
import app.server.serving
{before}
app.server.serving.Config = functools.partial(app.server.serving.Config, {options})
from app.cli import main
main(["serve", "--port", "0"])
"""

PLAIN = "import uvicorn; uvicorn.run('app.main:app', port=0)"

# An interface that uvicorn itself could live with.
CHANGED = """
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
start = HttpToolsProtocol._start_asgi_task
HttpToolsProtocol._start_asgi_task = lambda self, cycle, app, more=None: start(self, cycle, app)
"""

CERTIFICATE = "ssl_certfile='certificate.pem', ssl_keyfile='key.pem'"


@dataclass(frozen=True)
class Way:
    """A way to run the program. `code` is what Python is given."""

    code: str
    zero_copy: bool = False
    in_memory: bool = False
    tls: bool = False
    sendfile: bool = True


def ours(options: str = "", before: str = "") -> str:
    return OURS.format(options=options, before=before)


WAYS = {
    "uvloop": Way(ours("loop='uvloop'"), zero_copy=True),
    "asyncio": Way(ours("loop='asyncio'"), zero_copy=True, in_memory=True),
    "by setting": Way(ours(), sendfile=False),
    "TLS": Way(ours(f"loop='uvloop', {CERTIFICATE}"), tls=True),
    "TLS on asyncio": Way(ours(f"loop='asyncio', {CERTIFICATE}"), tls=True),
    "another uvicorn": Way(ours(before=CHANGED)),
    "plain uvicorn": Way(PLAIN),
}
ZERO_COPY = [name for name, way in WAYS.items() if way.zero_copy]


@dataclass
class Running:
    program: Program
    way: Way
    files: Path
    port: int

    def connect(self, *, buffer: int | None = None) -> RawConnection:
        connection = RawConnection("127.0.0.1", self.port, buffer)
        if self.way.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection.socket = context.wrap_socket(connection.socket)
        return connection

    def ask(self, method: str, target: str, *headers: str, body: bytes | None = None) -> int:
        with closing(self.connect()) as connection:
            connection.request(method, target, *headers, body=body)
            return connection.receive_response(method).status_code


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("openssl")
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ("-subj", "/CN=localhost", "-days", "2")
    run(
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        *subject,
        "-keyout",
        key,
        "-out",
        certificate,
    )
    return folder


@pytest.fixture(scope="module", params=WAYS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The program, run in each way, with a film in it."""
    way = WAYS[request.param]
    folder = tmp_path_factory.mktemp("running") / "here"
    folder.mkdir()
    if way.tls:
        for file in request.getfixturevalue("certificate").iterdir():
            (folder / file.name).symlink_to(file)
    settings = {"SEEKABLE_SENDFILE": str(way.sendfile), "SEEKABLE_HEADER_TIMEOUT": "1"}
    files = folder / "files"
    with ExitStack() as stack:
        if way.in_memory and MEMORY.is_dir():  # there nobody can tell whether reading would wait
            files = Path(stack.enter_context(TemporaryDirectory(prefix="seekable-files-", dir=MEMORY)))
        settings["SEEKABLE_FILES_DIR"] = str(files)
        started = stack.enter_context(forked_python(folder, way.code, **settings))
        port = int(started.wait_for(r"(?:docs +|running on )https?://127\.0\.0\.1:(\d+)")[1])
        server = Running(started, way, files, port)
        assert server.ask("PUT", "/files/film.mp4", body=FILM) == 201
        yield server
        assert "Traceback" not in started.log()


@pytest.fixture
def untroubled(running: Running) -> Iterator[None]:
    """Nothing that the test does is a surprise to the program."""
    said = len(running.program.log())
    yield
    time.sleep(0.05)
    log = running.program.log()[said:]
    assert "Traceback" not in log
    assert "ERROR" not in log


def spans(*ranges: tuple[int, int]) -> str:
    return "Range: bytes=" + ",".join(f"{start}-{stop - 1}" for start, stop in ranges)


def same(received: bytes, expected: bytes) -> None:
    """As ==, without megabytes of difference to show."""
    assert len(received) == len(expected)
    assert hashlib.sha256(received).digest() == hashlib.sha256(expected).digest()


def parts(answer: httpx.Response) -> list[bytes]:
    """The bodies of a multipart/byteranges, which none of them holds a boundary of."""
    boundary = b"\r\n--" + answer.headers["content-type"].partition("boundary=")[2].encode()
    _, *found, end = (b"\r\n" + answer.content).split(boundary)
    assert end.strip() == b"--"
    return [part.partition(b"\r\n\r\n")[2] for part in found]


MANY = [(0, 10), (1_000_000, 4_500_000), (SIZE - 1_200_000, SIZE)]
EXCHANGES: list[tuple[int, str, str, tuple[str, ...], bytes | None]] = [
    (200, "GET", "/files/film.mp4", (), FILM),
    (404, "GET", "/files/none.mp4", (), None),
    (206, "GET", "/files/film.mp4", (spans((SIZE - 1, SIZE)),), FILM[-1:]),
    (200, "HEAD", "/files/film.mp4", (), b""),
    (206, "GET", "/files/film.mp4", (spans((1_048_575, 3_145_729)),), FILM[1_048_575:3_145_729]),
    (416, "GET", "/files/film.mp4", (f"Range: bytes={SIZE}-",), None),
    (206, "GET", "/files/film.mp4", (spans(*MANY),), None),
    (304, "GET", "/files/film.mp4", ("If-None-Match: *",), b""),
    (200, "GET", "/health", (), None),
    (200, "GET", "/files/empty.mp4", (), b""),
    (412, "PUT", "/files/film.mp4", ("If-None-Match: *", "Content-Length: 3"), None),
    (200, "GET", "/files/film.mp4", (), FILM),
]


@pytest.mark.parametrize("pipelined", [False, True], ids=["one by one", "pipelined"])
def test_every_byte_is_right_on_a_connection_that_is_kept(
    running: Running, pipelined: bool, untroubled: None
) -> None:
    running.ask("PUT", "/files/empty.mp4", body=b"")

    def request(number: int) -> None:
        _, method, target, headers, _ = EXCHANGES[number]
        connection.request(method, target, *headers)
        if method == "PUT":
            connection.send(b"new")

    with closing(running.connect(buffer=65536 if pipelined else None)) as connection:
        if pipelined:
            for number in range(len(EXCHANGES)):
                request(number)
            time.sleep(0.2)  # until what it is sent is stuck
        for number, (status, method, _, headers, body) in enumerate(EXCHANGES):
            if not pipelined:
                request(number)
            answer = connection.receive_response(method)
            assert answer.status_code == status, EXCHANGES[number]
            assert answer.headers.get("connection") != "close"
            if body is not None:
                same(answer.content, body)
            if headers == (spans(*MANY),):
                for part, (start, stop) in zip(parts(answer), MANY, strict=True):
                    same(part, FILM[start:stop])


def test_a_film_that_is_the_last_of_its_connection(running: Running, untroubled: None) -> None:
    for head in (
        b"GET /files/film.mp4 HTTP/1.0\r\n",
        b"GET /files/film.mp4 HTTP/1.1\r\nConnection: close\r\n",
    ):
        with closing(running.connect(buffer=65536)) as connection:
            connection.send(head + b"Host: localhost\r\n\r\n")
            same(connection.receive_response().content, FILM)
            assert connection.is_closed()


def test_the_kernel_sends_it_where_it_can(running: Running, tmp_path: Path) -> None:
    need("strace")
    need_root()
    with injected(tmp_path, running.program.process.pid, "sendfile:delay_enter=1") as trace:
        for method in ("HEAD", "GET"):
            with closing(running.connect()) as connection:
                connection.request(method, "/files/film.mp4")
                same(connection.receive_response(method).content, FILM if method == "GET" else b"")
    calls = [line for line in trace.read_text().splitlines() if "film.mp4" in line]
    sent = [int(line.rpartition(" = ")[2].partition(" ")[0]) for line in calls]
    assert sum(size for size in sent if size > 0) == (SIZE if running.way.zero_copy else 0)


@pytest.mark.parametrize("running", ["another uvicorn"], indirect=True)
def test_where_uvicorn_is_another_it_is_said_once(running: Running) -> None:
    warnings = [line for line in running.program.log().splitlines() if " WARNING " in line]
    assert len(warnings) == 1
    assert "HttpToolsProtocol._start_asgi_task" in warnings[0]


def test_what_is_leant_on_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing() == []
    monkeypatch.delattr(HttpToolsProtocol, "on_body")
    monkeypatch.setattr(FlowControl, "__init__", lambda self, transport: setattr(self, "write_paused", False))
    assert missing() == ["HttpToolsProtocol.on_body", "FlowControl.read_paused", "FlowControl.write_paused"]


# What happens amid an answer

Begin = Callable[..., RawConnection]


@pytest.fixture
def begin(running: Running) -> Iterator[Begin]:
    """A film that is under way to a client that has read its beginning."""
    connections: list[RawConnection] = []

    def begin(after: bytes = b"", path: str = "film.mp4") -> RawConnection:
        connections.append(connection := running.connect(buffer=65536))
        connection.request("GET", f"/files/{path}")
        assert connection.socket.recv(9, socket.MSG_PEEK) == b"HTTP/1.1 "
        with suppress(ConnectionError):  # it may be refused before all of it is sent
            connection.send(after)
        time.sleep(0.1)
        return connection

    yield begin
    for connection in connections:
        connection.close()


def until_its_end(connection: RawConnection) -> bytes:
    """What came of an answer until its connection ended."""
    answer = bytearray()
    try:
        while data := connection.socket.recv(1 << 20):
            answer += data
    except ConnectionResetError:
        pass
    return bytes(answer.partition(b"\r\n\r\n")[2])


zero_copy = pytest.mark.parametrize("running", ZERO_COPY, indirect=True)


@zero_copy
def test_what_has_yet_to_leave_comes_before_a_file(running: Running, untroubled: None) -> None:
    """The buffers of this connection are small, and full again and again, between any two bytes."""
    few = [(at, at + 1 + at % 397) for at in range(0, 20 * 5003, 5003)]
    with closing(running.connect(buffer=4096)) as connection:
        for _ in range(80):
            connection.request("GET", "/files/film.mp4", spans(*few))
        for _ in range(80):
            time.sleep(0.002)
            assert parts(connection.receive_response()) == [FILM[start:stop] for start, stop in few]


@pytest.mark.parametrize("running", ["uvloop"], indirect=True)
def test_half_a_head_amid_a_film_waits_for_its_end(running: Running, begin: Begin, untroubled: None) -> None:
    connection = begin(b"GET /health HTTP/1.1\r\nHo")
    time.sleep(1.5)  # more than a head may take, when it is its turn
    same(connection.receive_response().content, FILM)
    assert connection.receive_response().status_code == 408
    assert connection.is_closed()
    connection = begin(b"GET /health HTTP/1.1\r\nHo")
    same(connection.receive_response().content, FILM)
    connection.send(b"st: localhost\r\n\r\n")
    assert connection.receive_response().status_code == 200


@zero_copy
@pytest.mark.parametrize(
    "after", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000], ids=["nonsense", "too long"]
)
def test_nothing_is_written_into_a_film(running: Running, begin: Begin, after: bytes) -> None:
    connection = begin(after)
    received = until_its_end(connection)
    assert len(received) < SIZE
    assert FILM.startswith(received)


@zero_copy
def test_a_film_that_is_replaced_moved_and_deleted_goes_on(
    running: Running, begin: Begin, untroubled: None
) -> None:
    running.ask("PUT", "/files/old.mp4", body=FILM)
    first = begin(path="old.mp4")
    running.ask("PUT", "/files/old.mp4", body=FILM[::-1])
    second = begin(path="old.mp4")
    assert running.ask("DELETE", "/files/old.mp4") == 204
    same(second.receive_response().content, FILM[::-1])
    same(first.receive_response().content, FILM)


@zero_copy
def test_a_film_that_is_cut_short_in_its_place_breaks_off(running: Running, begin: Begin) -> None:
    running.ask("PUT", "/files/short.mp4", body=FILM)
    connections = [begin(path="short.mp4") for _ in range(2)]
    said = len(running.program.log())
    os.truncate(running.files / "short.mp4", 5_000_000)
    for connection in connections:
        assert until_its_end(connection) == FILM[:5_000_000]
    log = running.program.log()[said:]
    assert log.count("was broken off: The file ends at byte 5000000.") == 2
    assert "Traceback" not in log


@zero_copy
@pytest.mark.parametrize("error", ["EIO", "ENOMEM"])
def test_a_fault_of_the_disk_breaks_it_off(
    running: Running, begin: Begin, error: str, tmp_path: Path
) -> None:
    need("strace")
    need_root()
    connection = begin()
    said = len(running.program.log())
    with injected(tmp_path, running.program.process.pid, f"sendfile:error={error}"):
        received = until_its_end(connection)
    assert len(received) < SIZE
    assert FILM.startswith(received)
    log = running.program.log()[said:]
    assert log.count("was broken off: The file could not be read") == 1
    assert "Traceback" not in log
    with closing(running.connect()) as again:
        again.request("GET", "/files/film.mp4")
        same(again.receive_response().content, FILM)


@zero_copy
def test_what_is_not_in_memory_is_read_by_a_thread(
    running: Running, untroubled: None, tmp_path: Path
) -> None:
    need("strace")
    need_root()
    film, process = running.files / "film.mp4", running.program.process.pid
    with (
        injected(tmp_path, process, "pread64:delay_enter=1", paths=(film,)) as trace,
        film.open("rb") as file,
    ):
        for start in (0, 1_500_000, SIZE - 1):
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            with closing(running.connect()) as connection:
                connection.request("GET", "/files/film.mp4", f"Range: bytes={start}-")
                same(connection.receive_response().content, FILM[start:])
    readers = [int(line.split()[0]) for line in trace.read_text().splitlines() if "pread64(" in line]
    assert readers
    assert process not in readers, "its event loop"
