"""The fast path changes no response: two servers, with it and without it, answer the same requests.

Both get the same operations: by requests and by hand, and restarts with other settings. Only the date,
generated ids and boundaries, and the times and ETags that a server derives from the disk may differ.
"""

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from app.database.filesystem.open_cache import NAMED_FOR_S
from tests.system.live.pairs import Pair, paired

pytestmark = pytest.mark.live

SEQUENCES = 50
CAMPAIGN = 4000
QUIET_S = 2.1
"""Seconds after a change before a file is opened from the cache, and its answers are repeated."""

SETTINGS: tuple[dict[str, object], ...] = (
    {"cors_origins": "https://app.example.org"},
    {
        "access": "open",
        "allowed_hosts": "media.example.org",
        "cache_control": "max-age=60, x=%d",
        "ignore": "*7",
        "log_format": "json",
        "trusted_proxies": "",
    },
    {"cors_origins": "*", "allowed_hosts": "*", "access_log": "false", "ignore": ""},
    {"trusted_proxies": "127.0.0.0/8, 192.0.2.0/24", "read_only": "true", "log_format": "json"},
    {"send_timeout": 1, "keepalive_timeout": 2, "header_timeout": 1},
)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with paired(tmp_path, **SETTINGS[0]) as pair:
        yield pair


# Requests

T = TypeVar("T")


def one_of(numbers: random.Random, weights: Mapping[T, float]) -> T:
    return numbers.choices(list(weights), list(weights.values()))[0]


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
            "bytes=",
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
    "X-Forwarded-For: 203.0.113.9, 192.0.2.7\r\nX-Forwarded-Proto: https",
    "Forwarded: for=192.0.2.7;proto=https",
    "Cookie: seekable=1",
    "Accept: text/html",
    "Content-Length: 0",
    "TE: trailers",
)
ENDING = (FIELDS[4], FIELDS[6])
"""Those after which the server closes the connection."""

METHODS = {"GET": 90, "HEAD": 9, "OPTIONS": 2, "POST": 1, "TRACE": 1, "CONNECT": 0.2, "get": 0.2}
HOSTS = {"localhost": 18, "media.example.org": 2, "127.0.0.1:80": 1, "evil.example.org": 1}
VERSIONS = {"1.1": 60, "1.0": 1}

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
    version: str
    host: str
    fields: str | None
    range_name: str | None
    repeats_range: bool
    id: str | None

    @classmethod
    def chosen(cls, numbers: random.Random, path: str, etag: str, *, has_doubts: bool) -> "Form":
        fields = FIELDS if has_doubts else FIELDS + CONDITIONS
        return cls(
            one_of(numbers, METHODS),
            f"/files/{path}" + one_of(numbers, {"": 8, "?download": 1, "?x=%ff": 1}),
            one_of(numbers, VERSIONS),
            one_of(numbers, HOSTS),
            numbers.choice(fields).format(etag) if numbers.random() < 0.5 else None,
            one_of(numbers, {"Range": 9, "range": 2, "RANGE": 1, None: 2}),
            numbers.random() < 0.05,
            one_of(numbers, {None: 9, "safe": 2, "unsafe": 1, "twice": 1}),
        )

    @property
    def ends_connection(self) -> bool:
        return self.fields in ENDING or self.version == "1.0" or self.method in ("CONNECT", "get")

    def head(self, numbers: random.Random, size: int) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/{self.version}", f"Host: {self.host}"]
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
    return lambda pair, path, numbers: pair.change(method, f"/files/{path}", **options)


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

UNNOTICED = frozenset(("exchange folder by hand", "rename folder by hand"))
"""Operations that the fast path notices only after NAMED_FOR_S."""

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
    path, size = f"{number}/film.mp4", size_of(number)
    pair.connect()
    pair.has_doubts = pair.reads_only
    first = pair.request(f"HEAD /files/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    tag = dict(first.fields).get(b"etag", b'"0"').decode()
    pair.has_doubts = pair.reads_only or not DOUBTFUL.isdisjoint(names)
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
            if how < 0.06 and not form.ends_connection:
                pair.request(data + data)
            else:
                pair.request(data, cut=numbers.randrange(1, 40) if how < 0.12 else None)

    some_requests()
    for name in names:
        OPERATIONS[name](pair, path, numbers)
        if name in UNNOTICED:
            time.sleep(NAMED_FOR_S)
        some_requests()


def size_of(number: int) -> int:
    return 700 + number % 13


def upload(pair: Pair, sequences: range) -> None:
    for number in sequences:
        content = random.Random(number).randbytes(size_of(number))
        for response in pair.change("PUT", f"/files/{number}/film.mp4", content=content):
            assert response.status_code == 201
    time.sleep(QUIET_S)


def play_all(pair: Pair, sequences: range) -> None:
    numbers = random.Random(sequences.start)
    for number in sequences:
        names = numbers.choices(list(OPERATIONS), k=numbers.randrange(1, 3))
        try:
            play(pair, number, names)
        except AssertionError as error:
            error.add_note(f"in sequence {number}, with {names}")
            raise


@pytest.mark.timeout(600)
def test_responses_are_the_same_without_fast_path(pair: Pair) -> None:
    upload(pair, range(SEQUENCES))
    play_all(pair, range(SEQUENCES // 2))
    pair.restart(**SETTINGS[1])
    play_all(pair, range(SEQUENCES // 2, SEQUENCES))
    pair.stop()
    assert pair.repeated > SEQUENCES // 2


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(10_000, 10_000 + CAMPAIGN, 500))
def test_responses_of_many_sequences_are_the_same_without_fast_path(pair: Pair, first: int) -> None:
    for number, start in enumerate(range(first, first + 500, 100)):
        pair.restart()
        upload(pair, range(start, start + 100))
        for half in (0, 50):
            pair.restart(**SETTINGS[(2 * number + half // 50) % len(SETTINGS)])
            play_all(pair, range(start + half, start + half + 50))
    pair.stop()
    assert pair.repeated > 500
