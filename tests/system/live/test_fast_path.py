"""The fast path changes no response: two servers, with it and without it, answer the same requests.

Both get the same operations: by requests and by hand. Only the date, generated ids and boundaries, and the
times and ETags that a server derives from the disk may differ.
"""

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from app.database.filesystem.open_cache import NAMED_FOR_S
from tests.http.conftest import RawConnection
from tests.http.test_metrics import read_metrics
from tests.support import Server, running

pytestmark = pytest.mark.live

SEQUENCES = 100
CAMPAIGN = 4000
QUIET_S = 2.1
"""Seconds after a change before a file is opened from the cache, and its answers are repeated."""

_VARYING = frozenset(("date", "last-modified"))
_VARYING_VALUE = re.compile(r"boundary=.*|^[0-9a-f]{12}-\d+$")


@dataclass
class Pair:
    """A server with the fast path, one without it, and a connection to each."""

    servers: tuple[Server, Server]
    has_doubts: bool = False
    """Files are examined and hashed at some time, until then with other digests."""
    connections: list[RawConnection] = field(default_factory=list)

    def connect(self) -> None:
        self.close()
        self.connections = [RawConnection("127.0.0.1", server.port) for server in self.servers]

    def close(self) -> None:
        for connection in self.connections:
            connection.close()

    def request(self, data: bytes, *, cut: int | None = None) -> httpx.Response:
        """Send requests to both, in two segments if `cut`; compare all responses, and return the last."""
        for connection in self.connections:
            if cut is not None:
                connection.send(data[:cut])
                time.sleep(0.002)
            connection.send(data[cut or 0 :])
        for method in re.findall(rb"(?:\A|\r\n\r\n)([A-Z]+) ", data):
            responses = [one.receive_response(method.decode()) for one in self.connections]
            self.compare(data, *responses)
        if any(response.headers.get("connection") == "close" for response in responses):
            assert all(connection.is_closed() for connection in self.connections)
            self.connect()
        return responses[0]

    def compare(self, head: bytes, one: httpx.Response, other: httpx.Response) -> None:
        assert one.status_code == other.status_code, (head, one.content[:200], other.content[:200])
        assert self.normalized(one) == self.normalized(other), head
        assert body(one) == body(other), head

    def normalized(self, response: httpx.Response) -> list[tuple[str, str]]:
        varying = {*_VARYING, *(("etag", "digest", "repr-digest") if self.has_doubts else ())}
        return [
            (name, _VARYING_VALUE.sub("", value))
            for name, value in response.headers.multi_items()
            if name not in varying
        ]


def body(response: httpx.Response) -> bytes:
    boundary = response.headers.get("content-type", "").partition("boundary=")[2]
    content = response.content.replace(boundary.encode(), b"boundary") if boundary else response.content
    return re.sub(rb'"request_id": *"[^"]*"', b"", content)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with ExitStack() as stack:
        servers = tuple(
            stack.enter_context(
                running(
                    tmp_path_factory.mktemp("server"),
                    fast_path=enabled,
                    cors_origins="https://app.example.org",
                    scan_interval=86400,
                )
            )
            for enabled in (True, False)
        )
        yield stack.enter_context(closing(Pair(servers)))  # type: ignore[arg-type]


# Requests

NAMES = ("Range", "range", "RANGE")


def a_range(numbers: random.Random, size: int) -> str:
    """Return the value of a Range header: most of the usual form, some not."""
    start = numbers.randrange(size + 3)
    stop = numbers.choice((start, start + 1, start + 700, size - 1, size, 10**14, 10**19))
    usual = f"bytes={start}-{numbers.choice((stop, stop, ''))}"
    if numbers.random() < 0.9:
        return usual
    return numbers.choice(
        (
            f"bytes=-{start}",
            f"bytes={start}-{start - 1}",
            f"bytes=0-1,{start}-{stop}",
            f"bytes={start:09}-{stop}",
            f"bytes= {start}-{stop}",
            f"Bytes={start}-{stop}",
            f"bytes={start}-{stop} ",
            "bytes=x-",
            "lines=1-2",
        )
    )


