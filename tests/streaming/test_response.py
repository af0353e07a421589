"""StoredFileResponse, driven with raw ASGI: what it sends, and what it does when something goes wrong.

The library here is an honest one in memory, because faults and slowness come at will in it. What real
storage and a real server make of the same is tested with those.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import FastAPI

from app.storage.errors import NotFound, StorageUnavailable, Truncated, VersionMismatch
from app.storage.types import Address, FileInfo, Key
from app.streaming.ranges import RangeNotSatisfiable
from app.streaming.response import StoredFileResponse

KEY = Key("", "films", "a.mp4")
DATA = bytes(range(250)) * 4
CHUNK = 100
TIME = datetime(2024, 1, 1, tzinfo=UTC)
INFO = FileInfo("1", KEY, len(DATA), "video/mp4", "xyzzy", None, TIME, TIME)

Message = dict[str, Any]


class Memory:
    """A storage of one file that is also its only OpenFile. `before` is awaited ahead of every chunk."""

    info = INFO

    def __init__(self, before: Callable[[int], Awaitable[None]] | None = None) -> None:
        self.before = before
        self.opened = self.reading = self.chunks_read = 0

    @asynccontextmanager
    async def open(self, address: Address) -> AsyncIterator["Memory"]:
        if address != KEY:
            raise NotFound("Nothing is stored there.")
        self.opened += 1
        try:
            yield self
        finally:
            assert self.reading == 0, "a read outlives the file"
            self.opened -= 1

    async def read(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        self.reading += 1
        try:
            for position in range(start, stop, CHUNK):
                if self.before is not None:
                    await self.before(position)
                self.chunks_read += 1
                yield DATA[position : min(position + CHUNK, stop)]
        finally:
            try:
                await asyncio.sleep(0)  # closing takes time, as it does in threads
            finally:
                self.reading -= 1


class Client:
    """The other end: it keeps what it is sent, and leaves when it is told to."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.gone = asyncio.Event()
        self.receives = 0
        self.before_send: Callable[[], Awaitable[None]] | None = None

    async def receive(self) -> Message:
        self.receives += 1
        if self.receives == 1:
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.before_send is not None and message["type"] == "http.response.body":
            await self.before_send()
        self.messages.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])

    @property
    def is_complete(self) -> bool:
        assert all(message["more_body"] for message in self.messages[1:-1])
        return not self.messages[-1].get("more_body", True)

    async def get(self, memory: Memory, address: Address = KEY, method: str = "GET", **fields: str) -> None:
        """Ask, and see that nothing of it is left afterwards."""
        before = asyncio.all_tasks()
        response = StoredFileResponse(memory, address, cache_control="no-cache")  # type: ignore[arg-type]
        headers = [
            (name.replace("_", "-").lower().encode(), value.encode()) for name, value in fields.items()
        ]
        scope = {"type": "http", "method": method, "path": "/", "headers": headers}
        try:
            await response(scope, self.receive, self.send)  # type: ignore[arg-type]
        finally:
            assert memory.opened == memory.reading == 0
            assert asyncio.all_tasks() == before


def run(scenario: Callable[[Client], Awaitable[None]]) -> Client:
    async def main() -> Client:
        client = Client()
        async with asyncio.timeout(10):
            await scenario(client)
        return client

    return asyncio.run(main())


def got(memory: Memory, **asked: Any) -> Client:
    return run(lambda client: client.get(memory, **asked))


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ({}, 200, DATA),
        ({"Range": "bytes=95-304"}, 206, DATA[95:305]),
        ({"Range": "bytes=-1"}, 206, DATA[-1:]),
    ],
    ids=str,
)
def test_whole_and_part(asked: dict[str, str], status: int, body: bytes) -> None:
    client = got(Memory(), **asked)
    start = client.messages[0]
    assert (start["type"], start["status"]) == ("http.response.start", status)
    assert dict(start["headers"])[b"content-length"] == str(len(body)).encode()
    assert client.body == body
    assert client.is_complete


def test_many_parts_under_a_fresh_boundary() -> None:
    first, second = (got(Memory(), Range="bytes=0-1,500-700") for _ in range(2))
    boundaries = {dict(client.messages[0]["headers"])[b"content-type"] for client in (first, second)}
    assert len(boundaries) == 2
    for client in (first, second):
        assert DATA[500:701] in client.body
        assert dict(client.messages[0]["headers"])[b"content-length"] == str(len(client.body)).encode()
        assert client.is_complete


@pytest.mark.parametrize(
    ("method", "tag", "status"), [("HEAD", "other", 200), ("GET", "xyzzy", 304), ("HEAD", "xyzzy", 304)]
)
def test_without_a_body_nothing_is_read_or_watched(method: str, tag: str, status: int) -> None:
    memory = Memory()

    async def scenario(client: Client) -> None:
        client.before_send = settle
        await client.get(memory, method=method, If_None_Match=f'"{tag}"')

    client = run(scenario)
    assert client.messages[0]["status"] == status
    assert client.messages[1:] == [{"type": "http.response.body", "body": b"", "more_body": False}]
    assert (client.receives, memory.chunks_read) == (0, 0)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"address": Key("", "", "other")}, NotFound),
        ({"If_Match": '"other"'}, VersionMismatch),
        ({"Range": "bytes=1000-"}, RangeNotSatisfiable),
    ],
    ids=str,
)
def test_errors_before_the_start_are_raised(asked: dict[str, Any], error: type[Exception]) -> None:
    async def scenario(client: Client) -> None:
        with pytest.raises(error):
            await client.get(Memory(), **asked)
        assert (client.messages, client.receives) == ([], 0)

    run(scenario)


