"""A disk that fails: EIO, put in at the system calls of a running server. Over the filesystem backend."""

import random
import re
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from tests.support import Server, noise

Begin = Callable[..., socket.socket]
Injected = Callable[..., AbstractContextManager[Path]]
Listed = Callable[[httpx.Client, str], dict[str, str]]

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


def fails(http: httpx.Client, name: str) -> None:
    response = CHANGES[name](http)
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"]


def test_an_fsync_that_fails(
    doomed: Server, injected: Injected, listed: Listed, until: Callable[..., bool]
) -> None:
    """Nothing is stored, and nothing is lost. The call is not made again: the kernel may have dropped what it
    could not write, and would then say that all is well."""
    with doomed.client() as http:
        old = http.put("/files/a/old.mp4", content=OLD).json()
        before = set(doomed.files.rglob("*"))
        for where in ("", "a", ".seekable/seekable.db-wal"):
            paths = (doomed.files / where,) if where else ()
            for name in CHANGES:
                with injected(doomed.process.pid, "fsync,fdatasync:error=EIO", paths=paths) as trace:
                    fails(http, name)
                failed = re.findall(r"sync\(\d+<(.+)>\).*EIO", trace.read_text())
                assert failed, "the fault was met"
                if not where and name not in ("delete", "move"):
                    assert len(failed) == 1, f"of the staged file, once: {failed}"
                    assert "/staging/" in failed[0]
                assert set(doomed.files.rglob("*")) == before
                # What was done to the file and undone leaves its bytes to be proved.
                assert until(lambda: http.get("/files?folder=a").json()["items"] == [old]), "id and version"
                assert listed(http, "a") == {"old.mp4": old["sha256"]}
                assert http.get("/files/a/new.mp4").status_code == 404
        assert CHANGES["create"](http).status_code == 201
        assert CHANGES["delete"](http).status_code == 204
        assert list(listed(http, "a")) == ["new.mp4"]
    assert "Traceback" not in doomed.log()


@pytest.mark.parametrize("name", ["create", "replace", "delete", "move"])
def test_killed_after_an_fsync_of_the_database_failed(
    doomed: Server, injected: Injected, listed: Listed, until: Callable[..., bool], name: str
) -> None:
    """The log of the database holds a change that was refused, and that counts again at the next start."""
    with doomed.client() as http:
        http.put("/files/a/old.mp4", content=OLD).raise_for_status()
        wal = doomed.files / ".seekable" / "seekable.db-wal"
        with injected(doomed.process.pid, "fsync,fdatasync:error=EIO", paths=(wal,)):
            fails(http, name)
    doomed.kill()
    doomed.start()
    with doomed.client() as http:
        assert http.get("/files/a/new.mp4").status_code == 404
        # A file whose row is gone is taken for finished when it has been still for 2 s.
        assert until(lambda: http.get("/files/a/old.mp4").content == OLD)
        assert list(listed(http, "a")) == ["old.mp4"]
        assert CHANGES["create"](http).status_code == 201


READS = ("preadv,preadv2:error=EIO", "pread64:error=EIO:when=5+")


@pytest.mark.parametrize("header", ["X: y", "Range: bytes=100-", "Range: bytes=0-9000000,10000000-23000000"])
def test_a_read_that_fails_in_the_middle(
    doomed: Server, injected: Injected, begin: Begin, listed: Listed, header: str
) -> None:
    with doomed.client() as http:
        http.put("/files/film.mp4", content=FILM).raise_for_status()
    film = doomed.files / "film.mp4"
    said = len(doomed.log())
    with injected(doomed.process.pid, *READS, paths=(film,)) as trace:
        connection = begin(
            doomed, f"GET /files/film.mp4 HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n".encode()
        )
        answer = b""
        while data := connection.recv(1 << 18):
            answer += data
    assert "EIO" in trace.read_text()
    head, _, body = answer.partition(b"\r\n\r\n")
    (announced,) = re.findall(rb"(?i)content-length: (\d+)", head)
    assert head.startswith(b"HTTP/1.1 20")
    assert 0 < len(body) < int(announced), "some came, and the connection breaks before the end"
    if b"Range: bytes=0-" not in header.encode():
        assert body in FILM
    assert doomed.log()[said:].count("was broken off") == 1
    assert "Traceback" not in doomed.log()
    with doomed.client() as http:
        assert list(listed(http, "")) == ["film.mp4"], "it is as good as before"


