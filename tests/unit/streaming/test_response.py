"""StoredFileResponse over raw ASGI: its messages, faults, disconnects and cancellation.

The storage here is in memory, so that a test can inject faults and delays. Other suites cover the response
with real storage and a real server.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import FastAPI

from app.http.ranges import RangeNotSatisfiable
from app.storage.errors import NotFound, StorageUnavailable, Truncated, VersionMismatch
from app.storage.types import Address, FileInfo, Key
from app.streaming.file_response import StoredFileResponse

KEY = Key("", "films", "a.mp4")
DATA = bytes(range(250)) * 4
CHUNK = 100
TIME = datetime(2024, 1, 1, tzinfo=UTC)
INFO = FileInfo("1", KEY, len(DATA), "video/mp4", "xyzzy", None, TIME, TIME)

Message = dict[str, Any]


class Memory:
    """A storage of one file that is also its only OpenFile. Awaits `before` ahead of every chunk."""

    info = INFO

    def __init__(self, before: Callable[[int], Awaitable[None]] | None = None) -> None:
        self.before = before
        self.opened = self.reading = self.chunks_read = 0

    @asynccontextmanager
    async def open(self, address: Address) -> AsyncIterator["Memory"]:
        if address != KEY:
            raise NotFound("No such file.")
        self.opened += 1
        try:
            yield self
        finally:
            assert self.reading == 0, "a read outlived the open file"
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
                await asyncio.sleep(0)  # closing takes time, as in a worker thread
            finally:
                self.reading -= 1


class Client:
    """An ASGI client: it records its messages, and disconnects when the event `disconnected` is set."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.disconnected = asyncio.Event()
        self.receives = 0
        self.before_send: Callable[[], Awaitable[None]] | None = None

    async def receive(self) -> Message:
        self.receives += 1
        if self.receives == 1:
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.disconnected.wait()
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
        """Send a request. Assert that no task and no open file is left afterwards."""
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


def get(memory: Memory, **options: Any) -> Client:
    return run(lambda client: client.get(memory, **options))


@pytest.mark.parametrize(
    ("fields", "status", "body"),
    [
        ({}, 200, DATA),
        ({"Range": "bytes=95-304"}, 206, DATA[95:305]),
        ({"Range": "bytes=-1"}, 206, DATA[-1:]),
    ],
    ids=str,
)
def test_response_sends_whole_file_or_one_range(fields: dict[str, str], status: int, body: bytes) -> None:
    client = get(Memory(), **fields)
    start = client.messages[0]
    assert (start["type"], start["status"]) == ("http.response.start", status)
    assert dict(start["headers"])[b"content-length"] == str(len(body)).encode()
    assert client.body == body
    assert client.is_complete


def test_multipart_response_has_a_fresh_boundary() -> None:
    first, second = (get(Memory(), Range="bytes=0-1,500-700") for _ in range(2))
    boundaries = {dict(client.messages[0]["headers"])[b"content-type"] for client in (first, second)}
    assert len(boundaries) == 2
    for client in (first, second):
        assert DATA[500:701] in client.body
        assert dict(client.messages[0]["headers"])[b"content-length"] == str(len(client.body)).encode()
        assert client.is_complete


@pytest.mark.parametrize(
    ("method", "tag", "status"), [("HEAD", "other", 200), ("GET", "xyzzy", 304), ("HEAD", "xyzzy", 304)]
)
def test_response_without_body_reads_nothing_and_does_not_watch_client(
    method: str, tag: str, status: int
) -> None:
    memory = Memory()

    async def scenario(client: Client) -> None:
        client.before_send = run_other_tasks
        await client.get(memory, method=method, If_None_Match=f'"{tag}"')

    client = run(scenario)
    assert client.messages[0]["status"] == status
    assert client.messages[1:] == [{"type": "http.response.body", "body": b"", "more_body": False}]
    assert (client.receives, memory.chunks_read) == (0, 0)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"address": Key("", "", "other")}, NotFound),
        ({"If_Match": '"other"'}, VersionMismatch),
        ({"Range": "bytes=1000-"}, RangeNotSatisfiable),
    ],
    ids=str,
)
def test_error_before_the_start_is_raised(fields: dict[str, Any], error: type[Exception]) -> None:
    async def scenario(client: Client) -> None:
        with pytest.raises(error):
            await client.get(Memory(), **fields)
        assert (client.messages, client.receives) == ([], 0)

    run(scenario)