FIELDS = (
    "User-Agent: a player",
    "User-Agent: VLC 50%\r\nAccept: */*",
    "Origin: https://app.example.org",
    "Origin: https://other.example.org",
    "Expect: 100-continue",
    "Upgrade: h2c\r\nConnection: upgrade",
    "Connection: close",
    "X-Forwarded-For: 192.0.2.7",
)
ENDING = (FIELDS[4], FIELDS[6])
"""Those after which the server closes the connection."""

CONDITIONS = (
    "If-Range: {}",
    'If-Range: "0"',
    "If-None-Match: {}",
    "If-Match: {}",
    "If-Modified-Since: Tue, 01 Dec 2099 10:00:00 GMT",
    "If-Unmodified-Since: Tue, 01 Dec 2009 10:00:00 GMT",
    "Want-Digest: sha-256",
)


@dataclass
class Form:
    """A form of request, of which only the range and the id differ from one to the next."""

    method: str
    target: str
    fields: str | None
    range_name: str | None
    repeats_range: bool
    id: str | None

    @classmethod
    def chosen(cls, numbers: random.Random, path: str, etag: str, *, has_doubts: bool) -> "Form":
        fields = FIELDS if has_doubts else FIELDS + CONDITIONS
        return cls(
            numbers.choices(("GET", "HEAD"), (9, 1))[0],
            f"/files/{path}" + numbers.choices(("", "?download", "?x=%ff"), (8, 1, 1))[0],
            numbers.choice(fields).format(etag) if numbers.random() < 0.5 else None,
            numbers.choices((*NAMES, None), (9, 2, 1, 2))[0],
            numbers.random() < 0.05,
            numbers.choices((None, "safe", "unsafe", "twice"), (9, 2, 1, 1))[0],
        )

    def head(self, numbers: random.Random, size: int) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1", "Host: localhost"]
        if self.range_name is not None:
            lines += [f"{self.range_name}: {a_range(numbers, size)}"] * (1 + self.repeats_range)
        if self.fields is not None:
            lines.append(self.fields)
        for name in {None: (), "safe": ("a-",), "unsafe": ("a b",), "twice": ("a-", "b-")}[self.id]:
            lines.append(f"X-Request-ID: {name}{numbers.randrange(10**6)}")
        return "\r\n".join([*lines, "", ""]).encode()


# Operations

Operation = Callable[[Pair, str, random.Random], None]


def by_hand(change: Callable[[Path, random.Random], object]) -> Operation:
    def operation(pair: Pair, path: str, numbers: random.Random) -> None:
        state = numbers.getstate()
        for server in pair.servers:
            numbers.setstate(state)
            with suppress(OSError):  # an earlier operation has taken it away
                change(server.files / path, numbers)

    return operation


def by_request(method: str, **options: object) -> Operation:
    def operation(pair: Pair, path: str, numbers: random.Random) -> None:
        for server in pair.servers:
            with server.client() as http:
                http.request(method, f"/files/{path}", **options)  # type: ignore[arg-type]

    return operation


