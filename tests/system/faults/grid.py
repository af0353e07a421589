"""Libraries in GridFS, whose servers or mongod a test may kill or stop."""

import hashlib
import os
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from pymongo.database import Database

from app.database.gridfs.backend import GridBackend
from app.database.gridfs.opening import open_gridfs
from app.settings import Settings
from app.storage.maintenance import Integrity
from tests.support import Server, mongo
from tests.support.beneath import beneath
from tests.support.forking import completed

StartRequest = Callable[..., socket.socket]

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Grid:
    """One library in a database, and the servers over it."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self.url = url
        self.settings: dict[str, Any] = {"storage": "gridfs", "mongodb_url": url}

    @property
    def database(self) -> Database[dict[str, Any]]:
        return mongo.database(self.url)

    @contextmanager
    def server(self, name: str = "server", **settings: object) -> Iterator[Server]:
        """Run a server over the library. The test may kill it."""
        server = Server(self._folder / name, **{**self.settings, **settings})
        try:
            yield server.start()
        finally:
            if server.process.poll() is None:
                server.kill()

    def seekable(self, *words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run `seekable` with a command over the library."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SEEKABLE_")}
        environment |= {f"SEEKABLE_{key.upper()}": str(value) for key, value in self.settings.items()}
        self._folder.mkdir(parents=True, exist_ok=True)
        return completed(*words, folder=self._folder, environment=environment, timeout=timeout)

    @contextmanager
    def backend(self) -> Iterator[GridBackend]:
        """Open the library in this process, like one more server."""
        with ExitStack() as stack:
            settings = Settings(_env_file=None, storage="gridfs", mongodb_url=self.url)
            yield open_gridfs(settings, stack)

    def expire_leases(self, matching: Callable[[Any], bool] = lambda file: True) -> None:
        """Expire the leases of uploads, and the grace period of replaced and deleted files."""
        files = [file for file in self._entered() if matching(file)]
        self.database["media.uploads"].update_many(
            {"_id": {"$in": files}}, {"$set": {"expires_at": LONG_AGO}}
        )

    def _entered(self) -> list[Any]:
        """Return the ids that have entries for garbage collection, except those leased ahead of uploads: a
        running server may use one until its lease expires by itself."""
        stored = [
            *self.database["fs.files"].distinct("_id"),
            *self.database["fs.chunks"].distinct("files_id"),
        ]
        begun = {"$or": [{"ahead": {"$ne": True}}, {"_id": {"$in": stored}}]}
        return self.database["media.uploads"].distinct("_id", begun)

    def sweep(self) -> int:
        """Scan the library. Return the number of files that the scan removed from the bucket."""
        before = self.database["fs.files"].count_documents({})
        with self.backend() as backend:
            for _ in backend.maintenance.scan():
                pass
        return before - self.database["fs.files"].count_documents({})

    def check_no_leftovers(self) -> None:
        """Assert that a sweep leaves only referenced bytes, and that all referenced files are sound."""
        self.expire_leases()
        self.sweep()
        with self.backend() as backend:
            verdicts = [step.verdict for step in backend.maintenance.verify() if step.verdict is not None]
        assert set(verdicts) <= {Integrity.SOUND}
        referenced = self.referenced()
        assert self._entered() == []
        assert {*self.database["fs.files"].distinct("_id")} == referenced
        assert {*self.database["fs.chunks"].distinct("files_id")} <= referenced

    def referenced(self) -> set[Any]:
        """Return the IDs of the files that documents reference."""
        return {*self.database["media"].distinct("file")}

    def unreferenced_chunks(self) -> Counter[Any]:
        """Count the chunks of each file that no document references."""
        chunks = self.database["fs.chunks"]
        files = {*chunks.distinct("files_id")} - self.referenced()
        return Counter({file: chunks.count_documents({"files_id": file}) for file in files})


def leftovers(server: Server) -> set[str]:
    return beneath(server).leftovers()


def until(condition: Callable[[], bool], within: float = 20) -> bool:
    """Poll a condition until it is true. Return False after `within` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def wait_until_ready(server: Server, within: float = 10) -> float:
    """Wait until a server is ready again. Return the seconds that it took."""
    began = time.monotonic()

    def ready() -> bool:
        with server.client() as http:
            return http.get("/health/ready").status_code == 200

    assert until(ready, within), server.log()[-3000:]
    return time.monotonic() - began


def check_unavailable(response: httpx.Response) -> None:
    """Assert that a response is a 503 problem with Retry-After."""
    assert response.status_code == 503, response.text
    assert response.headers["retry-after"] == "5"
    if response.request.method != "HEAD":
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["status"] == 503


def head(method: str, target: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


class Download:
    """A download that reads only on request, and keeps the received body."""

    def __init__(self, start_request: StartRequest, server: Server, target: str, *headers: str) -> None:
        self._connection = start_request(server, head("GET", target, *headers), buffer=1 << 16)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
        self.head, _, body = received.partition(b"\r\n\r\n")
        self.body = bytearray(body)
        lines = self.head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = httpx.Headers([tuple(line.split(": ", 1)) for line in lines[1:]])  # type: ignore[misc]
        self.length = int(self.headers["content-length"])

    def _receive(self) -> bytes:
        data = self._connection.recv(1 << 16)
        assert data, "the connection ended too early"
        return data

    def read(self, size: int) -> None:
        """Read until at least `size` bytes of the body have arrived."""
        while len(self.body) < size:
            self.body += self._receive()

    def read_to_end(self) -> bool:
        """Read the rest. Return False if the connection broke before the end of the body."""
        try:
            while len(self.body) < self.length:
                data = self._connection.recv(1 << 18)
                if not data:
                    return False
                self.body += data
        except ConnectionError:
            return False
        return True


def response_to(connection: socket.socket) -> httpx.Response | None:
    """Receive a response to the end of its JSON body. Returns None if the connection broke first."""
    received = b""
    with suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            received += data
            if received.endswith(b"}\n"):
                break
    if not received:
        return None
    top, _, body = received.partition(b"\r\n\r\n")
    status, *lines = top.decode("latin-1").split("\r\n")
    headers = [tuple(line.split(": ", 1)) for line in lines]
    request = httpx.Request("PUT", "http://localhost/")
    return httpx.Response(int(status.split()[1]), headers=headers, content=body, request=request)  # type: ignore[arg-type]


def form_head(target: str, size: int) -> bytes:
    """Return a form up to the content of its file, for a target `/files/<folder>/<name>`."""
    _, _, folder, name = target.split("/")
    part = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    kind = "Content-Type: multipart/form-data; boundary=x"
    return head("POST", f"/file/upload?folder={folder}", kind, f"Content-Length: {size}") + part


def upload_heads(folder: str, size: int) -> dict[str, bytes]:
    """Return the bytes that precede the content of an upload by PUT, chunked PUT and form, by target."""
    put, chunked, form = (f"/files/{folder}/{way}.mp4" for way in ("put", "chunked", "form"))
    return {
        put: head("PUT", put, f"Content-Length: {size}"),
        chunked: head("PUT", chunked, "Transfer-Encoding: chunked") + b"%x\r\n" % size,
        form: form_head(form, size),
    }
