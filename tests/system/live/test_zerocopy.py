"""Files are sent by sendfile where that is possible, with the same bytes as without it."""

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

from tests.http.conftest import RawConnection
from tests.support import need, need_root, run
from tests.system.faults.tracing import inject_faults
from tests.system.live.clients import Program, forked_python

pytestmark = pytest.mark.live

FILM = random.Random(4).randbytes(6_000_000)  # more than the buffers of a connection
SIZE = len(FILM)
MEMORY = Path("/dev/shm")

SERVER_CODE = """
import functools, sys
import app.server.serving
app.server.serving.UvicornConfig = functools.partial(app.server.serving.UvicornConfig, {options})
from app.cli import main
main(["serve", "--port", "0"])
"""

PLAIN = "import uvicorn; uvicorn.run('app.main:app', port=0)"

CERTIFICATE = "ssl_certfile='certificate.pem', ssl_keyfile='key.pem'"


@dataclass(frozen=True)
class Variant:
    """A way to run the server, as Python code."""

    code: str
    zero_copy: bool = False
    in_memory: bool = False
    tls: bool = False
    sendfile: bool = True


def server_code(options: str = "") -> str:
    return SERVER_CODE.format(options=options)


VARIANTS = {
    "uvloop": Variant(server_code("loop='uvloop'"), zero_copy=True),
    "asyncio": Variant(server_code("loop='asyncio'"), zero_copy=True, in_memory=True),
    "by setting": Variant(server_code(), sendfile=False),
    "TLS": Variant(server_code(f"loop='uvloop', {CERTIFICATE}"), tls=True),
    "TLS on asyncio": Variant(server_code(f"loop='asyncio', {CERTIFICATE}"), tls=True),
    "plain uvicorn": Variant(PLAIN),
}
ZERO_COPY = [name for name, variant in VARIANTS.items() if variant.zero_copy]


@dataclass
class Running:
    program: Program
    variant: Variant
    files: Path
    port: int

    def connect(self, *, buffer: int | None = None) -> RawConnection:
        connection = RawConnection("127.0.0.1", self.port, buffer)
        if self.variant.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection.socket = context.wrap_socket(connection.socket)
        return connection

    def request_status(self, method: str, target: str, *headers: str, body: bytes | None = None) -> int:
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


