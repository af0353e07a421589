"""A failing disk: EIO injected into system calls of a running server. Over the filesystem backend."""

import random
import re
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from tests.support import Server, noise

StartRequest = Callable[..., socket.socket]
InjectFaults = Callable[..., AbstractContextManager[Path]]
HashesIn = Callable[[httpx.Client, str], dict[str, str]]

OLD = random.Random(1).randbytes(300_000)
FILM = noise(24_000_000)

CHANGES: dict[str, Callable[[httpx.Client], httpx.Response]] = {
    "create": lambda http: http.put("/files/a/new.mp4", content=b"new"),
    "form": lambda http: http.post("/file/upload?folder=a", files={"file": ("new.mp4", b"new")}),
    "replace": lambda http: http.put("/files/a/old.mp4", content=b"new"),
    "delete": lambda http: http.delete("/files/a/old.mp4"),
    "move": lambda http: http.patch(
        "/files/a/old.mp4",
        json={"filename": "new.mp4"},
        headers={"content-type": "application/merge-patch+json"},
    ),
}


def assert_unavailable(http: httpx.Client, name: str) -> None:
    response = CHANGES[name](http)
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"]


def test_failed_fsync_refuses_change_and_is_not_retried(
    filesystem_server: Server, inject_faults: InjectFaults, hashes_in: HashesIn, until: Callable[..., bool]
) -> None:
    """Nothing is stored or lost. A second fsync would succeed, although the kernel may have dropped the pages
    that it could not write."""
    with filesystem_server.client() as http:
        old = http.put("/files/a/old.mp4", content=OLD).json()
        before = set(filesystem_server.files.rglob("*"))
        for where in ("", "a", ".seekable/seekable.db-wal"):
            paths = (filesystem_server.files / where,) if where else ()
            for name in CHANGES:
                with inject_faults(
                    filesystem_server.process.pid, "fsync,fdatasync:error=EIO", paths=paths
                ) as trace:
                    assert_unavailable(http, name)
                failed = re.findall(r"sync\(\d+<(.+)>\).*EIO", trace.read_text())
                assert failed, "no fault was injected"
                if not where and name not in ("delete", "move"):
                    assert len(failed) == 1, f"other than one fsync of the staged file: {failed}"
                    assert "/staging/" in failed[0]
                assert set(filesystem_server.files.rglob("*")) == before
                # After a change that was undone, the server must prove the bytes of the file by a hash.
                assert until(lambda: http.get("/files?folder=a").json()["items"] == [old]), (
                    "the file has another ID or version"
                )
                assert hashes_in(http, "a") == {"old.mp4": old["sha256"]}
                assert http.get("/files/a/new.mp4").status_code == 404
        assert CHANGES["create"](http).status_code == 201
        assert CHANGES["delete"](http).status_code == 204
        assert list(hashes_in(http, "a")) == ["new.mp4"]
    assert "Traceback" not in filesystem_server.log()


@pytest.mark.parametrize("name", ["create", "replace", "delete", "move"])
def test_kill_after_failed_fsync_of_database_keeps_old_file(
    filesystem_server: Server,
    inject_faults: InjectFaults,
    hashes_in: HashesIn,
    until: Callable[..., bool],
    name: str,
) -> None:
    """The write-ahead log holds a refused change, which is valid again at the next start."""
    with filesystem_server.client() as http:
        http.put("/files/a/old.mp4", content=OLD).raise_for_status()
        wal = filesystem_server.files / ".seekable" / "seekable.db-wal"
        with inject_faults(filesystem_server.process.pid, "fsync,fdatasync:error=EIO", paths=(wal,)):
            assert_unavailable(http, name)
    filesystem_server.kill()
    filesystem_server.start()
    with filesystem_server.client() as http:
        assert http.get("/files/a/new.mp4").status_code == 404
        # A file without a row counts as finished when it has been unchanged for 2 s.
        assert until(lambda: http.get("/files/a/old.mp4").content == OLD)
        assert list(hashes_in(http, "a")) == ["old.mp4"]
        assert CHANGES["create"](http).status_code == 201


READS = ("preadv,preadv2:error=EIO", "pread64:error=EIO:when=5+")


