"""Check that a contestant sends and stores the right bytes; outside of the timed part of a run."""

import http.client
import json
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from benchmarks.servers import Server
from benchmarks.wire import Unexpected

_BLOCK = 1 << 20
_PATIENCE_S = 4
"""Seconds to compare a whole film; of a slower server only the first part is compared."""


def whole(server: Server, path: str, file: Path) -> None:
    """Compare a whole file, or as much as arrives in `_PATIENCE_S`. Raises Unexpected."""
    deadline = time.monotonic() + _PATIENCE_S
    connection = _connect(server)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        _expect(answer.status == 200, f"status {answer.status}")
        _expect(answer.length == file.stat().st_size, f"a length of {answer.length}")
        with file.open("rb") as wanted:
            while time.monotonic() < deadline and (expected := wanted.read(_BLOCK)):
                _expect(answer.read(len(expected)) == expected, "wrong bytes")
    finally:
        connection.close()


def ranges(server: Server, length: int, count: int = 8) -> None:
    """Compare random ranges of the film. Raises Unexpected."""
    size = server.film.stat().st_size
    connection = _connect(server)
    try:
        with server.film.open("rb") as file:
            for _ in range(count):
                start = random.randrange(size - length)
                asked = f"bytes={start}-{start + length - 1}"
                connection.request("GET", server.contestant.film, headers={"Range": asked})
                answer = connection.getresponse()
                file.seek(start)
                right = answer.read() == file.read(length)
                _expect(answer.status == 206, f"status {answer.status} for a range")
                _expect(right, f"wrong bytes for {asked}")
                described = answer.headers["content-range"]
                _expect(described == f"bytes {asked[6:]}/{size}", f"Content-Range: {described}")
    finally:
        connection.close()


def number_listed(server: Server, path: str) -> int:
    """Return the number of files in a list of ours."""
    connection = _connect(server)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        _expect(answer.status == 200, f"status {answer.status} for a list")
        return len(json.load(answer)["items"])
    finally:
        connection.close()


def fill(server: Server, paths: Sequence[str], connections: int = 8) -> None:
    """Upload a few bytes to each path, on several connections."""
    with ThreadPoolExecutor(connections) as threads:
        list(threads.map(lambda first: _fill(server, paths[first::connections]), range(connections)))


def _fill(server: Server, paths: Sequence[str]) -> None:
    connection = _connect(server)
    try:
        for path in paths:
            connection.request("PUT", quote(path), b"film")
            answer = connection.getresponse()
            answer.read()
            _expect(answer.status == 201, f"status {answer.status} for PUT")
    finally:
        connection.close()


def remove(server: Server, path: str) -> None:
    connection = _connect(server)
    try:
        connection.request("DELETE", path)
        status = connection.getresponse().status
        _expect(status in (200, 204), f"status {status} for DELETE")
    finally:
        connection.close()


def _connect(server: Server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", server.place.port, timeout=60)


def _expect(right: bool, found: str) -> None:
    if not right:
        raise Unexpected(f"The server sent {found}.")