@pytest.mark.parametrize(
    "fault", [Truncated("It ended early."), StorageUnavailable("It went away.")], ids=repr
)
@pytest.mark.parametrize(
    ("asked", "position"), [({}, 0), ({}, 500), ({"Range": "bytes=0-1,500-999"}, 600)], ids=str
)
def test_a_fault_in_mid_stream_never_looks_complete(
    fault: Exception, asked: dict[str, str], position: int, caplog: pytest.LogCaptureFixture
) -> None:
    # Promise 7
    async def fail(at: int) -> None:
        if at >= position:
            raise fault

    with caplog.at_level(logging.DEBUG, "seekable"):
        client = got(Memory(fail), **asked)
    assert not client.is_complete
    assert len(client.body) < int(dict(client.messages[0]["headers"])[b"content-length"])
    (record,) = caplog.records
    assert record.name == "seekable"
    assert record.getMessage() == f"The answer for 'films/a.mp4' was broken off: {fault}"
    assert record.exc_info is None


@pytest.mark.parametrize("error", [TimeoutError(), OSError("disk"), ZeroDivisionError()], ids=repr)
def test_what_is_no_storage_error_is_raised(error: Exception) -> None:
    async def fail(at: int) -> None:
        if at:
            raise error

    async def scenario(client: Client) -> None:
        with pytest.raises(type(error)):
            await client.get(Memory(fail))
        assert not client.is_complete

    run(scenario)


async def forever(*_: object) -> None:
    await asyncio.Event().wait()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_the_client_leaves_during_a_slow_read(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(lambda at: forever() if at == 300 else asyncio.sleep(0))

    async def scenario(client: Client) -> None:
        asking = asyncio.create_task(client.get(memory))
        await settle()
        assert (memory.opened, memory.reading, memory.chunks_read) == (1, 1, 3)
        client.gone.set()
        await asking

    assert not run(scenario).is_complete
    assert memory.chunks_read == 3
    assert not caplog.records, "a client may leave"


def test_the_client_leaves_while_sending_is_blocked() -> None:
    memory = Memory()

    async def scenario(client: Client) -> None:
        client.before_send = forever
        asking = asyncio.create_task(client.get(memory))
        await settle()
        assert memory.chunks_read == 1
        client.gone.set()
        await asking

    assert len(run(scenario).messages) == 1
    assert memory.chunks_read == 1


def test_the_client_is_gone_before_the_body() -> None:
    # Nothing here ever waits, so only the turns that are given to others let it be seen.
    memory = Memory()

    async def scenario(client: Client) -> None:
        client.gone.set()
        await client.get(memory)

    assert not run(scenario).is_complete
    assert memory.chunks_read < len(DATA) // CHUNK


def test_the_client_leaves_with_the_last_byte() -> None:
    async def scenario(client: Client) -> None:
        async def leave_with_the_last() -> None:
            if len(client.body) == len(DATA):
                client.gone.set()

        client.before_send = leave_with_the_last
        await client.get(Memory())

    client = run(scenario)
    assert client.body == DATA


@pytest.mark.parametrize("where", ["read", "send"])
def test_cancelling_gets_through(where: str) -> None:
    memory = Memory(forever if where == "read" else None)

    async def scenario(client: Client) -> None:
        client.before_send = forever if where == "send" else None
        asking = asyncio.create_task(client.get(memory))
        await settle()
        assert memory.opened == 1
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert len(client.messages) == 1

    run(scenario)


def test_a_fast_reader_leaves_turns_for_others() -> None:
    turns = 0

    async def scenario(client: Client) -> None:
        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        await client.get(Memory())
        task.cancel()

    assert run(scenario).is_complete
    assert turns >= len(DATA) // CHUNK


def test_fastapi_takes_it_from_an_endpoint() -> None:
    app = FastAPI(openapi_url=None)
    memory = Memory()

    @app.get("/film")
    async def film() -> StoredFileResponse:
        return StoredFileResponse(memory, KEY, cache_control="private", download=True)  # type: ignore[arg-type]

    async def scenario(client: Client) -> None:
        scope = {"type": "http", "method": "GET", "path": "/film", "query_string": b"", "headers": []}
        await app(scope, client.receive, client.send)  # type: ignore[arg-type]

    client = run(scenario)
    headers = dict(client.messages[0]["headers"])
    assert (headers[b"cache-control"], headers[b"content-type"]) == (b"private", b"video/mp4")
    assert headers[b"content-disposition"] == b'attachment; filename="a.mp4"'
    assert client.body == DATA
    assert client.is_complete
