"""A disk that is full, or loses bytes. Over the filesystem backend."""

import contextlib
import os
import re
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from app.database.filesystem.staging import WRITE_BACK
from tests.support import Server, running

Begin = Callable[..., socket.socket]

FORM = "Content-Type: multipart/form-data; boundary=xxx"


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Server]:
    """A server of its own, which takes files of any size."""
    with running(tmp_path, storage="filesystem", max_upload_size="4EiB") as server:
        yield server


def raw(method: str, target: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def part(size: int, name: str = "film.mp4") -> bytes:
    head = f'--xxx\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + b"x" * size


@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)], ids=["sending at once", "100-continue"])
def test_what_cannot_fit_is_refused_before_it_comes(
    alone: Server, begin: Begin, expect: tuple[str, ...]
) -> None:
    length = f"Content-Length: {1 << 60}"
    sent = b"" if expect else b"x" * 5000
    for request in (
        raw("PUT", "/files/film.mp4", length, *expect) + sent,
        raw("POST", "/file/upload", FORM, length, *expect) + (b"" if expect else part(5000)),
    ):
        connection = begin(alone, request)
        assert connection.recv(12) == b"HTTP/1.1 507"
        connection.close()
    with alone.client() as http:
        assert http.get("/files").json()["items"] == []
    assert alone.staging() == []


