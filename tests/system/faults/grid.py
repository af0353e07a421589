"""Libraries in GridFS whose servers, and whose mongod, come to harm."""

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
from app.storage.maintenance import Verdict
from tests.support import Server, mongo
from tests.support.beneath import beneath
from tests.support.forking import completed

Begin = Callable[..., socket.socket]

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Grid:
    """One library in a database, and servers over it."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self.url = url
        self.settings: dict[str, Any] = {"storage": "gridfs", "mongodb_url": url}

    @property
    def database(self) -> Database[dict[str, Any]]:
        return mongo.database(self.url)

    @contextmanager
    def server(self, name: str = "server", **settings: object) -> Iterator[Server]:
        """One that runs, and may be killed."""
        server = Server(self._folder / name, **{**self.settings, **settings})
        try:
            yield server.start()
        finally:
            if server.process.poll() is None:
                server.kill()

    def seekable(self, *words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command over it."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SEEKABLE_")}
        environment |= {f"SEEKABLE_{key.upper()}": str(value) for key, value in self.settings.items()}
        self._folder.mkdir(parents=True, exist_ok=True)
        return completed(*words, folder=self._folder, environment=environment, timeout=timeout)

    @contextmanager
    def backend(self) -> Iterator[GridBackend]:
        """It, opened in this process, as by one more server."""
        with ExitStack() as stack:
            settings = Settings(_env_file=None, storage="gridfs", mongodb_url=self.url)
            yield open_gridfs(settings, lambda name: "video/mp4", stack)

    def pass_time(self, of: Callable[[Any], bool] = lambda file: True) -> None:
        """Leases have run out, and so has the grace of what was replaced or deleted."""
        files = [file for file in self.database["media.uploads"].distinct("_id") if of(file)]
        self.database["media.uploads"].update_many(
            {"_id": {"$in": files}}, {"$set": {"expires_at": LONG_AGO}}
        )

    def sweep(self) -> int:
        """Scan. The number of files that are gone from the bucket."""
        before = self.database["fs.files"].count_documents({})
        with self.backend() as backend:
            for _ in backend.scan():
                pass
        return before - self.database["fs.files"].count_documents({})

    def check_nothing_left(self) -> None:
        """Not a byte is there, a sweep later, of what no document names; and all that is named is whole."""
        self.pass_time()
        self.sweep()
        with self.backend() as backend:
            verdicts = [step.verdict for step in backend.verify() if step.verdict is not None]
        assert set(verdicts) <= {Verdict.SOUND}
        named = self.named()
        assert self.database["media.uploads"].distinct("_id") == []
        assert {*self.database["fs.files"].distinct("_id")} == named
        assert {*self.database["fs.chunks"].distinct("files_id")} <= named

    def named(self) -> set[Any]:
        return {*self.database["media"].distinct("file")}

    def under_way(self) -> Counter[Any]:
        """How many chunks there are of each file that nobody names."""
        chunks = self.database["fs.chunks"]
        files = {*chunks.distinct("files_id")} - self.named()
        return Counter({file: chunks.count_documents({"files_id": file}) for file in files})


def leftovers(server: Server) -> set[str]:
    return beneath(server).leftovers()


def until(condition: Callable[[], bool], within: float = 20) -> bool:
    """Wait for something to become true. Whether it did."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def recovered(server: Server, within: float = 10) -> float:
    """Wait until a server whose database is back says so. How long it took."""
    began = time.monotonic()

    def ready() -> bool:
        with server.client() as http:
            return http.get("/health/ready").status_code == 200

    assert until(ready, within), server.log()[-3000:]
    return time.monotonic() - began


def check_refused(answer: httpx.Response) -> None:
    """It says that the database does not answer, and when to come back."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"] == "5"
    if answer.request.method != "HEAD":
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == 503


def head(method: str, target: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


class Download:
    """One that reads when it is told to, and knows what it got."""

    def __init__(self, begin: Begin, server: Server, target: str, *headers: str) -> None:
        self._connection = begin(server, head("GET", target, *headers), buffer=1 << 16)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._some()
        self.head, _, body = received.partition(b"\r\n\r\n")
        self.body = bytearray(body)
        lines = self.head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = httpx.Headers([tuple(line.split(": ", 1)) for line in lines[1:]])  # type: ignore[misc]
        self.length = int(self.headers["content-length"])

    def _some(self) -> bytes:
        data = self._connection.recv(1 << 16)
        assert data, "it ended before it began"
        return data

    def read(self, size: int) -> None:
        """Until there are so many bytes of the body."""
        while len(self.body) < size:
            self.body += self._some()

    def rest(self) -> bool:
        """Whether all came: if not, the connection broke."""
        try:
            while len(self.body) < self.length:
                data = self._connection.recv(1 << 18)
                if not data:
                    return False
                self.body += data
        except ConnectionError:
            return False
        return True


def answer_to(connection: socket.socket) -> httpx.Response | None:
    """None when the connection broke."""
    received = b""
    with suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            received += data
            if received.endswith(b"}"):
                break
    if not received:
        return None
    top, _, body = received.partition(b"\r\n\r\n")
    status, *lines = top.decode("latin-1").split("\r\n")
    headers = [tuple(line.split(": ", 1)) for line in lines]
    request = httpx.Request("PUT", "http://localhost/")
    return httpx.Response(int(status.split()[1]), headers=headers, content=body, request=request)  # type: ignore[arg-type]


def form(target: str, size: int) -> bytes:
    """The beginning of one whose file goes where `/files/<folder>/<name>` says."""
    _, _, folder, name = target.split("/")
    part = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    kind = "Content-Type: multipart/form-data; boundary=x"
    return head("POST", f"/file/upload?folder={folder}", kind, f"Content-Length: {size}") + part


def beginnings(folder: str, size: int) -> dict[str, bytes]:
    """Uploads in each way, by where they go, but for their bytes."""
    put, chunked, by_form = (f"/files/{folder}/{way}.mp4" for way in ("put", "chunked", "form"))
    return {
        put: head("PUT", put, f"Content-Length: {size}"),
        chunked: head("PUT", chunked, "Transfer-Encoding: chunked") + b"%x\r\n" % size,
        by_form: form(by_form, size),
    }
