"""A full disk that also holds the database. Over the filesystem backend."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from app.database import open_accounts
from app.settings import Settings
from app.storage.errors import OutOfSpace
from tests.contracts.test_accounts import make_account, make_session, make_token
from tests.support import Server, mounted
from tests.support.sqlite import begin_library
from tests.system.faults.victims import NO_RENAME, InjectFaults

MB = 1_000_000
FORM = {"content-type": "multipart/form-data; boundary=xxx"}
PART = b'--xxx\r\nContent-Disposition: form-data; name="file"; filename="film.mp4"\r\n\r\n'


class SmallDisk:
    """A server whose files and database are on a disk of 16 MiB."""

    def __init__(self, folder: Path) -> None:
        self.server = Server(folder, storage="filesystem", stable_after=0)
        self._filler = self.server.files / ".seekable" / "filler"

    def fill(self) -> None:
        """Fill the disk to the last block."""
        with self._filler.open("ab", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(b"x" * 4096)
        assert os.statvfs(self.server.files).f_bfree == 0

    def free_space(self) -> None:
        self._filler.unlink()

    def free_bytes(self) -> int:
        status = os.statvfs(self.server.files)
        return status.f_bavail * status.f_frsize

    def remaining_paths(self) -> set[str]:
        """Return the paths of all files and folders, stored or left behind."""
        return {
            str(path.relative_to(self.server.files))
            for path in self.server.files.rglob("*")
            if path.parent.name not in (".seekable", "leases")
        } - {".seekable"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "server")
    with mounted(disk.server.files, "-t", "tmpfs", "-o", "size=16m", "tmpfs"):
        begin_library(disk.server.files)
        disk.server.start()
        yield disk
        disk.server.stop()
    assert "Traceback" not in disk.server.log()


END = b"\r\n--xxx--"


def chunked(size: int, head: bytes = b"", end: bytes = b"") -> Iterator[bytes]:
    """Yield a body in chunks, so that the server cannot refuse its length in advance."""
    yield from filter(None, (head, *[b"x" * MB] * (size // MB), end))


UPLOADS: dict[str, Callable[[httpx.Client, int], httpx.Response]] = {
    "create": lambda http, size: http.put("/files/new/film.mp4", content=b"x" * size),
    "create, chunked": lambda http, size: http.put("/files/new/film.mp4", content=chunked(size)),
    "replace": lambda http, size: http.put("/files/old.mp4", content=b"x" * size),
    "replace, chunked": lambda http, size: http.put("/files/old.mp4", content=chunked(size)),
    "form": lambda http, size: http.post(
        "/file/upload?folder=new", headers=FORM, content=PART + b"x" * size + END
    ),
    "form, chunked": lambda http, size: http.post(
        "/file/upload?folder=new", headers=FORM, content=chunked(size, PART, END)
    ),
}


def check_refused(disk: SmallDisk, http: httpx.Client, response: httpx.Response, old: bytes) -> None:
    assert response.status_code == 507
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == 507
    assert disk.remaining_paths() == {"old.mp4"}
    page = http.get("/files").json()
    assert ([item["path"] for item in page["items"]], page["folders"]) == (["old.mp4"], [])
    assert http.get("/files/old.mp4").content == old
    assert http.get("/files/new/film.mp4").status_code == 404


def test_upload_that_does_not_fit_gets_507_and_leaves_nothing(disk: SmallDisk) -> None:
    old = os.urandom(3 * MB)
    with disk.server.client() as http:
        http.put("/files/old.mp4", content=old).raise_for_status()
        free_bytes = disk.free_bytes()
        for way, upload in UPLOADS.items():
            check_refused(disk, http, upload(http, 15 * MB), old)
            assert disk.free_bytes() == free_bytes, way
        # An upload that fits is still accepted.
        assert http.put("/files/old.mp4", content=b"x" * 10 * MB).status_code == 204
        assert http.put("/files/small.mp4", content=b"small").status_code == 201


def test_full_disk_serves_reads_and_refuses_uploads(disk: SmallDisk) -> None:
    old = os.urandom(3 * MB)
    with disk.server.client() as http:
        http.put("/files/old.mp4", content=old).raise_for_status()
        disk.fill()
        for upload in UPLOADS.values():
            for size in (1, MB):  # not 0: the write-ahead log of the database may have space for the row
                check_refused(disk, http, upload(http, size), old)
        part = http.get("/files/old.mp4", headers={"range": "bytes=1000000-1999999"})
        assert (part.status_code, part.content) == (206, old[MB : 2 * MB])
        assert http.get("/health/ready").status_code == 200
        disk.free_space()
        for upload in list(UPLOADS.values())[::2]:
            assert upload(http, MB).status_code in (201, 204, 409)
        assert http.get("/files/old.mp4").content == b"x" * MB


def test_full_disk_serves_file_added_by_hand(disk: SmallDisk) -> None:
    (disk.server.files / "film.mp4").write_bytes(b"film")
    disk.fill()
    with disk.server.client() as http:
        assert http.get("/files/film.mp4").content == b"film"
        assert [item["path"] for item in http.get("/files").json()["items"]] == ["film.mp4"]


def test_delete_works_on_full_disk(disk: SmallDisk) -> None:
    """Even if it frees little: each of the small files frees less than the database needs."""
    small = [f"/files/small/{number}.srt" for number in range(60)]
    with disk.server.client() as http:
        http.put("/files/old.mp4", content=b"x" * 3 * MB).raise_for_status()
        for path in small:
            http.put(path, content=b"").raise_for_status()
        # A restart truncates the write-ahead log, which then has to grow with the first change.
        disk.server.stop()
        disk.server.start()
    with disk.server.client() as http:
        for path in small:
            disk.fill()
            assert http.delete(path).status_code == 204
            assert http.get(path).status_code == 404
        assert disk.remaining_paths() == {"old.mp4"}
        assert http.put("/files/new.mp4", content=b"x" * MB).status_code == 507
        assert http.delete("/files/old.mp4").status_code == 204
        assert http.put("/files/new.mp4", content=b"x" * MB).status_code == 201
        # And again: the reserve has been allocated again.
        disk.fill()
        assert http.put("/files/more.mp4", content=b"").status_code == 507
        assert http.delete("/files/new.mp4").status_code == 204
        assert http.get("/files").json()["items"] == []


@pytest.mark.parametrize("faults", [(), (NO_RENAME,)], ids=["by rename", "by link"])
def test_move_works_on_full_disk(
    disk: SmallDisk, inject_faults: InjectFaults, faults: tuple[str, ...]
) -> None:
    kind = {"content-type": "application/merge-patch+json"}
    with disk.server.client() as http:
        http.put("/files/old.mp4", content=b"film").raise_for_status()
        for number in range(30):
            http.put(f"/files/small/{number}.srt", content=b"").raise_for_status()
        # A restart truncates the write-ahead log, which then has to grow with the first change.
        disk.server.stop()
        disk.server.start()
    with (
        disk.server.client() as http,
        ExitStack() as stack,
    ):
        if faults:
            stack.enter_context(inject_faults(disk.server.process.pid, *faults))
        for number in range(30):
            disk.fill()
            body = {"folder": f"moved/{number}", "filename": "film.srt"}
            assert http.patch(f"/files/small/{number}.srt", json=body, headers=kind).status_code == 200
            assert http.get(f"/files/moved/{number}/film.srt").status_code == 200
            assert http.get(f"/files/small/{number}.srt").status_code == 404
        assert http.put("/files/new.mp4", content=b"x" * MB).status_code == 507


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_server_starts_on_full_disk(disk: SmallDisk, how: str) -> None:
    data = os.urandom(3 * MB)
    with disk.server.client() as http:
        for name in ("a", "b"):
            http.put(f"/files/{name}.mp4", content=data).raise_for_status()
    disk.server.stop() if how == "stopped" else disk.server.kill()
    disk.fill()
    disk.server.start()
    disk.fill()
    with disk.server.client() as http:
        items = http.get("/files").json()["items"]
        assert [item["sha256"] for item in items] == [hashlib.sha256(data).hexdigest()] * 2
        assert http.get("/files/a.mp4").content == data
        assert http.put("/files/c.mp4", content=b"").status_code == 507
        assert http.delete("/files/a.mp4").status_code == 204
        assert http.put("/files/c.mp4", content=data[:MB]).status_code == 201


def test_reserve_is_allocated_again(disk: SmallDisk) -> None:
    """The next upload allocates it at the latest, for example after a start without free space."""
    reserve = disk.server.files / ".seekable" / "reserve"
    with disk.server.client() as http:
        reserve.unlink()
        http.put("/files/film.mp4", content=b"film").raise_for_status()
        assert reserve.stat().st_blocks * 512 >= 200_000
        disk.fill()
        assert http.delete("/files/film.mp4").status_code == 204
        # Without the reserve, the start fails with an error message.
        disk.server.stop()
        reserve.unlink()
        disk.fill()
        with pytest.raises(AssertionError, match=r"Error: .*: The disk of the database is full"):
            disk.server.start()
        disk.free_space()
        disk.server.start()


def test_full_disk_allows_login_logout_and_account_deletion(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, files_dir=tmp_path / "files")
    filler = settings.files_dir / "filler"
    with (
        mounted(settings.files_dir, "-t", "tmpfs", "-o", "size=16m", "tmpfs"),
        open_accounts(settings, create=True) as store,
    ):
        anna = store.add(make_account())
        session = make_session(anna)
        with filler.open("ab", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(OutOfSpace):
            for _ in range(1000):
                store.tokens.add(make_token(anna))
        # Each of them makes the write-ahead log of the database grow.
        for minutes in range(1, 20):
            session = make_session(anna)
            assert store.sessions.add(session, version=1)
            store.sessions.touch(session.hash, session.seen_at + timedelta(minutes=minutes))
        store.sessions.remove(session.hash)
        store.mark_leaving(anna.id)
        store.remove(anna.id)
        assert store.count() == 0
