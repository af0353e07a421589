"""What the tests over HTTP share: clients, raw connections, forms, and a look at what is stored."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import httpx
import pytest

from tests.beneath import Beneath, beneath
from tests.support import Server

BOUNDARY = "xxBOUNDARYxx"


class Connection:
    """A connection on which anything can be sent. httpx would tidy up what it is given."""

    def __init__(self, host: str, port: int, buffer: int | None = None) -> None:
        """`buffer` is how much the kernel keeps of what is not read; the server's then keeps little too."""
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.socket.settimeout(20)
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            # Not the 64 KiB of loopback, of which it would keep room for twenty.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1460)
        self.socket.connect((host, port))
        self.host = f"{host}:{port}"
        self._buffer = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def request(self, method: str, target: str, *headers: str, body: bytes | None = None) -> None:
        """Send a request. Host and Content-Length are added unless they are given (or there is no body)."""
        given = {header.partition(":")[0].lower() for header in headers}
        added = [] if "host" in given else [f"Host: {self.host}"]
        if body is not None and not given & {"content-length", "transfer-encoding"}:
            added.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([f"{method} {target} HTTP/1.1", *added, *headers, "", ""])
        # One write: what is sent after an early answer would meet a closed connection.
        self.send(head.encode("utf-8", "surrogateescape") + (body or b""))

    def answer(self, method: str = "GET") -> httpx.Response:
        """The next answer, whole. The interim ones before it are in `extensions["interim"]`."""
        interim: list[int] = []
        while True:
            status, headers = self._head()
            if status >= 200:
                break
            interim.append(status)
        content = self._body(method, status, headers)
        # Given as a stream, because httpx would add a Content-Length to other content.
        response = httpx.Response(
            status, headers=headers, stream=httpx.ByteStream(content), extensions={"interim": interim}
        )
        response.read()
        return response

    def is_closed(self) -> bool:
        """Whether the server closes the connection now, with nothing more to say."""
        try:
            return not self._buffer and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.socket.close()

    def _head(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *rest = head.split(b"\r\n")
        headers = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in rest)]
        return int(first.split(b" ")[1]), headers

    def _body(self, method: str, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        fields = {name.lower(): value for name, value in headers}
        if method == "HEAD" or status in (204, 304):
            return b""
        if b"content-length" in fields:
            return self._take(int(fields[b"content-length"]))
        if fields.get(b"transfer-encoding") == b"chunked":
            content = b""
            while size := int(self._line(), 16):
                content += self._take(size)
                assert self._line() == b""
            assert self._line() == b""
            return content
        while True:  # what ends with the connection
            try:
                self._more()
            except ConnectionError:
                return self._take(len(self._buffer))

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _take(self, size: int) -> bytes:
        pieces = bytearray(self._buffer)
        while len(pieces) < size:
            data = self.socket.recv(1 << 16)
            if not data:
                raise ConnectionError(f"closed after {len(pieces)} bytes of {size}")
            pieces += data
        self._buffer = bytes(pieces[size:])
        return bytes(pieces[:size])

    def _more(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("closed")
        self._buffer += data


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[..., Connection]]:
    """Open a connection: to `server`, or to the one given."""
    connections: list[Connection] = []

    def connect(to: Server = server, host: str = "127.0.0.1") -> Connection:
        connections.append(Connection(host, to.port))
        return connections[-1]

    yield connect
    for connection in connections:
        connection.close()


@pytest.fixture
def ask(connect: Callable[..., Connection]) -> Callable[..., httpx.Response]:
    """One request on a connection of its own, with its target and headers exactly as given."""

    def ask(
        method: str,
        target: str,
        *headers: str,
        body: bytes | None = None,
        to: Server | None = None,
        host: str = "127.0.0.1",
    ) -> httpx.Response:
        connection = connect(host=host) if to is None else connect(to, host)
        connection.request(method, target, *headers, body=body)
        response = connection.answer(method)
        connection.close()
        return response

    return ask


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx.Client]:
    """One client for all tests: making one takes longer than most tests do."""
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def part() -> Callable[..., bytes]:
    """A part of a form, its names exactly as given."""

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
def send_form(ask: Callable[..., httpx.Response]) -> Callable[..., httpx.Response]:
    """Send parts as a form to /file/upload."""

    def send_form(
        *parts: bytes, query: str = "", to: Server | None = None, headers: tuple[str, ...] = ()
    ) -> httpx.Response:
        body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
        content_type = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
        return ask("POST", f"/file/upload{query}", content_type, *headers, body=body, to=to)

    return send_form


@pytest.fixture(scope="session")
def below(server: Server) -> Iterator[Beneath]:
    """What is beneath the server of all tests."""
    with closing(beneath(server, connected=True)) as below:
        yield below


@pytest.fixture
def folder(folder: str, below: Beneath) -> Iterator[str]:
    """A folder of its own, which is emptied at the end, so that looking at all that is stored stays cheap."""
    yield folder
    below.empty(folder)


@pytest.fixture
def unchanged(server: Server, below: Beneath) -> Callable[..., AbstractContextManager[None]]:
    """Around what must store nothing, leave nothing behind, and be no surprise to the program."""

    @contextmanager
    def unchanged(server: Server = server) -> Iterator[None]:
        under = below if server is ours else beneath(server)
        before, said, debris = under.files(), server.logged(), under.leftovers()
        yield
        assert under.files() == before
        assert left_behind(under, debris) == set()
        assert "Traceback" not in server.log(said)

    ours = server
    return unchanged


def left_behind(under: Beneath, before: set[str]) -> set[str]:
    """What is there besides, once there was time to clear it away."""
    deadline = time.monotonic() + 15
    # One look decides: between two, the server may just begin with a request that was broken off.
    while (left := under.leftovers() - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def stored(http: httpx.Client, folder: str = "") -> dict[str, dict[str, Any]]:
    """All files in a folder and below it, by path, as the lists give them."""
    found: dict[str, dict[str, Any]] = {}
    query = {"folder": folder, "recursive": "true", "limit": "1000"}
    while True:
        page = http.get("/files", params=query).raise_for_status().json()
        found |= {item["path"]: item for item in page["items"]}
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


@pytest.fixture
def listed(http: httpx.Client) -> Callable[..., dict[str, dict[str, Any]]]:
    """All files in a folder and below it, by path."""

    def listed(folder: str, http: httpx.Client = http) -> dict[str, dict[str, Any]]:
        return stored(http, folder)

    return listed


def problem_of(response: httpx.Response, status: int) -> str:
    """Check that an answer is a problem document of this status. What it says in detail."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert set(document) >= {"title", "status", "detail"}
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    return str(document["detail"])


@pytest.fixture(scope="session")
def problem() -> Callable[..., str]:
    return problem_of


@pytest.fixture
def untroubled(server: Server, http: httpx.Client) -> Iterator[None]:
    """Nothing that the test does is a surprise to the program."""
    said = server.logged()
    yield
    for _ in range(2):  # what was under way in its loop is done before it answers
        http.get("/health/live").raise_for_status()
        time.sleep(0.01)
    assert "Traceback" not in server.log(said)
    assert "ERROR" not in server.log(said)