@pytest.mark.parametrize("header", ["X: y", "Range: bytes=100-", "Range: bytes=0-9000000,10000000-23000000"])
def test_failed_read_aborts_download(
    filesystem_server: Server,
    inject_faults: InjectFaults,
    start_request: StartRequest,
    hashes_in: HashesIn,
    header: str,
) -> None:
    with filesystem_server.client() as http:
        http.put("/files/film.mp4", content=FILM).raise_for_status()
    film = filesystem_server.files / "film.mp4"
    log_start = len(filesystem_server.log())
    with inject_faults(filesystem_server.process.pid, *READS, paths=(film,)) as trace:
        connection = start_request(
            filesystem_server, f"GET /files/film.mp4 HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n".encode()
        )
        response = b""
        while data := connection.recv(1 << 18):
            response += data
    assert "EIO" in trace.read_text()
    head, _, body = response.partition(b"\r\n\r\n")
    (declared,) = re.findall(rb"(?i)content-length: (\d+)", head)
    assert head.startswith(b"HTTP/1.1 20")
    assert 0 < len(body) < int(declared), "no bytes arrived, or all"
    if b"Range: bytes=0-" not in header.encode():
        assert body in FILM
    assert filesystem_server.log()[log_start:].count("was aborted") == 1
    assert "Traceback" not in filesystem_server.log()
    with filesystem_server.client() as http:
        assert list(hashes_in(http, "")) == ["film.mp4"], "the file is lost"


@pytest.mark.parametrize("when", ["1+", "2+2", "1+2"])
def test_failed_stat_gets_503_or_stored_metadata(
    filesystem_server: Server, inject_faults: InjectFaults, hashes_in: HashesIn, when: str
) -> None:
    """Lists use the database if stat fails on a file or subfolder, and fail if it fails on the folder."""
    folder = filesystem_server.files / "a"
    with filesystem_server.client() as http:
        http.put("/files/a/film.mp4", content=OLD).raise_for_status()
        for path in (folder, folder / "film.mp4"):
            (folder / f"new-{path.name}").touch()  # so that the server reads the folder
            fault = f"fstat,newfstatat:error=EIO:when={when}"
            with inject_faults(filesystem_server.process.pid, fault, paths=(path,)) as trace:
                for method in ("GET", "HEAD"):
                    assert http.request(method, "/files/a/film.mp4").status_code in (200, 503)
                assert "a/film.mp4" in paths_of(http.get("/files?recursive=true"))
                response = http.get("/files?folder=a")
                if response.status_code == 503:
                    assert path == folder
                    assert response.headers["retry-after"]
                else:
                    assert "a/film.mp4" in paths_of(response)
            assert "EIO" in trace.read_text()
        assert hashes_in(http, "a")["film.mp4"]
    assert "Traceback" not in filesystem_server.log()


def paths_of(response: httpx.Response) -> list[str]:
    return [item["path"] for item in response.json()["items"]]


@pytest.mark.parametrize(
    ("fault", "status"),
    [("fstat,newfstatat:error=EIO", 503), ("getdents64:error=EIO", 503), ("getdents64:error=EACCES", 200)],
)
def test_list_of_folder_gets_503_when_its_disk_fails(
    filesystem_server: Server, inject_faults: InjectFaults, fault: str, status: int
) -> None:
    with filesystem_server.client() as http:
        http.put("/files/a/film.mp4", content=OLD).raise_for_status()
        for path in ("folder=", "folder=a"):
            assert http.get(f"/files?{path}").status_code == 200
        (filesystem_server.files / "a" / "new.mp4").touch()
        with inject_faults(
            filesystem_server.process.pid, fault, paths=(filesystem_server.files / "a",)
        ) as trace:
            assert http.get("/files?folder=a").status_code == status
            assert paths_of(http.get("/files?recursive=true")) == ["a/film.mp4"], (
                "one failing folder must not hide the others"
            )
        assert fault[-3:] in trace.read_text()
        assert paths_of(http.get("/files?folder=a")) == ["a/film.mp4", "a/new.mp4"]


@pytest.mark.parametrize("error", ["EPERM", "EOPNOTSUPP", "ENOSYS"])
def test_upload_works_when_file_system_has_no_modes(
    filesystem_server: Server, inject_faults: InjectFaults, error: str
) -> None:
    with filesystem_server.client() as http:
        with inject_faults(filesystem_server.process.pid, f"fchmod:error={error}") as trace:
            assert http.put("/files/film.mp4", content=OLD).status_code == 201
        assert error in trace.read_text()
        assert http.get("/files/film.mp4").content == OLD


def test_file_that_cannot_be_opened_gets_503(
    filesystem_server: Server, inject_faults: InjectFaults, hashes_in: HashesIn
) -> None:
    with filesystem_server.client() as http:
        http.put("/files/a/film.mp4", content=OLD).raise_for_status()
        with inject_faults(
            filesystem_server.process.pid, "openat:error=EIO", paths=(filesystem_server.files / "a",)
        ):
            for method in ("GET", "HEAD", "PUT", "DELETE"):
                assert http.request(method, "/files/a/film.mp4").status_code == 503
            assert [item["path"] for item in http.get("/files?folder=a").json()["items"]] == ["a/film.mp4"]
        assert list(hashes_in(http, "a")) == ["film.mp4"]