@pytest.fixture(scope="module", params=VARIANTS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of each variant, with a film."""
    variant = VARIANTS[request.param]
    folder = tmp_path_factory.mktemp("running") / "workdir"
    folder.mkdir()
    if variant.tls:
        for file in request.getfixturevalue("certificate").iterdir():
            (folder / file.name).symlink_to(file)
    settings = {"SEEKABLE_SENDFILE": str(variant.sendfile), "SEEKABLE_HEADER_TIMEOUT": "1"}
    files = folder / "files"
    with ExitStack() as stack:
        if variant.in_memory and MEMORY.is_dir():  # on tmpfs, preadv cannot report whether a read would block
            files = Path(stack.enter_context(TemporaryDirectory(prefix="seekable-files-", dir=MEMORY)))
        settings["SEEKABLE_FILES_DIR"] = str(files)
        started = stack.enter_context(forked_python(folder, variant.code, **settings))
        port = int(started.wait_for(r"(?:docs +|running on )https?://127\.0\.0\.1:(\d+)")[1])
        server = Running(started, variant, files, port)
        assert server.request_status("PUT", "/files/film.mp4", body=FILM) == 201
        yield server
        assert "Traceback" not in started.log()


@pytest.fixture
def no_server_errors(running: Running) -> Iterator[None]:
    """Fail the test if the server logs an error meanwhile."""
    offset = len(running.program.log())
    yield
    time.sleep(0.05)
    log = running.program.log()[offset:]
    assert "Traceback" not in log
    assert "ERROR" not in log


def spans(*ranges: tuple[int, int]) -> str:
    return "Range: bytes=" + ",".join(f"{start}-{stop - 1}" for start, stop in ranges)


def check_equal(received: bytes, expected: bytes) -> None:
    """Check that bytes are equal, without printing megabytes of difference."""
    assert len(received) == len(expected)
    assert hashlib.sha256(received).digest() == hashlib.sha256(expected).digest()


def parts(response: httpx.Response) -> list[bytes]:
    """Return the parts of a multipart/byteranges. None of them may contain the boundary."""
    boundary = b"\r\n--" + response.headers["content-type"].partition("boundary=")[2].encode()
    _, *found, end = (b"\r\n" + response.content).split(boundary)
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
def test_every_byte_is_correct_on_persistent_connection(
    running: Running, pipelined: bool, no_server_errors: None
) -> None:
    running.request_status("PUT", "/files/empty.mp4", body=b"")

    def request(number: int) -> None:
        _, method, target, headers, _ = EXCHANGES[number]
        connection.request(method, target, *headers)
        if method == "PUT":
            connection.send(b"new")

    with closing(running.connect(buffer=65536 if pipelined else None)) as connection:
        if pipelined:
            for number in range(len(EXCHANGES)):
                request(number)
            time.sleep(0.2)  # until the server cannot write more
        for number, (status, method, _, headers, body) in enumerate(EXCHANGES):
            if not pipelined:
                request(number)
            response = connection.receive_response(method)
            assert response.status_code == status, EXCHANGES[number]
            assert response.headers.get("connection") != "close"
            if body is not None:
                check_equal(response.content, body)
            if headers == (spans(*MANY),):
                for part, (start, stop) in zip(parts(response), MANY, strict=True):
                    check_equal(part, FILM[start:stop])


def test_film_is_sent_whole_when_connection_closes_after_it(running: Running, no_server_errors: None) -> None:
    for head in (
        b"GET /files/film.mp4 HTTP/1.0\r\n",
        b"GET /files/film.mp4 HTTP/1.1\r\nConnection: close\r\n",
    ):
        with closing(running.connect(buffer=65536)) as connection:
            connection.send(head + b"Host: localhost\r\n\r\n")
            check_equal(connection.receive_response().content, FILM)
            assert connection.is_closed()


def test_sendfile_sends_whole_film_where_possible(running: Running, tmp_path: Path) -> None:
    need("strace")
    need_root()
    with inject_faults(tmp_path, running.program.process.pid, "sendfile:delay_enter=1") as trace:
        for method in ("HEAD", "GET"):
            with closing(running.connect()) as connection:
                connection.request(method, "/files/film.mp4")
                check_equal(connection.receive_response(method).content, FILM if method == "GET" else b"")
    calls = [line for line in trace.read_text().splitlines() if "film.mp4" in line]
    sent = [int(line.rpartition(" = ")[2].partition(" ")[0]) for line in calls]
    assert sum(size for size in sent if size > 0) == (SIZE if running.variant.zero_copy else 0)


# Events during a response

Begin = Callable[..., RawConnection]


@pytest.fixture
def begin(running: Running) -> Iterator[Begin]:
    """Call it to start a download, and send `after` behind its request. Returns during the response."""
    connections: list[RawConnection] = []

    def begin(after: bytes = b"", path: str = "film.mp4") -> RawConnection:
        connections.append(connection := running.connect(buffer=65536))
        connection.request("GET", f"/files/{path}")
        assert connection.socket.recv(9, socket.MSG_PEEK) == b"HTTP/1.1 "
        with suppress(ConnectionError):  # the server may refuse it before the end
            connection.send(after)
        time.sleep(0.1)
        return connection

    yield begin
    for connection in connections:
        connection.close()


def receive_body_to_end(connection: RawConnection) -> bytes:
    """Return the body that arrives before the connection closes."""
    response = bytearray()
    try:
        while data := connection.socket.recv(1 << 20):
            response += data
    except ConnectionResetError:
        pass
    return bytes(response.partition(b"\r\n\r\n")[2])


zero_copy = pytest.mark.parametrize("running", ZERO_COPY, indirect=True)


@zero_copy
def test_buffered_bytes_are_sent_before_file(running: Running, no_server_errors: None) -> None:
    """The connection's buffers are so small that they fill up at any byte of the responses."""
    few = [(at, at + 1 + at % 397) for at in range(0, 20 * 5003, 5003)]
    with closing(running.connect(buffer=4096)) as connection:
        for _ in range(80):
            connection.request("GET", "/files/film.mp4", spans(*few))
        for _ in range(80):
            time.sleep(0.002)
            assert parts(connection.receive_response()) == [FILM[start:stop] for start, stop in few]


@pytest.mark.parametrize("running", ["uvloop"], indirect=True)
def test_timeout_of_pipelined_head_begins_after_film(
    running: Running, begin: Begin, no_server_errors: None
) -> None:
    connection = begin(b"GET /health HTTP/1.1\r\nHo")
    time.sleep(1.5)  # longer than the timeout of a head
    check_equal(connection.receive_response().content, FILM)
    assert connection.receive_response().status_code == 408
    assert connection.is_closed()
    connection = begin(b"GET /health HTTP/1.1\r\nHo")
    check_equal(connection.receive_response().content, FILM)
    connection.send(b"st: localhost\r\n\r\n")
    assert connection.receive_response().status_code == 200


@zero_copy
@pytest.mark.parametrize(
    "after", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000], ids=["nonsense", "too long"]
)
def test_error_response_is_not_written_into_film(running: Running, begin: Begin, after: bytes) -> None:
    connection = begin(after)
    received = receive_body_to_end(connection)
    assert len(received) < SIZE
    assert FILM.startswith(received)


