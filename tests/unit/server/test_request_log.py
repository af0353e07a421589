"""The log of requests: its two forms, what it writes when, and descriptors that take nothing."""

import asyncio
import fcntl
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from app.logs import Format
from app.server.request_log import Clock, JsonForm, LineForm, Request, RequestLog

PACKETS = os.O_DIRECT
"""Makes a pipe one of packets (pipe(2)): a read returns the bytes of one write."""

TIME = "2026-12-01T12:00:00.123+00:00"


def scope(path: str = "/files/a", query: bytes = b"", client: object = ("192.0.2.1", 5)) -> dict[str, object]:
    return {
        "client": client,
        "method": "GET",
        "path": path,
        "query_string": query,
        "http_version": "1.1",
    }


def line(scope: object, identity: str = "7-1") -> str:
    return LineForm.complete(TIME, LineForm.prepare(Request.of(scope, 206)), 0, 65536, 0.0123456789, identity)


def parsed(scope: object, identity: str = "7-1") -> dict[str, object]:
    prepared = JsonForm.prepare(Request.of(scope, 206))
    record = JsonForm.complete(TIME, prepared, 0, 65536, 0.0123456789, identity)
    assert record.endswith("}\n")
    assert record[:-1].isprintable()
    assert record.isascii()
    found: dict[str, object] = json.loads(record)
    return found


def test_line_names_each_field() -> None:
    assert line(scope(query=b"x=1")) == (
        f'{TIME} INFO 192.0.2.1:5 - "GET /files/a?x=1 HTTP/1.1" 206 in=0 out=65536 s=0.0123 id=7-1\n'
    )


def test_json_names_each_field() -> None:
    assert parsed(scope(query=b"x=1")) == {
        "time": TIME,
        "level": "INFO",
        "message": "GET /files/a?x=1 206",
        "client": "192.0.2.1:5",
        "method": "GET",
        "path": "/files/a?x=1",
        "version": "1.1",
        "status": 206,
        "received": 0,
        "bytes": 65536,
        "duration": 0.012346,
        "id": "7-1",
    }


@pytest.mark.parametrize(
    ("path", "query", "client", "shown"),
    [
        ("/ä\n\x1b[2J", b"", None, ' - "GET /%C3%A4%0A%1B%5B2J HTTP'),
        ("/a b%", b"\x1b\r\n", None, r' - "GET /a%20b%25?\x1b\r\n HTTP'),
        ("/", b"", ("\x9b2J\x85\n\ud800", 0), r' \x9b2J\x85\n\ud800:0 - "GET / HTTP'),
        ("/", b"", ("unix", 0), 'unix:0 - "GET / HTTP'),
    ],
)
def test_record_is_one_line_whatever_the_client_sends(
    path: str, query: bytes, client: object, shown: str
) -> None:
    request = scope(path, query, client)
    assert shown in line(request)
    assert line(request)[:-1].isprintable()
    assert parsed(request)["status"] == 206


def test_secrets_are_masked_in_every_field_and_form() -> None:
    request = scope("/login", b"next=/a%3Flink%3Dhidden&x=1", ("link=hidden", 1))
    for record in (line(request, "link=hidden"), json.dumps(parsed(request, "link=hidden"))):
        assert "hidden" not in record
        assert record.count("...") >= 3
        assert "&x=1" in record


@pytest.mark.parametrize("at", [0.0, 1.0005, 1790000000.999999, 1790000001.25, 1790000001.0, 1.5])
def test_clock_formats_local_time_in_milliseconds(at: float) -> None:
    clock = Clock()
    clock.format(1790000001.0)
    assert clock.format(at) == datetime.fromtimestamp(at).astimezone().isoformat(timespec="milliseconds")


# Writing


@dataclass
class Pipe:
    reader: int
    writer: int

    def read(self) -> str:
        """Return what one read gets; "" if the pipe is empty or closed."""
        try:
            return os.read(self.reader, 1 << 20).decode()
        except BlockingIOError:
            return ""

    def read_all(self) -> str:
        return "".join(iter(self.read, ""))


def made_pipe(flags: int = 0) -> Iterator[Pipe]:
    reader, writer = os.pipe2(os.O_CLOEXEC | flags)
    os.set_blocking(reader, False)
    pipe = Pipe(reader, writer)
    try:
        yield pipe
    finally:
        for descriptor in (reader, writer):
            with suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    yield from made_pipe()


@pytest.fixture
def packets() -> Iterator[Pipe]:
    yield from made_pipe(PACKETS)


def add(log: RequestLog, first: int, count: int = 1) -> None:
    prepared = log.prepare(Request.of(scope(), 200))
    for number in range(first, first + count):
        log.append(prepared, 0, 0, 0.1, str(number))