@pytest.mark.parametrize("when", ["1+", "2+2", "1+2"])
def test_status_that_fails_is_an_answer(
    doomed: Server, injected: Injected, listed: Listed, when: str
) -> None:
    """A list is of what the database knows where a file fails, or a folder inside; that of the folder itself
    fails."""
    folder = doomed.files / "a"
    with doomed.client() as http:
        http.put("/files/a/film.mp4", content=OLD).raise_for_status()
        for path in (folder, folder / "film.mp4"):
            (folder / f"new-{path.name}").touch()  # so that the folder is looked into
            fault = f"fstat,newfstatat:error=EIO:when={when}"
            with injected(doomed.process.pid, fault, paths=(path,)) as trace:
                for method in ("GET", "HEAD"):
                    assert http.request(method, "/files/a/film.mp4").status_code in (200, 503)
                assert "a/film.mp4" in paths_of(http.get("/files?recursive=true"))
                answer = http.get("/files?folder=a")
                if answer.status_code == 503:
                    assert path == folder
                    assert answer.headers["retry-after"]
                else:
                    assert "a/film.mp4" in paths_of(answer)
            assert "EIO" in trace.read_text()
        assert listed(http, "a")["film.mp4"]
    assert "Traceback" not in doomed.log()


def paths_of(answer: httpx.Response) -> list[str]:
    return [item["path"] for item in answer.json()["items"]]


@pytest.mark.parametrize(
    ("fault", "status"),
    [("fstat,newfstatat:error=EIO", 503), ("getdents64:error=EIO", 503), ("getdents64:error=EACCES", 200)],
)
def test_list_of_a_folder_fails_when_the_disk_does(
    doomed: Server, injected: Injected, fault: str, status: int
) -> None:
    with doomed.client() as http:
        http.put("/files/a/film.mp4", content=OLD).raise_for_status()
        for path in ("folder=", "folder=a"):
            assert http.get(f"/files?{path}").status_code == 200
        (doomed.files / "a" / "new.mp4").touch()
        with injected(doomed.process.pid, fault, paths=(doomed.files / "a",)) as trace:
            assert http.get("/files?folder=a").status_code == status
            assert paths_of(http.get("/files?recursive=true")) == ["a/film.mp4"], "one folder of many"
        assert fault[-3:] in trace.read_text()
        assert paths_of(http.get("/files?folder=a")) == ["a/film.mp4", "a/new.mp4"]


@pytest.mark.parametrize("error", ["EPERM", "EOPNOTSUPP", "ENOSYS"])
def test_upload_needs_no_rights_that_the_file_system_lacks(
    doomed: Server, injected: Injected, error: str
) -> None:
    with doomed.client() as http:
        with injected(doomed.process.pid, f"fchmod:error={error}") as trace:
            assert http.put("/files/film.mp4", content=OLD).status_code == 201
        assert error in trace.read_text()
        assert http.get("/files/film.mp4").content == OLD


def test_a_file_that_cannot_be_opened(doomed: Server, injected: Injected, listed: Listed) -> None:
    with doomed.client() as http:
        http.put("/files/a/film.mp4", content=OLD).raise_for_status()
        with injected(doomed.process.pid, "openat:error=EIO", paths=(doomed.files / "a",)):
            for method in ("GET", "HEAD", "PUT", "DELETE"):
                assert http.request(method, "/files/a/film.mp4").status_code == 503
            assert [item["path"] for item in http.get("/files?folder=a").json()["items"]] == ["a/film.mp4"]
        assert list(listed(http, "a")) == ["film.mp4"]
