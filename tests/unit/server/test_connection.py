"""Our HTTP/1.1 connection on a real socket, with an application that records its requests."""

import asyncio
import fcntl
import os
import sys
import termios
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from uvicorn.server import ServerState

from app.metrics.request_counters import RequestCounters
from app.server.connection_limits import ConnectionLimits
from app.server.deadlines import ClientLimits
from app.server.http_connection import HttpConnection
from app.server.uvicorn_config import UvicornConfig
from app.server.websocket import WebSocketProtocol
from app.server.zerocopy import EXTENSION

pytestmark = pytest.mark.anyio

Received = tuple[str, str, bytes]
"""Method, target and body of a request as the application received it."""


class Service:
    """A server on a free port, its connections, and the requests that its application received."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.headers: list[dict[bytes, bytes]] = []
        self.connections: list[HttpConnection] = []
        self.port = 0

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            self.requests.append(("WEBSOCKET", scope["path"], b""))
            await receive()
            await send({"type": "websocket.close" if scope["path"] == "/refused" else "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                self.requests.append(("TEXT", message["text"], b""))
                await send({"type": "websocket.send", "text": "received"})
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.requests.append((scope["method"], scope["raw_path"].decode(), body))
        self.headers.append(dict(scope["headers"]))
        if scope["path"] == "/pieces":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"piece", "more_body": True})
            await send({"type": "http.response.body"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def exchange(self, *segments: bytes) -> bytes:
        """Send each segment after the server has read the one before it.

        Returns the responses when the connection has ended or is idle.
        """
        known = len(self.connections)
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                while len(self.connections) == known:
                    await asyncio.sleep(0)
                return await self._exchange(reader, writer, self.connections[-1], segments)
            finally:
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        connection: HttpConnection,
        segments: Sequence[bytes],
    ) -> bytes:
        transport, sent = connection.transport, 0

        def is_ours() -> bool:
            return not transport.is_closing() and transport.get_protocol() is connection

        for segment in segments:
            writer.write(segment)
            sent += len(segment)
            while is_ours() and connection.received < sent:
                await asyncio.sleep(0)
        while is_ours() and connection.is_responding():
            await asyncio.sleep(0)
        if is_ours():
            transport.close()
        responses = b""
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                responses += data
                if responses.endswith(b"received"):
                    break
        return responses


@asynccontextmanager
async def serving(
    app: Any = None, *, sendfile: bool = False, fast_path: bool = False
) -> AsyncIterator[Service]:
    """Serve `app`, or the application of Service."""
    service = Service()
    limits = ClientLimits(head_size=8192, head=10, body=10, body_rate=1, reader=10, idle=10)
    config = UvicornConfig(
        app or service.app,
        protocol=HttpConnection,
        limits=limits,
        connections=ConnectionLimits(per_peer=1, total=None, exempt=()),
        sendfile=sendfile,
        fast_path=fast_path,
        log_requests=False,
        name_requests=False,
        interface="asgi3",
        ws=WebSocketProtocol,
        log_config=None,
    )
    config.load()
    state = ServerState()

    def make_protocol() -> HttpConnection:
        protocol = HttpConnection(config, state, {"requests": RequestCounters()})
        service.connections.append(protocol)
        return protocol

    server = await asyncio.get_running_loop().create_server(make_protocol, "127.0.0.1", 0)
    service.port = server.sockets[0].getsockname()[1]
    try:
        yield service
    finally:
        server.close()
        for transport in (connection.transport for connection in service.connections):
            if not transport.is_closing() or transport.get_write_buffer_size():
                transport.abort()
        while state.connections or state.tasks:
            await asyncio.sleep(0)


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode() + body


LENGTH, CHUNKED = "Content-Length: 5", "Transfer-Encoding: chunked"
BODIES = {LENGTH: b"12345", CHUNKED: b"5\r\n12345\r\n0\r\n\r\n"}
NEXT = request("GET /next")

UPGRADES = {
    "curl": ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ"],
    "spelling": ["CONNECTION:  keep-alive ,\tuPGRADE", "uPgRaDe: H2C"],
    "several": ["Connection: keep-alive", "Upgrade: foo/1, bar", "Connection: upgrade", "Upgrade: h2c"],
    "websocket": ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"],
    "nothing": ["Connection: upgrade", "Upgrade:"],
}


@pytest.mark.parametrize("framing", BODIES)
@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_upgrade_is_ignored_wherever_segments_split_it(upgrade: str, framing: str) -> None:
    """The request keeps its body, and the pipelined request after it is served."""
    data = request("PUT /a", *UPGRADES[upgrade], framing, body=BODIES[framing])
    expected = [("PUT", "/a", b"12345"), ("GET", "/next", b"")]
    async with serving() as service:
        for cut in range(1, len(data) + 1):
            service.requests.clear()
            responses = await service.exchange(data[:cut], data[cut:] + NEXT)
            assert (cut, service.requests) == (cut, expected)
            assert responses.count(b"HTTP/1.1 200 OK\r\n") == 2
            assert not service.headers[-2].get(b"upgrade")


async def test_upgrade_is_ignored_byte_by_byte_and_in_pipeline() -> None:
    upgrade = request("PUT /a", *UPGRADES["curl"], LENGTH, body=b"12345")
    async with serving() as service:
        await service.exchange(*(bytes([byte]) for byte in upgrade + NEXT))
        await service.exchange((upgrade + NEXT) * 20)
        assert service.requests == [("PUT", "/a", b"12345"), ("GET", "/next", b"")] * 21


@pytest.mark.parametrize(("option", "responses"), [("close", 1), ("keep-alive", 2)])
async def test_ignored_upgrade_keeps_other_connection_options(option: str, responses: int) -> None:
    async with serving() as service:
        upgrade = request("GET /a", f"Connection: Upgrade, {option}, HTTP2-Settings", "Upgrade: h2c")
        assert (await service.exchange(upgrade + NEXT)).count(b"HTTP/1.1 200") == responses
        assert service.headers[0][b"connection"] == option.encode()


@pytest.mark.parametrize("upgrade", [[], UPGRADES["websocket"]], ids=["plain", "websocket"])
@pytest.mark.parametrize("framing", ["Accept: */*", LENGTH, CHUNKED])
@pytest.mark.parametrize("target", ["localhost:80", "/files/x", "http://localhost/"])
async def test_connect_is_refused_and_later_bytes_are_not_read(
    target: str, framing: str, upgrade: list[str]
) -> None:
    data = request(f"CONNECT {target}", framing, *upgrade)
    async with serving() as service:
        for cut in range(1, len(data) + 1):
            responses = await service.exchange(data[:cut], data[cut:], NEXT)
            assert responses.startswith(b"HTTP/1.1 501 Not Implemented\r\n"), cut
            assert responses.count(b"HTTP/1.1 ") == 1
        assert (await service.exchange(data + NEXT)).count(b"HTTP/1.1 ") == 1
        assert service.requests == []


HANDSHAKE = (
    *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
TEXT = b"\x81\x82\0\0\0\0hi"


async def test_websocket_opens_wherever_segments_split_its_handshake() -> None:
    """A frame that the client sends before the handshake ends is buffered."""
    data = request("GET /socket", *HANDSHAKE) + TEXT
    async with serving() as service:
        for cut in range(1, len(data) + 1):
            service.requests.clear()
            responses = await service.exchange(data[:cut], data[cut:])
            assert responses.startswith(b"HTTP/1.1 101 "), cut
            assert service.requests == [("WEBSOCKET", "/socket", b""), ("TEXT", "hi", b"")]


async def test_refused_websocket_stops_reading_later_bytes() -> None:
    data = request("GET /refused", *HANDSHAKE)
    async with serving() as service:
        for segments in ([data + NEXT], [data, NEXT], [data[:20], data[20:] + NEXT]):
            responses = await service.exchange(*segments)
            assert responses.startswith(b"HTTP/1.1 403 ")
            assert responses.count(b"HTTP/1.1 ") == 1
        assert service.requests == [("WEBSOCKET", "/refused", b"")] * 3


async def test_handshake_with_body_is_served_as_plain_request() -> None:
    async with serving() as service:
        for framing, body in BODIES.items():
            responses = await service.exchange(request("GET /socket", *HANDSHAKE, framing, body=body) + NEXT)
            assert responses.count(b"HTTP/1.1 200") == 2
        assert service.requests == [("GET", "/socket", b"12345"), ("GET", "/next", b"")] * 2


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        ("http://localhost", "/", b"localhost"),
        ("http://other.example:81/a?b", "/a", b"other.example:81"),
        ("/é", "/%C3%A9", b"localhost"),
        ("http://other.example/é", "/%C3%A9", b"other.example"),
    ],
)
async def test_target_reaches_application_in_origin_form(target: str, path: str, host: bytes) -> None:
    data = request(f"PUT {target}", LENGTH, "X: é", body="éé1".encode())
    async with serving() as service:
        for cut in range(1, len(data) + 1):
            service.requests.clear()
            await service.exchange(data[:cut], data[cut:])
            assert service.requests == [("PUT", path, "éé1".encode())], cut
            assert service.headers[-1][b"host"] == host
            assert service.headers[-1][b"x"] == "é".encode()
        service.requests.clear()
        await service.exchange(b"\r\n" + data, b"\r\n", data)
        assert service.requests == [("PUT", path, "éé1".encode())] * 2


@pytest.mark.parametrize("target", ["ftp://localhost/", "http://user@localhost/", "http:///a"])
async def test_malformed_target_gets_400(target: str) -> None:
    async with serving() as service:
        for headers in ((), UPGRADES["curl"], HANDSHAKE):
            responses = await service.exchange(request(f"GET {target}", *headers) + NEXT)
            assert responses.startswith(b"HTTP/1.1 400 ")
            assert responses.count(b"HTTP/1.1 ") == 1
        assert service.requests == []


async def test_refusal_never_carries_id_of_an_earlier_request() -> None:
    async with serving() as service:
        named = request("GET /a", "X-Request-Id: one")
        responses = await service.exchange(named + b"nonsense\r\n\r\n")
        assert b"HTTP/1.1 400 " in responses
        assert b"x-request-id: one" not in responses.partition(b"HTTP/1.1 400 ")[2]
        responses = await service.exchange(request("CONNECT h:80", "X-Request-Id: one"))
        assert b"x-request-id: one" in responses


@pytest.mark.parametrize("version", ["0.9", "1.0", "2.0"])
async def test_response_of_unknown_length_closes_connection_unless_http_1_1(
    version: str,
) -> None:
    head = f"GET /pieces HTTP/{version}\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n".encode()
    async with serving() as service:
        responses = await service.exchange(head + NEXT)
        assert b"connection: close\r\n" in responses
        assert responses.endswith(b"\r\n\r\npiece")  # and no second response inside the body


# Applications that break the rules of ASGI, or their clients those of HTTP


def start(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def piece(body: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


FIVE = (b"content-length", b"5")
ERROR = b"HTTP/1.1 500 Internal Server Error\r\n"
BEGUN = b"HTTP/1.1 200 OK\r\n"

# The messages that the application sends before it raises, and the beginning and the end of the response.
BROKEN: dict[str, tuple[list[dict[str, Any]], bytes, bytes]] = {
    "nothing": ([], ERROR, b"\r\n\r\nInternal Server Error"),
    "a body only": ([piece(b"x")], ERROR, b"\r\n\r\nInternal Server Error"),
    "an invalid value": ([start((b"x", b"a\r\nb: c"))], ERROR, b"\r\n\r\nInternal Server Error"),
    "an invalid name": ([start((b"x y", b"a"))], ERROR, b"\r\n\r\nInternal Server Error"),
    "a head": ([start(FIVE)], BEGUN, b"\r\n\r\n"),
    "two heads": ([start(FIVE), start(FIVE)], BEGUN, b"\r\n\r\n"),
    "less than its length": ([start(FIVE), piece(b"abc")], BEGUN, b"\r\n\r\nabc"),
    "more than its length": ([start(FIVE), piece(b"abcdef")], BEGUN, b"\r\n\r\n"),
    "a part of its length": ([start(FIVE), piece(b"abc", more=True)], BEGUN, b"\r\n\r\nabc"),
    "a part in chunks": ([start(), piece(b"abc", more=True)], BEGUN, b"\r\n\r\n3\r\nabc\r\n"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("ending", ["raises", "returns"])
async def test_response_that_application_breaks_off_does_not_look_complete(ending: str, case: str) -> None:
    messages, first, last = BROKEN[case]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
        if ending == "raises":
            raise ValueError

    async with serving(app) as service:
        response = await service.exchange(request("GET /") + NEXT)
    assert response.startswith(first)
    assert response.endswith(last)
    assert response.count(b"HTTP/1.1 ") == 1
    assert (b"\r\nconnection: close\r\n" in response) == (first is ERROR)


async def test_error_in_place_of_response_to_head_has_no_body() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError

    async with serving(app) as service:
        response = await service.exchange(request("HEAD /"))
    assert response.startswith(ERROR)
    assert response.endswith(b"\r\n\r\n")


async def test_broken_off_response_of_unknown_length_resets_connection_of_http_1_0() -> None:
    """Its end would be that of the body."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(piece(b"abc", more=True))
        raise ValueError

    async with serving(app) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await reader.read()
            await reader.read()
        writer.close()