def ids(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"id=(\d+)\n", text)]


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.anyio
async def test_records_of_one_turn_are_one_write(packets: Pipe) -> None:
    log = RequestLog(packets.writer, "line")
    add(log, 0, 5)
    assert packets.read() == ""
    await turns()
    add(log, 5, 2)
    await turns()
    assert [ids(packets.read()) for _ in range(3)] == [[0, 1, 2, 3, 4], [5, 6], []]


@pytest.mark.anyio
async def test_full_pipe_blocks_nothing_and_loses_nothing_within_bound(pipe: Pipe) -> None:
    log = RequestLog(pipe.writer, "line")
    for number in range(3000):  # several times the 64 KiB that a pipe holds
        add(log, number)
        await turns(2)
    text = ""
    async with asyncio.timeout(10):
        while len(ids(text)) < 3000:
            text += pipe.read_all()
            await asyncio.sleep(0.01)
    assert ids(text) == list(range(3000))
    assert "WARNING" not in text


@pytest.mark.anyio
@pytest.mark.parametrize("form", ["line", "json"])
async def test_full_pipe_drops_records_beyond_bound_and_counts_them(pipe: Pipe, form: Format) -> None:
    fcntl.fcntl(pipe.writer, fcntl.F_SETPIPE_SZ, 4096)
    log = RequestLog(pipe.writer, form, max_unwritten=10_000)
    for number in range(1000):
        add(log, number)
        await turns(2)
    text = ""
    async with asyncio.timeout(10):
        while "WARNING" not in text:
            text += pipe.read_all()
            await asyncio.sleep(0.01)
    add(log, 1000)
    await turns()
    text += pipe.read_all()
    lines = text.splitlines()
    [(place, dropped)] = [
        (place, int(found[1]))
        for place, each in enumerate(lines)
        if (found := re.search(r"records of up to (\d+) requests", each))
    ]
    assert 10_000 < sum(len(each) + 1 for each in lines[:place]) < 15_000
    assert dropped == 1000 - place
    assert ("id=1000" if form == "line" else '"id": "1000"') in lines[place + 1]


@pytest.mark.anyio
async def test_log_survives_reader_that_has_gone(pipe: Pipe) -> None:
    log = RequestLog(pipe.writer, "line")
    os.close(pipe.reader)
    add(log, 0, 3)
    await turns()
    add(log, 3)
    await turns()
    log.close()


@pytest.mark.anyio
async def test_full_disk_is_reported_when_it_has_room_again(tmp_path: Path) -> None:
    file = tmp_path / "log"
    readable = file.open("wb")
    log = RequestLog(readable.fileno(), "line")
    add(log, 0)
    await turns()
    full = os.open("/dev/full", os.O_WRONLY)
    kept = os.dup(readable.fileno())
    for first in (1, 3):
        os.dup2(full, readable.fileno())
        add(log, first, 2)
        await turns()
    os.dup2(kept, readable.fileno())
    add(log, 5)
    await turns()
    for descriptor in (full, kept):
        os.close(descriptor)
    readable.close()
    text = file.read_text()
    assert ids(text) == [0, 5]
    assert "records of up to 4 requests" in text.splitlines()[1]


@pytest.mark.anyio
async def test_close_writes_records_of_unfinished_turn_from_another_thread(pipe: Pipe) -> None:
    log = RequestLog(pipe.writer, "line")
    add(log, 0, 3)
    thread = threading.Thread(target=log.close)
    thread.start()
    thread.join()
    assert ids(pipe.read_all()) == [0, 1, 2]


@pytest.mark.anyio
async def test_close_returns_although_pipe_stays_full(pipe: Pipe) -> None:
    log = RequestLog(pipe.writer, "line")
    add(log, 0, 3000)
    log.close(0.05)
    written = ids(pipe.read_all())
    assert written == list(range(len(written)))
    assert 0 < len(written) < 3000


@pytest.mark.anyio
async def test_records_appended_while_another_thread_flushes_are_written_once(tmp_path: Path) -> None:
    """Switch threads as often as possible."""
    file = tmp_path / "log"
    with file.open("wb") as stream:
        log = RequestLog(stream.fileno(), "line")
        ended = threading.Event()

        def flush() -> None:
            while not ended.is_set():
                log.flush()

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        thread = threading.Thread(target=flush)
        thread.start()
        try:
            for number in range(2000):
                add(log, number)
                await asyncio.sleep(0)
        finally:
            ended.set()
            thread.join()
            sys.setswitchinterval(interval)
        log.close()
    assert ids(file.read_text()) == list(range(2000))
