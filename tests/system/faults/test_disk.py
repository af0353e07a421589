"""A disk that is full or slow, or loses bytes. Over the filesystem backend."""

import contextlib
import os
import re
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from app.database.filesystem.staging import SYNC_STEP
from tests.support import Server, running

StartRequest = Callable[..., socket.socket]

FORM = "Content-Type: multipart/form-data; boundary=xxx"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Run a server of the test's own that accepts files of any size."""
    with running(tmp_path, storage="filesystem", max_upload_size="4EiB", stable_after=0) as server:
        yield server


def raw(method: str, target: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def part(size: int, name: str = "film.mp4") -> bytes:
    head = f'--xxx\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + b"x" * size


@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)], ids=["sending at once", "100-continue"])
def test_upload_larger_than_disk_gets_507_before_its_body(
    server: Server, start_request: StartRequest, expect: tuple[str, ...]
) -> None:
    length = f"Content-Length: {1 << 60}"
    sent = b"" if expect else b"x" * 5000
    for request in (
        raw("PUT", "/files/film.mp4", length, *expect) + sent,
        raw("POST", "/file/upload", FORM, length, *expect) + (b"" if expect else part(5000)),
    ):
        connection = start_request(server, request)
        assert connection.recv(12) == b"HTTP/1.1 507"
        connection.close()
    with server.client() as http:
        assert http.get("/files").json()["items"] == []
    assert server.staging() == []


def test_full_disk_during_upload_gets_507_and_keeps_old_files(server: Server) -> None:
    """A limit on file sizes acts like a full disk: a later write of the upload fails."""
    with server.client() as http:
        http.put("/files/old.mp4", content=b"old").raise_for_status()
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (4_000_000, resource.RLIM_INFINITY))
        for response in (
            http.put("/files/film.mp4", content=iter([b"x" * 1_000_000] * 8)),
            http.put("/files/old.mp4", content=iter([b"x" * 1_000_000] * 8)),
            http.post("/file/upload", content=iter([part(8_000_000)]), headers={"content-type": FORM[14:]}),
        ):
            assert response.status_code == 507
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["status"] == 507
            assert server.staging() == []
        # Other requests still work.
        assert http.get("/files/old.mp4").content == b"old"
        assert http.get("/files/film.mp4").status_code == 404
        assert [item["path"] for item in http.get("/files").json()["items"]] == ["old.mp4"]
        assert http.put("/files/small.mp4", content=b"small").status_code == 201
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert http.put("/files/film.mp4", content=b"x" * 8_000_000).status_code == 201
    assert "Traceback" not in server.log()


def test_short_write_gets_507_and_leaves_nothing(
    server: Server, inject_faults: Callable[..., AbstractContextManager[Path]]
) -> None:
    """The write is short, and the next fails with SIGXFSZ, which must not kill the server."""
    with server.client() as http:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1_500_000, resource.RLIM_INFINITY))
        data = os.urandom(1_500_001)
        with inject_faults(server.process.pid, "write:delay_enter=1") as trace:
            for path in ("/files/a/film.mp4", "/files/film.mp4"):
                assert http.put(path, content=data).status_code == 507
        written = re.findall(r"staging.*, (\d+)\) += (-?\d+)", trace.read_text())
        assert any(0 < int(done) < int(requested) for requested, done in written), written
        assert "EFBIG" in trace.read_text()
        assert os.listdir(server.files) == [".seekable"]
        assert server.staging() == []
        assert http.put("/files/film.mp4", content=data[:-1]).status_code == 201
        assert http.get("/files/film.mp4").content == data[:-1]


def test_slow_disk_slows_the_client_instead_of_filling_memory(
    server: Server,
    start_request: StartRequest,
    until: Callable[..., bool],
    inject_faults: Callable[..., AbstractContextManager[Path]],
) -> None:
    """The server does not read bytes that it cannot write yet."""
    connection = start_request(server, raw("PUT", "/files/film.mp4", "Content-Length: 1000000000"))
    assert until(server.staging)
    connection.settimeout(0.8)
    sent, idle = 0, server.rss()
    slow = inject_faults(server.process.pid, "write:delay_enter=2000000", paths=(*server.staging(),))
    with slow as trace, contextlib.suppress(TimeoutError):
        while sent < 32_000_000:
            sent += connection.send(bytes(1_000_000))
    assert "write(" in trace.read_text()
    assert server.rss() - idle < 10 << 20
    assert sent < 32_000_000, "more was sent than two socket buffers and a few batches hold"
    connection.close()