async def test_connection_persists_when_application_fails_after_its_response() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(FIVE))
        await send(piece(b"12345"))
        raise ValueError

    async with serving(app) as service:
        assert (await service.exchange(request("GET /") + NEXT)).count(b"12345") == 2


async def read_all(receive: Any) -> bytes:
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    return body


EXPECT = "Expect: 100-continue"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize(
    ("reads", "head", "body", "continued", "closes"),
    [
        (True, request("PUT /", LENGTH, EXPECT), b"", True, False),
        (True, request("PUT /", LENGTH, EXPECT), b"1", False, False),
        (False, request("PUT /", LENGTH, EXPECT), b"", False, True),
        (False, request("PUT /", LENGTH, EXPECT), b"12345", False, False),
        (True, request("PUT /", LENGTH, EXPECT).replace(b"1.1", b"1.0"), b"1", False, True),
    ],
)
async def test_100_continue_is_sent_only_to_client_that_waits_for_it(
    reads: bool, head: bytes, body: bytes, continued: bool, closes: bool
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if reads:
            assert len(await read_all(receive)) == 5
        await send(start(FIVE))
        await send(piece(b"abcde"))

    async with serving(app) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(head + body)
        if continued:
            assert await reader.readexactly(len(CONTINUE)) == CONTINUE
        if reads:
            writer.write(b"12345"[len(body) :])
        response = await reader.readuntil(b"abcde")
        assert response.startswith(BEGUN)
        assert (b"connection: close" in response) == closes
        writer.close()


async def test_every_waiting_receive_returns_when_client_leaves() -> None:
    received: list[str] = []
    waits, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        await send(start())
        await send(piece(b"x", more=True))
        waiting = [asyncio.ensure_future(receive()) for _ in range(3)]
        waits.set()
        received.extend([(await one)["type"] for one in waiting])
        received.append((await receive())["type"])
        await send(piece(b"dropped", more=True))
        ended.set()

    async with serving(app) as service, asyncio.timeout(10):
        _, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(request("GET /"))
        await waits.wait()
        writer.close()
        await ended.wait()
    assert received == ["http.disconnect"] * 4


@pytest.mark.parametrize(
    ("method", "begins", "refusal"),
    [("GET", False, b"HTTP/1.1 400 "), ("GET", True, b""), ("PUT", False, b""), ("PUT", True, b"")],
)
async def test_refusal_is_not_sent_where_client_would_take_it_for_a_response(
    method: str, begins: bool, refusal: bytes
) -> None:
    """It would be read as the body of a begun response, or as the outcome of a change that may be made."""
    runs = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        if begins:
            await send(start(FIVE))
            await send(piece(b"ab", more=True))
        runs.set()
        assert (await receive())["type"] == "http.disconnect"

    async with serving(app) as service, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(request(f"{method} /"))
        await runs.wait()
        if begins:
            assert (await reader.readuntil(b"\r\n\r\nab")).startswith(BEGUN)
        writer.write(b"nonsense\r\n\r\n")
        response = b""
        with suppress(ConnectionError):
            response = await reader.read()
        assert response.startswith(refusal)
        assert bool(response) == bool(refusal)
        writer.close()


async def test_pipelined_change_is_never_refused() -> None:
    """The client would take the refusal of a later request for the outcome of the change."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_to_disconnect(receive)

    async with serving(app) as service, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        change = request("PUT /", LENGTH, body=b"12345")
        writer.write(request("GET /") + change + b"nonsense\r\n\r\n")
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()


async def read_to_disconnect(receive: Any) -> None:
    while (await receive())["type"] == "http.request":
        pass


async def test_refusal_ends_application_even_if_client_does_not_read() -> None:
    """The refusal waits behind a response that the client has not read."""
    size, waits, ended = 20_000_000, asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/first":
            await send(start((b"content-length", b"%d" % size)))
            await send(piece(bytes(size)))
            return
        waits.set()
        await read_to_disconnect(receive)
        ended.set()

    async with serving(app) as service, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=1 << 10)
        writer.write(request("GET /first"))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(NEXT)
        await waits.wait()
        writer.write(b"nonsense\r\n\r\n")
        await ended.wait()
        response = bytearray(await reader.read())
        assert bytes(response[size : size + 13]) == b"HTTP/1.1 400 "
        writer.close()


async def test_handshake_behind_unfinished_response_ends_connection() -> None:
    """On a WebSocket no deadline would apply to the response."""
    runs = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
        else:
            runs.set()
            await read_to_disconnect(receive)

    async with serving(app) as service, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(request("GET /"))
        await runs.wait()
        writer.write(request("GET /socket", *HANDSHAKE))
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()


async def test_bodies_are_read_only_as_fast_as_the_application_reads() -> None:
    """The body is shorter than those that bypass the parser, and is sent in many segments."""
    size, reads = 250_000, asyncio.Event()
    received: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await reads.wait()
        received.append(len(await read_all(receive)))
        await send(start(FIVE))
        await send(piece(b"abcde"))

    async with serving(app) as service, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(request("PUT /", f"Content-Length: {size}"))
        connection = None
        for _ in range(size // 10_000):
            writer.write(bytes(10_000))
            before = -1
            while connection is None or connection.received != before:
                connection = service.connections[-1] if service.connections else None
                before = connection.received if connection is not None else -1
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        assert connection is not None
        assert connection.received < size
        reads.set()
        assert (await reader.readuntil(b"abcde")).startswith(BEGUN)
        assert received == [size]
        writer.close()


async def test_every_loop_over_receive_ends_when_client_leaves() -> None:
    ended = asyncio.Event()
    pieces = asyncio.Semaphore(0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def loop() -> None:
            while (await receive())["type"] == "http.request":
                pieces.release()

        await asyncio.gather(loop(), loop(), loop())
        ended.set()

    async with serving(app) as service, asyncio.timeout(10):
        _, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(request("PUT /", LENGTH))
        for byte in b"1234":
            writer.write(bytes([byte]))
            await pieces.acquire()
        writer.close()
        await ended.wait()


@pytest.mark.parametrize(("waiting", "status"), [(100, b"200"), (101, b"429")])
async def test_too_many_pipelined_requests_get_429(waiting: int, status: bytes) -> None:
    """One request is answered while the others wait."""
    runs, ends = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        runs.set()
        await ends.wait()
        await send(start(FIVE))
        await send(piece(b"abcde"))

    async with serving(app) as service, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(request("GET /"))
        await runs.wait()
        writer.write(NEXT * waiting)
        if status == b"429":
            refusal = await reader.readuntil(b"\r\n")
            ends.set()
            assert refusal.startswith(b"HTTP/1.1 429 ")
        connection = service.connections[-1]
        while status == b"200" and connection.received < len(request("GET /") + NEXT * waiting):
            await asyncio.sleep(0)
        ends.set()
        if status == b"200":
            for _ in range(waiting + 1):
                assert (await reader.readuntil(b"abcde")).startswith(BEGUN)
        writer.close()


def unread(connection: HttpConnection) -> int:
    """Return the bytes that the kernel has received and the server has not read (tcp(7))."""
    found = fcntl.ioctl(connection.transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4))
    return int.from_bytes(found, sys.byteorder)


async def turns(count: int = 50) -> None:
    """Let the event loop do whatever it can do at once."""
    for _ in range(count):
        await asyncio.sleep(0)


def answering_when(ends: asyncio.Semaphore) -> Any:
    """Return an application that answers with the path, each time when it may go on."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        await ends.acquire()
        await send(start(FIVE))
        await send(piece(scope["path"].encode()))

    return app


async def test_pipelined_requests_are_answered_in_order_and_while_some_wait_none_is_read() -> None:
    ends = asyncio.Semaphore(0)
    async with serving(answering_when(ends)) as service, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        first = b"".join(request(f"GET /{number}") for number in (1000, 1001, 1002))
        writer.write(first)
        while not service.connections or service.connections[-1].received < len(first):
            await asyncio.sleep(0)
        connection = service.connections[-1]
        await turns()
        writer.write(request("GET /1003"))
        while not unread(connection):
            assert connection.received == len(first)
            await asyncio.sleep(0)
        await turns()
        assert connection.received == len(first)
        for number in (1000, 1001, 1002, 1003):
            ends.release()
            assert (await reader.readuntil(b"/%d" % number)).count(b"HTTP/1.1 ") == 1
        writer.close()


async def test_shutdown_waits_for_pipelined_requests() -> None:
    ends = asyncio.Semaphore(0)
    async with serving(answering_when(ends)) as service, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        data = request("GET /1000") + request("GET /1001")
        writer.write(data)
        while not service.connections or service.connections[-1].received < len(data):
            await asyncio.sleep(0)
        service.connections[-1].shutdown()
        ends.release()
        ends.release()
        one, other = (await reader.read()).split(b"/1000")
        assert b"connection: close" not in one
        assert b"connection: close" in other
        assert other.endswith(b"/1001")
        writer.close()


@pytest.mark.parametrize("leaves", [False, True])
async def test_response_is_sent_only_as_fast_as_the_client_reads(leaves: bool) -> None:
    part, count = bytes(256 << 10), 100
    sent, ended = [0], asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start((b"content-length", b"%d" % (len(part) * count))))
        for number in range(count):
            await send(piece(part, more=number < count - 1))
            sent[0] += 1
        ended.set()

    async with serving(app) as service, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=1 << 10)
        writer.write(request("GET /"))
        while not service.connections or not service.connections[-1].write_paused:
            assert not ended.is_set()
            await asyncio.sleep(0)
        await turns()
        assert sent[0] < count
        assert service.connections[-1].transport.get_write_buffer_size() <= 2 * len(part)
        if leaves:
            writer.transport.abort()
        else:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(part) * count)
        await ended.wait()
        writer.close()