def overwrite(path: Path, numbers: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(numbers.randrange(500))
        file.write(numbers.randbytes(50))


def replace(path: Path, numbers: random.Random) -> None:
    other = path.with_name(".new")
    other.write_bytes(numbers.randbytes(path.stat().st_size))
    other.replace(path)


def replace_by_link(path: Path, numbers: random.Random) -> None:
    moved = path.with_name("moved")
    path.rename(moved)
    path.symlink_to(moved)


def rename_folder(path: Path, numbers: random.Random) -> None:
    path.parent.rename(path.parent.with_name(f"{path.parent.name}-renamed"))
    time.sleep(NAMED_FOR_S)


def exchange_folder(path: Path, numbers: random.Random) -> None:
    """Put another folder with a file of the same name in the place of the folder."""
    content = numbers.randbytes(path.stat().st_size)
    rename_folder(path, numbers)
    path.parent.mkdir()
    path.write_bytes(content)


DOUBTFUL = frozenset(
    (
        "chmod",
        "exchange folder by hand",
        "overwrite by hand",
        "replace by hand",
        "touch",
        "truncate by hand",
    )
)
"""Operations after which a file has to be hashed, so that the outcome of conditions depends on the moment."""

OPERATIONS: dict[str, Operation] = {
    "nothing": by_hand(lambda path, numbers: None),
    "PUT": by_request("PUT", content=b"another film" * 60),
    "DELETE": by_request("DELETE"),
    "move": by_request(
        "PATCH", json={"path": "elsewhere.mp4"}, headers={"content-type": "application/merge-patch+json"}
    ),
    "rename by hand": by_hand(lambda path, numbers: path.rename(path.with_name("renamed.mp4"))),
    "delete by hand": by_hand(lambda path, numbers: path.unlink()),
    "overwrite by hand": by_hand(overwrite),
    "replace by hand": by_hand(replace),
    "truncate by hand": by_hand(lambda path, numbers: os.truncate(path, 300)),
    "touch": by_hand(lambda path, numbers: os.utime(path)),
    "chmod": by_hand(lambda path, numbers: path.chmod(0o640)),
    "link by hand": by_hand(replace_by_link),
    "rename folder by hand": by_hand(rename_folder),
    "exchange folder by hand": by_hand(exchange_folder),
}


def play(pair: Pair, number: int, names: list[str]) -> None:
    """Compare a sequence of requests of one or two forms, with an operation among them."""
    numbers = random.Random(number)
    path, size = f"{number}/film.mp4", 700 + number % 13
    pair.connect()
    first = pair.request(f"HEAD /files/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    tag = first.headers["etag"]
    pair.has_doubts = not DOUBTFUL.isdisjoint(names)
    forms = [Form.chosen(numbers, path, tag, has_doubts=pair.has_doubts) for _ in range(2)]
    form = forms[0]

    def some_requests() -> None:
        nonlocal form
        for _ in range(numbers.randrange(3, 8)):
            if numbers.random() < 0.2:
                form = numbers.choice(forms)
            data = form.head(numbers, size)
            how = numbers.random()
            if numbers.random() < 0.1:
                pair.connect()
            if how < 0.06 and form.fields not in ENDING:
                pair.request(data + data)
            else:
                pair.request(data, cut=numbers.randrange(1, 40) if how < 0.12 else None)

    some_requests()
    for name in names:
        OPERATIONS[name](pair, path, numbers)
        some_requests()


def play_all(pair: Pair, sequences: range) -> int:
    """Play these sequences; return how many answers were repeated."""
    with ExitStack() as stack, ThreadPoolExecutor(8) as threads:
        clients = [stack.enter_context(server.client()) for server in pair.servers]

        def upload(number: int) -> None:
            content = random.Random(number).randbytes(700 + number % 13)
            for http in clients:
                assert http.put(f"/files/{number}/film.mp4", content=content).status_code == 201

        list(threads.map(upload, sequences))
    time.sleep(QUIET_S)
    before = [repeated(server) for server in pair.servers]
    numbers = random.Random(sequences.start)
    for number in sequences:
        names = numbers.choices(list(OPERATIONS), k=numbers.randrange(1, 3))
        try:
            play(pair, number, names)
        except AssertionError as error:
            error.add_note(f"in sequence {number}, with {names}")
            raise
    with_fast_path, without = (repeated(one) - then for one, then in zip(pair.servers, before, strict=True))
    assert without == 0
    return with_fast_path


def repeated(server: Server) -> int:
    with server.client() as http:
        return int(read_metrics(http)["seekable_http_repeated_total"])


@pytest.mark.timeout(600)
def test_responses_are_the_same_without_fast_path(pair: Pair) -> None:
    assert play_all(pair, range(SEQUENCES)) > SEQUENCES


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_responses_of_many_sequences_are_the_same_without_fast_path(pair: Pair) -> None:
    for start in range(10_000, 10_000 + CAMPAIGN, SEQUENCES):
        assert play_all(pair, range(start, start + SEQUENCES)) > SEQUENCES
