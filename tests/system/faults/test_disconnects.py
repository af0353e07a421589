"""Hundreds of clients that disconnect in every way and at every moment: the server keeps nothing of them."""

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
FILM = os.urandom(1 << 20) * 8  # more than the socket buffers hold
PART = FILM[: (1 << 20) + 300_000]  # so that the server writes one batch to staging

# The pools hold 16 threads each for lookups, lists, reads and changes, 4 for read-ahead, 8 that send to a
# database, and a few for maintenance and pings; they grow on demand and never shrink.
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


DOWNLOADS = {
    "in its head": lambda folder: get(folder)[:-10],
    "before the response": get,
    "during the response": get,
    "during pipelined responses": lambda folder: get(folder) * 3,
}

UPLOADS = {
    "in its head": lambda folder: put(folder, "Content-Length: 9")[:-10],
    "before the body": lambda folder: put(folder, f"Content-Length: {len(FILM)}"),
    "awaiting 100 Continue": lambda folder: put(folder, "Content-Length: 9", "Expect: 100-continue"),
    "in the body": lambda folder: put(folder, f"Content-Length: {len(FILM)}") + PART,
    "in a chunk": lambda folder: put(folder, "Transfer-Encoding: chunked") + b"%x\r\n" % len(FILM) + PART,
    "between chunks": lambda folder: (
        put(folder, "Transfer-Encoding: chunked") + b"%x\r\n%s\r\n" % (len(PART), PART)
    ),
    "in a form": lambda folder: form(folder) + PART,
}


def disconnect_by_reset(connection: socket.socket, reset: Reset) -> None:
    reset(connection)


def disconnect(connection: socket.socket, reset: Reset) -> None:
    connection.close()


def disconnect_after_half_close(connection: socket.socket, reset: Reset) -> None:
    """Send FIN, and close the socket when the server has had time to react."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(0.2)
        connection.recv(1)
    connection.close()


DISCONNECTS = (disconnect_by_reset, disconnect, disconnect_after_half_close)


def connect_and_disconnect(
    server: Server, request: bytes, moment: str, disconnect: Callable[..., None], reset: Reset
) -> None:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", server.port))
    with contextlib.suppress(ConnectionError):
        connection.sendall(request)
        if "during" in moment:
            assert connection.recv(20_000).startswith(b"HTTP/1.1 200")
    disconnect(connection, reset)


def run_clients(
    server: Server, folder: str, moments: dict[str, Callable[[str], bytes]], number: int, reset: Reset
) -> None:
    """Run `number` clients, 25 at once. Each disconnects at one of the moments, in one of the ways."""
    clients = itertools.islice(itertools.cycle(itertools.product(moments.items(), DISCONNECTS)), number)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [
            pool.submit(connect_and_disconnect, server, request(folder), moment, disconnect, reset)
            for (moment, request), disconnect in clients
        ]
        for future in futures:
            future.result()


def threads(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))


@pytest.mark.parametrize("clients", [200, pytest.param(1000, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("moments", [DOWNLOADS, UPLOADS], ids=["down", "up"])
def test_disconnected_clients_leave_no_descriptors_staged_files_or_warnings(
    server: Server,
    folder: str,
    moments: dict[str, Callable[[str], bytes]],
    clients: int,
    reset: Reset,
    until: Until,
) -> None:
    with server.client() as http:
        http.put(f"/files/{folder}/film.mp4", content=FILM).raise_for_status()
    time.sleep(0.2)  # until the server has closed that connection
    before, log_start = descriptors(server), len(server.log())
    run_clients(server, folder, moments, clients, reset)
    # The clients have left before the server has accepted all of them, stored what they sent, and removed it.
    within = clients / 10
    assert until(lambda: descriptors(server) <= before, within), descriptors(server) - before
    assert until(lambda: not beneath(server).leftovers(), within)
    assert threads(server) <= MOST_THREADS
    log = server.log()[log_start:]
    assert "Traceback" not in log
    assert re.findall(r"^.* (?:WARNING|ERROR|CRITICAL) .*$", log, re.MULTILINE) == []
    with server.client() as http:
        assert http.get(f"/files/{folder}/film.mp4").content == FILM
        assert [item["filename"] for item in http.get(f"/files?folder={folder}").json()["items"]] == [
            "film.mp4"
        ]