async def test_connection_reads_on_after_pipelined_requests() -> None:
    """Even if the application has not called receive, as for downloads."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(FIVE))
        await send(piece(b"abcde"))

    async with serving(app) as service, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        for count in (3, 1):
            writer.write(NEXT * count)
            for _ in range(count):
                assert (await reader.readuntil(b"abcde")).startswith(BEGUN)
        writer.close()


async def test_bytes_of_next_response_are_not_counted_twice(tmp_path: Path) -> None:
    """Even if the application of the one before has not returned, because it closes a file."""
    film, ends = tmp_path / "film", asyncio.Event()
    film.write_bytes(b"abcde")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with film.open("rb") as file:
            await send(start(FIVE))
            await send({"type": EXTENSION, "file": file, "offset": 0, "count": 5})
            if scope["path"] == "/first":
                await ends.wait()

    async with serving(app, sendfile=True) as service, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        for line in ("GET /first", "GET /next"):
            writer.write(request(line))
            assert (await reader.readuntil(b"abcde")).startswith(BEGUN)
        ends.set()
        counters = service.connections[-1].instrumentation.requests
        while counters.active:
            await asyncio.sleep(0)
        assert [(totals.count, totals.sent) for totals in counters.totals.values()] == [(2, 10)]
        writer.close()


async def test_file_follows_its_head_when_the_head_fills_the_socket(tmp_path: Path) -> None:
    film, long = tmp_path / "film", (b"x", b"y" * 10_000_000)
    film.write_bytes(b"abcde")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with film.open("rb") as file:
            await send(start(FIVE, long))
            await send({"type": EXTENSION, "file": file, "offset": 0, "count": 5})

    async with serving(app, sendfile=True) as service, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=1000)
        writer.write(request("GET /", "Connection: close"))
        while not (service.connections and service.connections[-1].write_paused):
            await asyncio.sleep(0)
        await turns()
        response = await reader.read()
        assert response.endswith(b"x: %b\r\nconnection: close\r\n\r\nabcde" % long[1])
        writer.close()


async def test_file_beyond_its_length_is_not_sent(tmp_path: Path) -> None:
    film = tmp_path / "film"
    film.write_bytes(b"abcdefgh")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with film.open("rb") as file:
            await send(start(FIVE))
            await send({"type": EXTENSION, "file": file, "offset": 0, "count": 6})

    async with serving(app, sendfile=True) as service:
        response = await service.exchange(request("GET /") + NEXT)
        assert response.endswith(b"\r\n\r\n")
        assert response.count(b"HTTP/1.1 ") == 1


async def test_spans_that_are_sent_at_once_let_other_connections_in(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(bytes(100))
    sent: list[int] = []
    sent_before_others: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asyncio.get_running_loop().call_soon(lambda: sent_before_others.append(len(sent)))
        with film.open("rb") as file:
            await send(start((b"content-length", b"100")))
            for offset in range(100):
                block = {"type": EXTENSION, "file": file, "offset": offset, "count": 1}
                await send({**block, "more_body": offset < 99})
                sent.append(offset)

    async with serving(app, sendfile=True) as service, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(request("GET /"))
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(100) == bytes(100)
        writer.close()
    assert sent_before_others[0] <= 1


async def test_writable_socket_is_not_watched_while_next_span_is_awaited(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    size = 16 << 20  # more than the buffers of both sockets take
    film.write_bytes(bytes(size))
    ready = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with film.open("rb") as file:
            await send(start((b"content-length", b"%d" % (2 * size))))
            block = {"type": EXTENSION, "file": file, "offset": 0, "count": size}
            await send({**block, "more_body": True})
            await ready.wait()
            await send(block)

    async with serving(app, sendfile=True) as service, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        before = count_descriptors()
        writer.write(request("GET /"))
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(size)
        try:
            while count_descriptors() > before + 1:  # the film
                await asyncio.sleep(0)
        finally:
            ready.set()
        await reader.readexactly(size)
        while count_descriptors() > before:
            await asyncio.sleep(0)
        writer.close()


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