def test_long_upload_is_synced_while_it_arrives(
    server: Server, inject_faults: Callable[..., AbstractContextManager[Path]]
) -> None:
    size = 4 * SYNC_STEP
    with (
        server.client() as http,
        inject_faults(server.process.pid, "fsync:delay_enter=1", "write:delay_enter=1") as trace,
    ):
        assert http.put("/files/film.mp4", content=bytes(size)).status_code == 201
    calls = [line for line in trace.read_text().splitlines() if "staging/" in line]
    early = next(number for number, line in enumerate(calls) if "fsync" in line)
    assert early < 0.75 * len(calls)
    assert "fsync" in calls[-1], "the last bytes are synced, too"


def test_full_disk_of_database_refuses_changes_and_serves_reads(server: Server) -> None:
    with server.client() as http:
        film = http.put("/files/film.mp4", content=b"film").raise_for_status().json()
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        for response in (
            http.put("/files/new.mp4", content=b"new"),
            http.put("/files/film.mp4", content=b"new"),
            http.delete("/files/film.mp4"),
        ):
            assert response.status_code in (503, 507)
            assert http.get("/files").json()["items"] == [film]
            assert http.get("/files/film.mp4").content == b"film"
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert http.put("/files/new.mp4", content=b"new").status_code == 201
        assert http.delete("/files/film.mp4").status_code == 204


def test_disconnected_clients_stop_reads_of_a_huge_file(
    server: Server, start_request: StartRequest, until: Callable[..., bool]
) -> None:
    """Reading the file to its end would take minutes."""
    with server.client() as http:
        http.put("/files/film.mp4", content=b"x" * 100).raise_for_status()
        os.truncate(server.files / "film.mp4", 1 << 37)
        assert http.head("/files/film.mp4").headers["content-length"] == str(1 << 37)
        connections = [
            start_request(server, raw("GET", "/files/film.mp4"), buffer=1 << 16) for _ in range(20)
        ]
        for connection in connections:
            assert connection.recv(1 << 14).startswith(b"HTTP/1.1 200")
        assert len(film_descriptors(server)) - 20 in (0, 1), "one more reader is allowed, for the hash"
        for connection in connections:
            connection.close()
        assert until(lambda: len(film_descriptors(server)) <= 1), (
            "the server still reads for disconnected clients"
        )
        assert http.get("/files/film.mp4", headers={"range": "bytes=0-99"}).content == b"x" * 100
    assert "Traceback" not in server.log()


def film_descriptors(server: Server) -> list[str]:
    """Return the descriptors of the film that the server has open."""
    found = []
    folder = f"/proc/{server.process.pid}/fd"
    for descriptor in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"{folder}/{descriptor}").endswith("film.mp4"):
                found.append(descriptor)
    return found


@pytest.mark.parametrize("header", ["X: y", "Range: bytes=100-", "Range: bytes=0-1000,10000000-"])
def test_download_of_truncated_file_is_aborted(
    server: Server, start_request: StartRequest, header: str
) -> None:
    with server.client() as http:
        http.put("/files/film.mp4", content=b"x" * 24_000_000).raise_for_status()
        connection = start_request(server, raw("GET", "/files/film.mp4", header), buffer=1 << 16)
        response = connection.recv(1 << 14)
        head = httpx.Headers(
            [line.split(b": ", 1) for line in response.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
        )  # type: ignore[misc]
        declared = int(head["content-length"])
        os.truncate(server.files / "film.mp4", 12_000_000)
        body = len(response.partition(b"\r\n\r\n")[2])
        try:
            while data := connection.recv(1 << 18):
                body += len(data)
        except ConnectionResetError:
            pass
        assert body < declared, "a truncated body looked complete"
        assert http.get("/health").status_code == 200
    assert "was aborted" in server.log()