@zero_copy
def test_download_continues_when_film_is_replaced_and_deleted(
    running: Running, begin: Begin, no_server_errors: None
) -> None:
    running.request_status("PUT", "/files/old.mp4", body=FILM)
    first = begin(path="old.mp4")
    running.request_status("PUT", "/files/old.mp4", body=FILM[::-1])
    second = begin(path="old.mp4")
    assert running.request_status("DELETE", "/files/old.mp4") == 204
    check_equal(second.receive_response().content, FILM[::-1])
    check_equal(first.receive_response().content, FILM)


@zero_copy
def test_download_breaks_off_when_film_is_truncated(running: Running, begin: Begin) -> None:
    running.request_status("PUT", "/files/short.mp4", body=FILM)
    connections = [begin(path="short.mp4") for _ in range(2)]
    offset = len(running.program.log())
    os.truncate(running.files / "short.mp4", 5_000_000)
    for connection in connections:
        assert receive_body_to_end(connection) == FILM[:5_000_000]
    log = running.program.log()[offset:]
    assert log.count("was aborted: The file ends at byte 5000000.") == 2
    assert "Traceback" not in log


@zero_copy
@pytest.mark.parametrize("error", ["EIO", "ENOMEM"])
def test_download_breaks_off_when_disk_fails(
    running: Running, begin: Begin, error: str, tmp_path: Path
) -> None:
    need("strace")
    need_root()
    connection = begin()
    offset = len(running.program.log())
    with inject_faults(tmp_path, running.program.process.pid, f"sendfile:error={error}"):
        received = receive_body_to_end(connection)
    assert len(received) < SIZE
    assert FILM.startswith(received)
    log = running.program.log()[offset:]
    assert log.count("was aborted: The file could not be read") == 1
    assert "Traceback" not in log
    with closing(running.connect()) as again:
        again.request("GET", "/files/film.mp4")
        check_equal(again.receive_response().content, FILM)


@zero_copy
def test_uncached_bytes_are_read_by_worker_thread(
    running: Running, no_server_errors: None, tmp_path: Path
) -> None:
    need("strace")
    need_root()
    film, process = running.files / "film.mp4", running.program.process.pid
    with (
        inject_faults(tmp_path, process, "pread64:delay_enter=1", paths=(film,)) as trace,
        film.open("rb") as file,
    ):
        for start in (0, 1_500_000, SIZE - 1):
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            with closing(running.connect()) as connection:
                connection.request("GET", "/files/film.mp4", f"Range: bytes={start}-")
                check_equal(connection.receive_response().content, FILM[start:])
    readers = [int(line.split()[0]) for line in trace.read_text().splitlines() if "pread64(" in line]
    assert readers
    assert process not in readers, "the event loop does not read the file"