@pytest.mark.parametrize(
    "fault", [Truncated("The file ended early."), StorageUnavailable("The storage is down.")], ids=repr
)
@pytest.mark.parametrize(
    ("fields", "position"), [({}, 0), ({}, 500), ({"Range": "bytes=0-1,500-999"}, 600)], ids=str
)
def test_storage_fault_in_mid_stream_leaves_response_incomplete(
    fault: Exception, fields: dict[str, str], position: int, caplog: pytest.LogCaptureFixture
) -> None:
    # Promise 7
    async def fail(at: int) -> None:
        if at >= position:
            raise fault

    with caplog.at_level(logging.DEBUG, "app"):
        client = get(Memory(fail), **fields)
    assert not client.is_complete
    assert len(client.body) < int(dict(client.messages[0]["headers"])[b"content-length"])
    (record,) = caplog.records
    assert record.name == "app.streaming.file_response"
    assert record.getMessage() == f"The response for 'films/a.mp4' was aborted: {fault}"
    assert record.exc_info is None


@pytest.mark.parametrize("error", [TimeoutError(), OSError("disk"), ZeroDivisionError()], ids=repr)
def test_other_error_in_mid_stream_is_raised(error: Exception) -> None:
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


async def run_other_tasks() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_disconnect_ends_response_during_a_slow_read(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(lambda at: forever() if at == 300 else asyncio.sleep(0))

    async def scenario(client: Client) -> None:
        request = asyncio.create_task(client.get(memory))
        await run_other_tasks()
        assert (memory.opened, memory.reading, memory.chunks_read) == (1, 1, 3)
        client.disconnected.set()
        await request

    assert not run(scenario).is_complete
    assert memory.chunks_read == 3
    assert not caplog.records, "a disconnect was logged"


def test_disconnect_ends_response_while_sending_is_blocked() -> None:
    memory = Memory()

    async def scenario(client: Client) -> None:
        client.before_send = forever
        request = asyncio.create_task(client.get(memory))
        await run_other_tasks()
        assert memory.chunks_read == 1
        client.disconnected.set()
        await request

    assert len(run(scenario).messages) == 1
    assert memory.chunks_read == 1


def test_disconnect_before_the_body_ends_response() -> None:
    # No await here blocks: the response notices the disconnect only because it yields to other tasks.
    memory = Memory()

    async def scenario(client: Client) -> None:
        client.disconnected.set()
        await client.get(memory)

    assert not run(scenario).is_complete
    assert memory.chunks_read < len(DATA) // CHUNK


def test_disconnect_with_the_last_byte_raises_nothing() -> None:
    async def scenario(client: Client) -> None:
        async def disconnect_at_the_end() -> None:
            if len(client.body) == len(DATA):
                client.disconnected.set()

        client.before_send = disconnect_at_the_end
        await client.get(Memory())

    client = run(scenario)
    assert client.body == DATA


@pytest.mark.parametrize("where", ["read", "send"])
def test_cancellation_ends_response(where: str) -> None:
    memory = Memory(forever if where == "read" else None)

    async def scenario(client: Client) -> None:
        client.before_send = forever if where == "send" else None
        request = asyncio.create_task(client.get(memory))
        await run_other_tasks()
        assert memory.opened == 1
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert len(client.messages) == 1

    run(scenario)


def test_fast_response_yields_to_other_tasks() -> None:
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


def test_fastapi_endpoint_may_return_the_response() -> None:
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
