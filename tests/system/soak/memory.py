"""Print the server's peak memory during large uploads, downloads and slow readers, on each backend.

Run by `make soak`. Exits with status 1 if a peak exceeds idle memory by more than its limit. Sizes in MiB:

    make soak ARGS="--size 2048 --readers 50 --limit 60"
"""

import argparse
import hashlib
import selectors
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.support import Server, running
from tests.support.mongo import Mongod

MIB = 1 << 20
READER = {"filesystem": 1.0, "gridfs": 0.5}
"""MiB per slow reader. Over GridFS most of it is the reader's share of a common budget."""
LIMIT = {"filesystem": 10.0, "gridfs": 20.0}
"""MiB above idle during one transfer."""
BLOCK = bytes(range(256)) * 4096  # 1 MiB


def blocks(size: int) -> Iterator[bytes]:
    """Yield a file of `size` MiB in blocks of 1 MiB that all differ."""
    for number in range(size):
        yield number.to_bytes(8, "big") + BLOCK[8:]


def peak(server: Server) -> float:
    """Return the peak resident memory since the last call, in MiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # resets the peak (proc(5))
    return int(line.split()[1]) / 1024


def put(server: Server, size: int, name: str = "put.bin") -> None:
    with server.client(timeout=600) as client:
        response = client.put(
            f"/files/{name}", content=blocks(size), headers={"content-length": str(size * MIB)}
        )
        assert response.status_code == 201, response.text


def post_form(server: Server, size: int) -> None:
    head = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="form.bin"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n"
    )
    tail = b"\r\n--b--\r\n"

    def body() -> Iterator[bytes]:
        yield head
        yield from blocks(size)
        yield tail

    headers = {
        "content-type": "multipart/form-data; boundary=b",
        "content-length": str(size * MIB + len(head) + len(tail)),
    }
    with server.client(timeout=600) as client:
        response = client.post("/file/upload", content=body(), headers=headers)
        assert response.status_code == 201, response.text


def get(server: Server, size: int) -> None:
    expected, received = hashlib.sha256(), hashlib.sha256()
    for block in blocks(size):
        expected.update(block)
    with server.client(timeout=600) as client, client.stream("GET", "/files/put.bin") as response:
        for data in response.iter_bytes():
            received.update(data)
    assert received.digest() == expected.digest(), "the downloaded bytes differ"


def slow_readers(server: Server, readers: int, seconds: float) -> None:
    """Download in parallel for some seconds; each reader takes at most 64 KiB every 0.2 s."""
    request = b"GET /files/put.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with selectors.DefaultSelector() as selector:
        for _ in range(readers):
            connection = socket.create_connection(("127.0.0.1", server.port))
            connection.sendall(request)
            selector.register(connection, selectors.EVENT_READ)
        received = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for key, _ in selector.select(0.1):
                received += len(key.fileobj.recv(65536))  # type: ignore[union-attr]
            time.sleep(0.2)
        assert received > readers * 65536
        for key in list(selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]


def measure(server: Server, options: argparse.Namespace, limit: float, reader: float) -> bool:
    """Run each transfer and print its peak. Returns whether all stayed within their limits."""
    with server.client() as client:
        client.get("/health/ready").raise_for_status()
    time.sleep(1)
    peak(server)
    time.sleep(1)
    idle = peak(server)
    print(f"{'idle':24} {idle:7.1f} MiB")
    slow_limit = options.readers * reader + limit / 2
    within = True
    for name, allowed, transfer in (
        (f"PUT of {options.size} MiB", limit, lambda: put(server, options.size)),
        (f"form of {options.size} MiB", limit, lambda: post_form(server, options.size)),
        (f"GET of {options.size} MiB", limit, lambda: get(server, options.size)),
        (
            f"{options.readers} slow readers",
            slow_limit,
            lambda: slow_readers(server, options.readers, options.seconds),
        ),
    ):
        transfer()
        highest = peak(server)
        within &= highest - idle <= allowed
        print(f"{name:24} {highest:7.1f} MiB, {highest - idle:+.1f} (limit {allowed:+.0f})", flush=True)
    return within


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048, help="MiB of the file")
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20, help="duration of the slow readers")
    parser.add_argument("--limit", type=float, help="MiB above idle per transfer (default: 10, GridFS 20)")
    parser.add_argument("--storage", choices=["filesystem", "gridfs"], action="append", help="default: both")
    options = parser.parse_args()
    Server.forked = False  # a server in production has only its own modules in memory
    within = True
    for storage in options.storage or ("filesystem", "gridfs"):
        print(f"{storage}:")
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            settings = {"storage": storage}
            if storage == "gridfs":
                node = Mongod(Path(folder) / "mongod")
                stack.callback(node.stop)
                settings["mongodb_url"] = node.restart().url("memory")
            server = stack.enter_context(running(Path(folder) / "server", **settings))
            limit = LIMIT[storage] if options.limit is None else options.limit
            within &= measure(server, options, limit, READER[storage])
    sys.exit(not within)


if __name__ == "__main__":
    main()
