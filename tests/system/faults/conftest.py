"""Fixtures of the fault tests."""

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

from tests.support import Server, need, need_root, running
from tests.system.faults import tracing


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def until() -> Callable[..., bool]:
    """Return a function that polls a condition until it is true, and returns False after `within` seconds."""

    def until(condition: Callable[[], bool], within: float = 15) -> bool:
        deadline = time.monotonic() + within
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    return until


@pytest.fixture
def filesystem_server(tmp_path: Path) -> Iterator[Server]:
    """Run a server of the test's own over the filesystem backend. The test may kill and restart it."""
    with running(tmp_path / "server", storage="filesystem", stable_after=0) as server:
        yield server


@pytest.fixture
def inject_faults(tmp_path: Path) -> Callable[..., AbstractContextManager[Path]]:
    """Return a function that injects faults into the system calls of a running process; see tracing.py."""
    need("strace")
    need_root()

    return partial(tracing.inject_faults, tmp_path)


@pytest.fixture
def start_request() -> Iterator[Callable[..., socket.socket]]:
    with request_starter() as start_request:
        yield start_request


@contextmanager
def request_starter() -> Iterator[Callable[..., socket.socket]]:
    """Yield a function that sends the first bytes of a request and returns the open connection."""
    connections: list[socket.socket] = []

    def start_request(server: Server, data: bytes, *, buffer: int | None = None) -> socket.socket:
        connection = socket.socket()
        connections.append(connection)
        if buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(data)
        return connection

    try:
        yield start_request
    finally:
        for connection in connections:
            connection.close()


@pytest.fixture
def reset() -> Callable[[socket.socket], None]:
    """Return a function that closes a connection by a TCP reset, as when a client crashes."""

    def reset(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    return reset


@pytest.fixture
def folder(folder: str, server: Server) -> Iterator[str]:
    """Yield a folder of the test's own, and empty it afterwards."""
    yield folder
    with server.client() as http:
        for item in http.get("/files", params={"folder": folder, "limit": 1000}).json()["items"]:
            http.delete(f"/files/{item['path']}")


@pytest.fixture
def hashes_in() -> Callable[[httpx.Client, str], dict[str, str]]:
    """Return a function that maps the names in a folder to SHA-256.

    It downloads every file, and asserts that size and hash in the list are those of the content.
    """

    def hashes_in(http: httpx.Client, folder: str) -> dict[str, str]:
        hashes = {}
        page = http.get("/files", params={"folder": folder, "limit": 1000}).raise_for_status().json()
        assert page["next_cursor"] is None
        for item in page["items"]:
            content = http.get(f"/files/{item['path']}").raise_for_status().content
            assert len(content) == item["size"]
            assert item["sha256"] in (None, sha256(content))
            hashes[item["filename"]] = sha256(content)
        return hashes

    return hashes_in
