"""What the tests of faults share."""

import hashlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.support import Server, need, need_root
from tests.system.faults import tracing


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def until() -> Callable[..., bool]:
    """Wait for something to become true. Whether it did."""

    def until(condition: Callable[[], bool], within: float = 15) -> bool:
        deadline = time.monotonic() + within
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    return until


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[Server]:
    """A server over the filesystem backend that runs, and may be killed and started again."""
    server = Server(tmp_path / "server", storage="filesystem")
    try:
        yield server.start()
    finally:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture
def injected(tmp_path: Path) -> Callable[..., AbstractContextManager[Path]]:
    """Puts faults into the system calls of a process that runs; see tracing.py."""
    need("strace")
    need_root()

    return partial(tracing.injected, tmp_path)


@pytest.fixture
def begin() -> Iterator[Callable[..., socket.socket]]:
    with beginning() as begin:
        yield begin


@contextmanager
def beginning() -> Iterator[Callable[..., socket.socket]]:
    """Send some bytes of a request and keep the connection."""
    connections: list[socket.socket] = []

    def begin(server: Server, data: bytes, *, buffer: int | None = None) -> socket.socket:
        connection = socket.socket()
        connections.append(connection)
        if buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(data)
        return connection

    try:
        yield begin
    finally:
        for connection in connections:
            connection.close()


@pytest.fixture
def reset() -> Callable[[socket.socket], None]:
    """Leave without a word of farewell, as a client does that crashed."""

    def reset(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    return reset


@pytest.fixture
def folder(folder: str, server: Server) -> Iterator[str]:
    """A folder of its own, which is emptied at the end."""
    yield folder
    with server.client() as http:
        for item in http.get("/files", params={"folder": folder, "limit": 1000}).json()["items"]:
            http.delete(f"/files/{item['path']}")


@pytest.fixture
def listed() -> Callable[[httpx.Client, str], dict[str, str]]:
    """The hashes of the files in a folder, by name, after checking that each can be read and is what it is
    said to be."""

    def listed(http: httpx.Client, folder: str) -> dict[str, str]:
        found = {}
        page = http.get("/files", params={"folder": folder, "limit": 1000}).raise_for_status().json()
        assert page["next_cursor"] is None
        for item in page["items"]:
            content = http.get(f"/files/{item['path']}").raise_for_status().content
            assert len(content) == item["size"]
            assert item["sha256"] in (None, sha256(content))
            found[item["filename"]] = sha256(content)
        return found

    return listed
