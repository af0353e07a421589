"""Clients that leave, hundreds of them, in every way and at every moment: nothing of them stays."""

import contextlib
import itertools
import os
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import Server, on_disk_and_gridfs
from tests.support.beneath import beneath
from tests.system.faults.descriptors import descriptors

pytestmark = on_disk_and_gridfs

AT_ONCE = 25
FILM = os.urandom(1 << 20) * 8  # more than the buffers on the way hold
PART = FILM[: (1 << 20) + 300_000]  # so that one batch of it is written to staging

# The pools hold 16 threads each for look-ups, lists, bytes and changes, 4 that read ahead, 8 that send to a
# database, and few for upkeep and pings; they grow when needed and stay.
MOST_THREADS = 90

Until = Callable[..., bool]
Reset = Callable[[socket.socket], None]


def get(folder: str) -> bytes:
    return f"GET /files/{folder}/film.mp4 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def put(folder: str, *headers: str) -> bytes:
    lines = (f"PUT /files/{folder}/new.mp4 HTTP/1.1", "Host: localhost", *headers, "", "")
    return "\r\n".join(lines).encode()


def form(folder: str) -> bytes:
    part = '--x\r\nContent-Disposition: form-data; name="file"; filename="new.mp4"\r\n\r\n'
    headers = (
        "Host: localhost",
        f"Content-Length: {len(FILM)}",
        "Content-Type: multipart/form-data; boundary=x",
    )
    return "\r\n".join((f"POST /file/upload?folder={folder} HTTP/1.1", *headers, "", part)).encode()


DOWN = {
    "in its head": lambda folder: get(folder)[:-10],
    "before the answer": get,
    "in the middle": get,
    "in the middle of several": lambda folder: get(folder) * 3,
}

UP = {
    "in its head": lambda folder: put(folder, "Content-Length: 9")[:-10],
    "before the body": lambda folder: put(folder, f"Content-Length: {len(FILM)}"),
    "waiting to be asked": lambda folder: put(folder, "Content-Length: 9", "Expect: 100-continue"),
    "in the body": lambda folder: put(folder, f"Content-Length: {len(FILM)}") + PART,
    "in a chunk": lambda folder: put(folder, "Transfer-Encoding: chunked") + b"%x\r\n" % len(FILM) + PART,
    "between chunks": lambda folder: (
        put(folder, "Transfer-Encoding: chunked") + b"%x\r\n%s\r\n" % (len(PART), PART)
    ),
    "in a form": lambda folder: form(folder) + PART,
}


def leave_reset(connection: socket.socket, reset: Reset) -> None:
    reset(connection)


def leave(connection: socket.socket, reset: Reset) -> None:
    connection.close()


def leave_half_closed(connection: socket.socket, reset: Reset) -> None:
    """Says that nothing more comes, and goes when the server has had time to notice."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(0.2)
        connection.recv(1)
    connection.close()


LEAVING = (leave_reset, leave, leave_half_closed)


def visit(server: Server, request: bytes, moment: str, how: Callable[..., None], reset: Reset) -> None:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", server.port))
    with contextlib.suppress(ConnectionError):
        connection.sendall(request)
        if "middle" in moment:
            assert connection.recv(20_000).startswith(b"HTTP/1.1 200")
    how(connection, reset)


def storm(
    server: Server, folder: str, moments: dict[str, Callable[[str], bytes]], number: int, reset: Reset
) -> None:
    """So many clients, some at once, each leaving at its moment in its way."""
    visits = itertools.islice(itertools.cycle(itertools.product(moments.items(), LEAVING)), number)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        going = [
            pool.submit(visit, server, request(folder), moment, how, reset)
            for (moment, request), how in visits
        ]
        for each in going:
            each.result()


def threads(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))


@pytest.mark.parametrize("clients", [200, pytest.param(1000, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("moments", [DOWN, UP], ids=["down", "up"])
def test_hundreds_that_leave_leave_nothing(
    server: Server,
    folder: str,
    moments: dict[str, Callable[[str], bytes]],
    clients: int,
    reset: Reset,
    until: Until,
) -> None:
    with server.client() as http:
        http.put(f"/files/{folder}/film.mp4", content=FILM).raise_for_status()
    time.sleep(0.2)  # until that client is gone
    before, said = descriptors(server), len(server.log())
    storm(server, folder, moments, clients, reset)
    assert until(lambda: descriptors(server) <= before), descriptors(server) - before
    assert until(lambda: not beneath(server).leftovers())  # a hundred uploads to take back at once
    assert threads(server) <= MOST_THREADS
    log = server.log()[said:]
    assert "Traceback" not in log
    assert re.findall(r"^.* (?:WARNING|ERROR|CRITICAL) .*$", log, re.MULTILINE) == []
    with server.client() as http:
        assert http.get(f"/files/{folder}/film.mp4").content == FILM
        assert [item["filename"] for item in http.get(f"/files?folder={folder}").json()["items"]] == [
            "film.mp4"
        ]
