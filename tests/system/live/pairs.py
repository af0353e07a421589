"""Two servers that differ in one setting, get the same requests, and must give the same responses."""

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.http.conftest import Parts, RawConnection
from tests.support import Server
from tests.system.live.clients import until

_BOUNDARY = re.compile(rb"boundary=([^;]*)")
_OWN = re.compile(rb"\b[0-9a-f]{12}-\d+\b|\b127\.0\.0\.1:\d+")
"""Generated ids, and addresses of a server in its error pages."""

_VARYING = {b"content-type": _BOUNDARY, b"x-request-id": _OWN}
_DERIVED = frozenset((b"etag", b"digest", b"repr-digest"))
_COUNTED = re.compile(r"seekable_http_requests_total\{.*")
_LOGGED = re.compile(r'"client": "([^"]*", .* "status": 2.*, "bytes": \d+)')
_PORT = re.compile(r"^127\.0\.0\.1:\d+")
_REPEATED = re.compile(r"\nseekable_http_repeated_total (\d+)")


@dataclass(frozen=True)
class Answer:
    """A response without what differs between two servers: dates, and generated ids and boundaries."""

    status: int
    interim: tuple[int, ...]
    fields: tuple[tuple[bytes, bytes], ...]
    content: bytes

    @classmethod
    def of(cls, parts: Parts, *, has_doubts: bool) -> "Answer":
        """With `has_doubts`, files are hashed at some time, until then with other digests."""
        fields, content = [], parts.content
        for name, value in parts.headers:
            if name in (b"date", b"last-modified") or (has_doubts and name in _DERIVED):
                continue
            if name == b"content-type" and (boundary := _BOUNDARY.search(value)):
                content = content.replace(boundary[1], b"boundary")
            fields.append((name, _VARYING[name].sub(b"", value) if name in _VARYING else value))
        if _OWN.search(content):
            content = _OWN.sub(b"", content)
            fields = [field for field in fields if field[0] != b"content-length"]
        return cls(parts.status, parts.interim, tuple(fields), content)


class Pair:
    """Two servers of which the first has the fast path, and a connection to each."""

    def __init__(self, folders: Sequence[Path], threads: ThreadPoolExecutor) -> None:
        self.servers = [
            Server(folder, fast_path=number == 0, scan_interval=86400)
            for number, folder in enumerate(folders)
        ]
        self.has_doubts = False
        """Digests and ETags are not compared."""
        self.reads_only = False
        """The servers do not change the folder, and so do not keep the ETags of uploads."""
        self.repeated = 0
        """Responses of the first server that were repeated, up to its last start."""
        self._threads = threads
        self._fixed = dict(self.servers[0].settings), dict(self.servers[1].settings)
        self._offsets = [0, 0]  # of the logs at the last start
        self._connections: list[RawConnection] = []
        self._clients: list[httpx.Client] = []

    def start(self, **settings: object) -> None:
        """Start both servers with the same settings besides those in which they differ."""
        for server, fixed in zip(self.servers, self._fixed, strict=True):
            server.settings = {**fixed, **settings}
        self._offsets = [server.logged() if server.was_started else 0 for server in self.servers]
        self.reads_only = "read_only" in settings
        list(self._threads.map(Server.start, self.servers))
        self._clients = [server.client() for server in self.servers]

    def stop(self) -> None:
        """Compare the counters of both servers, and stop them."""
        self.close()
        if not self._clients:
            return
        try:
            self._compare_counters()
        finally:
            for client in self._clients:
                client.close()
            self._clients = []
            list(self._threads.map(Server.stop, self.servers))
        self._compare_logs()

    def restart(self, **settings: object) -> None:
        self.stop()
        self.start(**settings)

    def _compare_counters(self) -> None:
        """Compare requests by method, route and status, once the last one is counted, after its response."""
        texts: list[str] = []

        def agree() -> bool:
            texts[:] = [client.get("/metrics").raise_for_status().text for client in self._clients]
            one, other = (set(_COUNTED.findall(text)) for text in texts)
            return one == other

        until(agree, "both servers count the same requests")
        repeated, without = (int(text) for text in _REPEATED.findall("".join(texts)))
        assert without == 0
        self.repeated += repeated

    def _compare_logs(self) -> None:
        """Compare the JSON records of successful requests since the start, without times, ids and ports.

        The length of other responses depends on the id in their body.
        """
        one, other = (
            Counter(_PORT.sub("", line) for line in _LOGGED.findall(server.log(offset)) if "/files/" in line)
            for server, offset in zip(self.servers, self._offsets, strict=True)
        )
        assert one == other, (one - other, other - one)

    def connect(self) -> None:
        """Open new connections."""
        self.close()
        self._connections = [RawConnection("127.0.0.1", server.port) for server in self.servers]

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections = []

    def change(self, method: str, target: str, **options: object) -> list[httpx.Response]:
        """Send a request to both by other connections."""
        return [client.request(method, target, **options) for client in self._clients]  # type: ignore[arg-type]

    def request(self, data: bytes, *, cut: int | None = None) -> Answer:
        """Send requests to both, in two segments if `cut`; compare all responses, and return the last."""
        for connection in self._connections:
            connection.send(data[:cut])
        if cut is not None:
            time.sleep(0.002)
            for connection in self._connections:
                connection.send(data[cut:])
        for method in re.findall(rb"(?:\A|\r\n\r\n)([A-Za-z]+) ", data):
            one, other = (
                Answer.of(connection.receive_parts(method.decode()), has_doubts=self.has_doubts)
                for connection in self._connections
            )
            assert one == other, (data, one, other)
        if (b"connection", b"close") in one.fields:
            assert all(connection.is_closed() for connection in self._connections)
            self.connect()
        return one


@contextmanager
def paired(folder: Path, **settings: object) -> Iterator[Pair]:
    """Run a pair of servers in two folders."""
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(8))
        pair = Pair([folder / "fast", folder / "whole"], threads)
        for server in pair.servers:
            stack.callback(lambda server=server: server.was_started and server.stop())
        pair.start(**settings)
        yield pair
        pair.stop()
