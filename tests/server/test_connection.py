"""Our HTTP/1.1 connection on a real socket, with a program that only notes what it is asked."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from uvicorn.server import ServerState

from app.observing.requests import Requests
from app.server.connection_limits import ConnectionLimits
from app.server.deadlines import Limits
from app.server.protocol import Config, HttpProtocol
from app.server.websocket import WebSocketProtocol

pytestmark = pytest.mark.anyio

Asked = tuple[str, str, bytes]
"""Method, target and body of a request as the program saw it."""


class Service:
    """A server on a free port, its connections, and the requests that have reached its program."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.fields: list[dict[bytes, bytes]] = []
        self.connections: list[HttpProtocol] = []
        self.port = 0

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            self.asked.append(("WEBSOCKET", scope["path"], b""))
            await receive()
            await send({"type": "websocket.close" if scope["path"] == "/refused" else "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                self.asked.append(("TEXT", message["text"], b""))
                await send({"type": "websocket.send", "text": "heard"})
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.asked.append((scope["method"], scope["raw_path"].decode(), body))
        self.fields.append(dict(scope["headers"]))
        if scope["path"] == "/pieces":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"piece", "more_body": True})
            await send({"type": "http.response.body"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def say(self, *segments: bytes) -> bytes:
        """Send each segment when the one before has been read; return all answers until the connection ends
        or is idle."""
        known = len(self.connections)
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                while len(self.connections) == known:
                    await asyncio.sleep(0)
                return await self._talk(reader, writer, self.connections[-1], segments)
            finally:
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()

    async def _talk(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        connection: HttpProtocol,
        segments: Sequence[bytes],
    ) -> bytes:
        transport, sent = connection.transport, 0

        def is_ours() -> bool:
            return not transport.is_closing() and transport.get_protocol() is connection

        for segment in segments:
            writer.write(segment)
            sent += len(segment)
            while is_ours() and connection._received < sent:
                await asyncio.sleep(0)
        while is_ours() and connection._is_answering():
            await asyncio.sleep(0)
        if is_ours():
            transport.close()
        answers = b""
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                answers += data
                if answers.endswith(b"heard"):
                    break
        return answers


@asynccontextmanager
async def serving() -> AsyncIterator[Service]:
    service = Service()
    limits = Limits(head_size=8192, head=10, body=10, body_rate=1, reader=10, idle=10)
    config = Config(
        service.app,  # type: ignore[arg-type]
        limits=limits,
        connections=ConnectionLimits(per_peer=1, in_all=None, exempt=()),
        sendfile=False,
        log_requests=False,
        name_requests=False,
        interface="asgi3",
        ws=WebSocketProtocol,
        log_config=None,
    )
    config.load()
    state = ServerState()

    def connected() -> HttpProtocol:
        made = HttpProtocol(config, state, {"requests": Requests()})
        service.connections.append(made)
        return made

    server = await asyncio.get_running_loop().create_server(connected, "127.0.0.1", 0)
    service.port = server.sockets[0].getsockname()[1]
    try:
        yield service
    finally:
        server.close()
        for connection in service.connections:
            connection.transport.abort()
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
async def test_an_upgrade_is_ignored_wherever_it_is_cut(upgrade: str, framing: str) -> None:
    """Its body is its own, and a request behind it is answered."""
    data = request("PUT /a", *UPGRADES[upgrade], framing, body=BODIES[framing])
    expected = [("PUT", "/a", b"12345"), ("GET", "/next", b"")]
    async with serving() as service:
        for cut in range(1, len(data) + 1):
            service.asked.clear()
            answers = await service.say(data[:cut], data[cut:] + NEXT)
            assert (cut, service.asked) == (cut, expected)
            assert answers.count(b"HTTP/1.1 200 OK\r\n") == 2
            assert not service.fields[-2].get(b"upgrade")


async def test_an_upgrade_is_ignored_byte_by_byte_and_in_a_pipeline() -> None:
    upgrade = request("PUT /a", *UPGRADES["curl"], LENGTH, body=b"12345")
    async with serving() as service:
        await service.say(*(bytes([byte]) for byte in upgrade + NEXT))
        await service.say((upgrade + NEXT) * 20)
        assert service.asked == [("PUT", "/a", b"12345"), ("GET", "/next", b"")] * 21


@pytest.mark.parametrize(("option", "answers"), [("close", 1), ("keep-alive", 2)])
async def test_the_other_options_of_a_connection_stay(option: str, answers: int) -> None:
    async with serving() as service:
        upgrade = request("GET /a", f"Connection: Upgrade, {option}, HTTP2-Settings", "Upgrade: h2c")
        assert (await service.say(upgrade + NEXT)).count(b"HTTP/1.1 200") == answers
        assert service.fields[0][b"connection"] == option.encode()


@pytest.mark.parametrize("upgrade", [[], UPGRADES["websocket"]], ids=["plain", "websocket"])
@pytest.mark.parametrize("framing", ["Accept: */*", LENGTH, CHUNKED])
@pytest.mark.parametrize("target", ["localhost:80", "/files/x", "http://localhost/"])
async def test_nothing_behind_a_connect_is_read(target: str, framing: str, upgrade: list[str]) -> None:
    data = request(f"CONNECT {target}", framing, *upgrade)
    async with serving() as service:
        for cut in range(1, len(data) + 1):
            answers = await service.say(data[:cut], data[cut:], NEXT)
            assert answers.startswith(b"HTTP/1.1 501 Not Implemented\r\n"), cut
            assert answers.count(b"HTTP/1.1 ") == 1
        assert (await service.say(data + NEXT)).count(b"HTTP/1.1 ") == 1
        assert service.asked == []


HANDSHAKE = (
    *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
TEXT = b"\x81\x82\0\0\0\0hi"


async def test_a_websocket_opens_wherever_its_handshake_is_cut() -> None:
    """What its client sends too early is kept for it."""
    data = request("GET /socket", *HANDSHAKE) + TEXT
    async with serving() as service:
        for cut in range(1, len(data) + 1):
            service.asked.clear()
            answers = await service.say(data[:cut], data[cut:])
            assert answers.startswith(b"HTTP/1.1 101 "), cut
            assert service.asked == [("WEBSOCKET", "/socket", b""), ("TEXT", "hi", b"")]


async def test_nothing_behind_a_refused_websocket_is_read() -> None:
    data = request("GET /refused", *HANDSHAKE)
    async with serving() as service:
        for segments in ([data + NEXT], [data, NEXT], [data[:20], data[20:] + NEXT]):
            answers = await service.say(*segments)
            assert answers.startswith(b"HTTP/1.1 403 ")
            assert answers.count(b"HTTP/1.1 ") == 1
        assert service.asked == [("WEBSOCKET", "/refused", b"")] * 3


async def test_a_handshake_with_a_body_is_an_ordinary_request() -> None:
    async with serving() as service:
        for framing, body in BODIES.items():
            answers = await service.say(request("GET /socket", *HANDSHAKE, framing, body=body) + NEXT)
            assert answers.count(b"HTTP/1.1 200") == 2
        assert service.asked == [("GET", "/socket", b"12345"), ("GET", "/next", b"")] * 2


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        ("http://localhost", "/", b"localhost"),
        ("http://other.example:81/a?b", "/a", b"other.example:81"),
        ("/é", "/%C3%A9", b"localhost"),
        ("http://other.example/é", "/%C3%A9", b"other.example"),
    ],
)
async def test_targets(target: str, path: str, host: bytes) -> None:
    data = request(f"PUT {target}", LENGTH, "X: é", body="éé1".encode())
    async with serving() as service:
        for cut in range(1, len(data) + 1):
            service.asked.clear()
            await service.say(data[:cut], data[cut:])
            assert service.asked == [("PUT", path, "éé1".encode())], cut
            assert service.fields[-1][b"host"] == host
            assert service.fields[-1][b"x"] == "é".encode()
        service.asked.clear()
        await service.say(b"\r\n" + data, b"\r\n", data)
        assert service.asked == [("PUT", path, "éé1".encode())] * 2


@pytest.mark.parametrize("target", ["ftp://localhost/", "http://user@localhost/", "http:///a"])
async def test_targets_that_are_none(target: str) -> None:
    async with serving() as service:
        for headers in ((), UPGRADES["curl"], HANDSHAKE):
            answers = await service.say(request(f"GET {target}", *headers) + NEXT)
            assert answers.startswith(b"HTTP/1.1 400 ")
            assert answers.count(b"HTTP/1.1 ") == 1
        assert service.asked == []


@pytest.mark.parametrize("version", ["0.9", "1.0", "2.0"])
async def test_answer_of_unknown_length_ends_with_the_connection_unless_http_1_1(
    version: str,
) -> None:
    head = f"GET /pieces HTTP/{version}\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n".encode()
    async with serving() as service:
        answers = await service.say(head + NEXT)
        assert b"connection: close\r\n" in answers
        assert answers.endswith(b"\r\n\r\npiece")  # and no other answer within it
