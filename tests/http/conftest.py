"""Fixtures of the HTTP tests: clients, raw connections, forms, and the stored files below the server."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any, NamedTuple

import httpx
import pytest

from tests.support import Server
from tests.support.beneath import Beneath, beneath

BOUNDARY = "xxBOUNDARYxx"


class Parts(NamedTuple):
    """A response as it was received."""

    status: int
    interim: tuple[int, ...]
    """The 1xx statuses before it."""
    headers: list[tuple[bytes, bytes]]
    content: bytes


class RawConnection:
    """A TCP connection that sends requests byte for byte; httpx would normalize them."""

    def __init__(self, host: str, port: int, buffer: int | None = None) -> None:
        """Connect, with a receive buffer of `buffer` bytes if given.

        A small one keeps the server's send buffer small as well.
        """
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.socket.settimeout(20)
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            # The kernel reserves 20 segments, and a segment of the loopback interface has 64 KiB.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1460)
        self.socket.connect((host, port))
        self.host = f"{host}:{port}"
        self._buffer = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def request(self, method: str, target: str, *headers: str, body: bytes | None = None) -> None:
        """Send a request, with Host and Content-Length added unless given; no body, no Content-Length."""
        names = {header.partition(":")[0].lower() for header in headers}
        added = [] if "host" in names else [f"Host: {self.host}"]
        if body is not None and not names & {"content-length", "transfer-encoding"}:
            added.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([f"{method} {target} HTTP/1.1", *added, *headers, "", ""])
        # One write: a second one could reach a connection that the server closed after an early response.
        self.send(head.encode("utf-8", "surrogateescape") + (body or b""))

    def receive_response(self, method: str = "GET") -> httpx.Response:
        """Return the next final response; `extensions["interim"]` lists the 1xx statuses before it."""
        status, interim, headers, content = self.receive_parts(method)
        # As a stream, because httpx adds a Content-Length to bytes.
        response = httpx.Response(
            status,
            headers=headers,
            stream=httpx.ByteStream(content),
            extensions={"interim": list(interim)},
        )
        response.read()
        return response

    def receive_parts(self, method: str = "GET") -> "Parts":
        """Return the next final response as it was received, which is faster."""
        interim: list[int] = []
        while True:
            status, headers = self._read_head()
            if status >= 200:
                return Parts(status, tuple(interim), headers, self._read_body(method, status, headers))
            interim.append(status)

    def is_closed(self) -> bool:
        """Block until the server sends or closes; return whether it closed without sending more."""
        try:
            return not self._buffer and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.socket.close()

    def _read_head(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        while b"\r\n\r\n" not in self._buffer:
            self.receive_more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *rest = head.split(b"\r\n")
        headers = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in rest)]
        return int(first.split(b" ")[1]), headers

    def _read_body(self, method: str, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        fields = {name.lower(): value for name, value in headers}
        if method == "HEAD" or status in (204, 304):
            return b""
        if b"content-length" in fields:
            return self._read_bytes(int(fields[b"content-length"]))
        if fields.get(b"transfer-encoding") == b"chunked":
            content = b""
            while size := int(self._read_line(), 16):
                content += self._read_bytes(size)
                assert self._read_line() == b""
            assert self._read_line() == b""
            return content
        while True:  # the body ends with the connection
            try:
                self.receive_more()
            except ConnectionError:
                return self._read_bytes(len(self._buffer))

    def _read_line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self.receive_more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _read_bytes(self, size: int) -> bytes:
        pieces = bytearray(self._buffer)
        while len(pieces) < size:
            data = self.socket.recv(1 << 16)
            if not data:
                raise ConnectionError(f"closed after {len(pieces)} bytes of {size}")
            pieces += data
        self._buffer = bytes(pieces[size:])
        return bytes(pieces[:size])

    def receive_more(self, size: int = 1 << 16) -> None:
        """Read at most `size` bytes, for `receive_response`."""
        data = self.socket.recv(size)
        if not data:
            raise ConnectionError("closed")
        self._buffer += data


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[..., RawConnection]]:
    """Return a function that opens a connection to `server` or to another one."""
    connections: list[RawConnection] = []

    def connect(to: Server = server, host: str = "127.0.0.1") -> RawConnection:
        connections.append(RawConnection(host, to.port))
        return connections[-1]

    yield connect
    for connection in connections:
        connection.close()


@pytest.fixture
def send_request(connect: Callable[..., RawConnection]) -> Callable[..., httpx.Response]:
    """Return a function that sends one request on a new connection, target and headers byte for byte."""

    def send_request(
        method: str,
        target: str,
        *headers: str,
        body: bytes | None = None,
        to: Server | None = None,
        host: str = "127.0.0.1",
    ) -> httpx.Response:
        connection = connect(host=host) if to is None else connect(to, host)
        connection.request(method, target, *headers, body=body)
        response = connection.receive_response(method)
        connection.close()
        return response

    return send_request


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx.Client]:
    """A client for all tests of the session: creating one takes longer than most tests do."""
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def part() -> Callable[..., bytes]:
    """Return a function that encodes one part of a multipart form, its names byte for byte."""

    def part(
        name: str | bytes,
        value: bytes,
        *,
        filename: str | bytes | None = None,
        content_type: str | None = None,
        headers: bytes = b"",
    ) -> bytes:
        name, filename = (
            text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
            for text in (name, filename)
        )
        disposition = b'Content-Disposition: form-data; name="' + name + b'"'
        if filename is not None:
            disposition += b'; filename="' + filename + b'"'
        if content_type is not None:
            headers += f"Content-Type: {content_type}\r\n".encode()
        return (
            b"--" + BOUNDARY.encode() + b"\r\n" + disposition + b"\r\n" + headers + b"\r\n" + value + b"\r\n"
        )

    return part


@pytest.fixture
def send_form(send_request: Callable[..., httpx.Response]) -> Callable[..., httpx.Response]:
    """Return a function that posts parts as a form to /file/upload."""

    def send_form(
        *parts: bytes, query: str = "", to: Server | None = None, headers: tuple[str, ...] = ()
    ) -> httpx.Response:
        body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
        content_type = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
        return send_request("POST", f"/file/upload{query}", content_type, *headers, body=body, to=to)

    return send_form


@pytest.fixture(scope="session")
def raw_storage(server: Server) -> Iterator[Beneath]:
    """The storage of `server`, read and changed behind its back."""
    with closing(beneath(server, connected=True)) as raw_storage:
        yield raw_storage


@pytest.fixture
def folder(folder: str, raw_storage: Beneath) -> Iterator[str]:
    """A folder of this test, emptied afterwards: a small library keeps `storage_unchanged` fast."""
    yield folder
    raw_storage.empty(folder)


@pytest.fixture
def storage_unchanged(server: Server, raw_storage: Beneath) -> Callable[..., AbstractContextManager[None]]:
    """Return a context manager that checks that its block stores nothing and logs no traceback."""

    @contextmanager
    def storage_unchanged(server: Server = server) -> Iterator[None]:
        storage = raw_storage if server is shared_server else beneath(server)
        files, log_offset, leftovers = storage.files(), server.logged(), storage.leftovers()
        yield
        assert storage.files() == files
        assert new_leftovers(storage, leftovers) == set()
        assert "Traceback" not in server.log(log_offset)

    shared_server = server
    return storage_unchanged


def new_leftovers(storage: Beneath, before: set[str]) -> set[str]:
    """Return the leftovers that were not there before, after giving the server 15 s to remove them."""
    deadline = time.monotonic() + 15
    # One observation per round: the server may start on an aborted request between two.
    while (left := storage.leftovers() - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


@pytest.fixture
def list_files(http: httpx.Client) -> Callable[..., dict[str, dict[str, Any]]]:
    """Return a function that lists all files in and below a folder, by path."""

    def list_files(folder: str, http: httpx.Client = http) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        query = {"folder": folder, "recursive": "true", "limit": "1000"}
        while True:
            page = http.get("/files", params=query).raise_for_status().json()
            found |= {item["path"]: item for item in page["items"]}
            if page["next_cursor"] is None:
                return found
            query["cursor"] = page["next_cursor"]

    return list_files


def check_problem(response: httpx.Response, status: int) -> str:
    """Check that a response is a problem document (RFC 9457) with this status; return its detail."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert set(document) >= {"title", "status", "detail"}
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    return str(document["detail"])


@pytest.fixture(scope="session", name="check_problem")
def check_problem_fixture() -> Callable[..., str]:
    return check_problem


@pytest.fixture
def no_server_errors(server: Server, http: httpx.Client) -> Iterator[None]:
    """Check that the server logs no error and no traceback during the test."""
    log_offset = server.logged()
    yield
    for _ in range(2):  # the event loop finishes pending work before it responds
        http.get("/health/live").raise_for_status()
        time.sleep(0.01)
    assert "Traceback" not in server.log(log_offset)
    assert "ERROR" not in server.log(log_offset)