def test_a_disk_that_is_full_in_the_middle(alone: Server) -> None:
    """A limit on the size of files is met as a full disk is: a write fails that had begun well."""
    with alone.client() as http:
        http.put("/files/old.mp4", content=b"old").raise_for_status()
        resource.prlimit(alone.process.pid, resource.RLIMIT_FSIZE, (4_000_000, resource.RLIM_INFINITY))
        for response in (
            http.put("/files/film.mp4", content=iter([b"x" * 1_000_000] * 8)),
            http.put("/files/old.mp4", content=iter([b"x" * 1_000_000] * 8)),
            http.post("/file/upload", content=iter([part(8_000_000)]), headers={"content-type": FORM[14:]}),
        ):
            assert response.status_code == 507
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["status"] == 507
            assert alone.staging() == []
        # The rest goes on.
        assert http.get("/files/old.mp4").content == b"old"
        assert http.get("/files/film.mp4").status_code == 404
        assert [item["path"] for item in http.get("/files").json()["items"]] == ["old.mp4"]
        assert http.put("/files/small.mp4", content=b"small").status_code == 201
        resource.prlimit(alone.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert http.put("/files/film.mp4", content=b"x" * 8_000_000).status_code == 201
    assert "Traceback" not in alone.log()


def test_a_limit_that_falls_into_a_write(
    alone: Server, injected: Callable[..., AbstractContextManager[Path]]
) -> None:
    """The write is short, and the next fails; the signal that comes with it kills nobody."""
    with alone.client() as http:
        resource.prlimit(alone.process.pid, resource.RLIMIT_FSIZE, (1_500_000, resource.RLIM_INFINITY))
        data = os.urandom(1_500_001)
        with injected(alone.process.pid, "write:delay_enter=1") as trace:
            for path in ("/files/a/film.mp4", "/files/film.mp4"):
                assert http.put(path, content=data).status_code == 507
        written = re.findall(r"staging.*, (\d+)\) += (-?\d+)", trace.read_text())
        assert any(0 < int(done) < int(asked) for asked, done in written), written
        assert "EFBIG" in trace.read_text()
        assert os.listdir(alone.files) == [".seekable"]
        assert alone.staging() == []
        assert http.put("/files/film.mp4", content=data[:-1]).status_code == 201
        assert http.get("/files/film.mp4").content == data[:-1]


def test_a_slow_disk_slows_the_client(
    alone: Server,
    begin: Begin,
    until: Callable[..., bool],
    injected: Callable[..., AbstractContextManager[Path]],
) -> None:
    """What cannot be written yet stays with the client, not in memory."""
    connection = begin(alone, raw("PUT", "/files/film.mp4", "Content-Length: 1000000000"))
    assert until(alone.staging)
    connection.settimeout(0.8)
    sent, idle = 0, alone.rss()
    slow = injected(alone.process.pid, "write:delay_enter=2000000", paths=(*alone.staging(),))
    with slow as trace, contextlib.suppress(TimeoutError):
        while sent < 32_000_000:
            sent += connection.send(bytes(1_000_000))
    assert "write(" in trace.read_text()
    assert alone.rss() - idle < 10 << 20
    assert sent < 32_000_000, "the buffers of two sockets, and a few batches"
    connection.close()


def test_the_disk_begins_while_a_long_file_still_comes(
    alone: Server, injected: Callable[..., AbstractContextManager[Path]]
) -> None:
    with (
        alone.client() as http,
        injected(alone.process.pid, "fadvise64:delay_enter=1", "fsync:delay_enter=1") as trace,
    ):
        assert http.put("/files/film.mp4", content=bytes(40_000_000)).status_code == 201
    told, _, _ = trace.read_text().partition("fsync")
    spans = [(int(start), int(size)) for start, size in re.findall(r"staging.*?, (\d+), (\d+),", told)]
    assert len(spans) >= 2
    assert [start for start, _ in spans] == [0, *(start + size for start, size in spans[:-1])]
    assert sum(size for _, size in spans) > 40_000_000 - 2 * WRITE_BACK


def test_a_limit_that_the_database_meets(alone: Server) -> None:
    with alone.client() as http:
        film = http.put("/files/film.mp4", content=b"film").raise_for_status().json()
        resource.prlimit(alone.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        for response in (
            http.put("/files/new.mp4", content=b"new"),
            http.put("/files/film.mp4", content=b"new"),
            http.delete("/files/film.mp4"),
        ):
            assert response.status_code in (503, 507)
            assert http.get("/files").json()["items"] == [film]
            assert http.get("/files/film.mp4").content == b"film"
        resource.prlimit(alone.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert http.put("/files/new.mp4", content=b"new").status_code == 201
        assert http.delete("/files/film.mp4").status_code == 204


def test_nothing_is_read_for_clients_that_left(
    alone: Server, begin: Begin, until: Callable[..., bool]
) -> None:
    """Of a file so large that reading it to its end would take minutes."""
    with alone.client() as http:
        http.put("/files/film.mp4", content=b"x" * 100).raise_for_status()
        os.truncate(alone.files / "film.mp4", 1 << 37)
        time.sleep(2.1)
        assert http.head("/files/film.mp4").headers["content-length"] == str(1 << 37)
        leaving = [begin(alone, raw("GET", "/files/film.mp4"), buffer=1 << 16) for _ in range(20)]
        for connection in leaving:
            assert connection.recv(1 << 14).startswith(b"HTTP/1.1 200")
        assert len(readers(alone)) - 20 in (0, 1), "besides, it is being hashed"
        for connection in leaving:
            connection.close()
        assert until(lambda: len(readers(alone)) <= 1), "they are still open"
        assert http.get("/files/film.mp4", headers={"range": "bytes=0-99"}).content == b"x" * 100
    assert "Traceback" not in alone.log()


def readers(server: Server) -> list[str]:
    """The descriptors through which the server reads the film."""
    found = []
    folder = f"/proc/{server.process.pid}/fd"
    for descriptor in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"{folder}/{descriptor}").endswith("film.mp4"):
                found.append(descriptor)
    return found


@pytest.mark.parametrize("header", ["X: y", "Range: bytes=100-", "Range: bytes=0-1000,10000000-"])
def test_a_file_that_loses_its_end_never_looks_complete(alone: Server, begin: Begin, header: str) -> None:
    with alone.client() as http:
        http.put("/files/film.mp4", content=b"x" * 24_000_000).raise_for_status()
        connection = begin(alone, raw("GET", "/files/film.mp4", header), buffer=1 << 16)
        answer = connection.recv(1 << 14)
        head = httpx.Headers(
            [line.split(b": ", 1) for line in answer.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
        )  # type: ignore[misc]
        announced = int(head["content-length"])
        os.truncate(alone.files / "film.mp4", 12_000_000)
        body = len(answer.partition(b"\r\n\r\n")[2])
        try:
            while data := connection.recv(1 << 18):
                body += len(data)
        except ConnectionResetError:
            pass
        assert body < announced, "the connection breaks before the end"
        assert http.get("/health").status_code == 200
    assert "was broken off" in alone.log()
