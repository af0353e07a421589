"""The health routes: liveness, and readiness to serve and to store."""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import Server, each_backend, mongo, mounted, postgres, run, running
from tests.system.live.clients import until

CheckProblem = Callable[[httpx.Response, int], str]


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
@each_backend
def test_health_is_ok_when_server_is_healthy(http: httpx.Client, path: str) -> None:
    response = http.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    detail = response.json()
    dependencies = detail.pop("dependencies", {})
    assert detail == {"status": "ok", "version": version("seekable")}
    assert ("database" in dependencies) == (path == "/health/ready")
    assert set(dependencies.values()) <= {"ok"}
    head = http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == response.headers["content-length"]


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server over the filesystem backend, for one test to damage."""
    with running(tmp_path, storage="filesystem") as server:
        yield server


def test_readiness_names_failed_dependency_and_recovers(
    own_server: Server, check_problem: CheckProblem
) -> None:
    with own_server.client() as http:
        http.put("/files/film.mp4", content=b"film").raise_for_status()
        id_file = own_server.files / ".seekable" / "id"
        text = id_file.read_text()
        for damage in (
            lambda: id_file.rename(id_file.with_name("gone")),
            lambda: id_file.write_text("0" * 32),
        ):
            damage()
            response = http.get("/health/ready")
            assert "folder of files" in check_problem(response, 503)
            assert int(response.headers["retry-after"]) > 0
            assert http.head("/health/ready").status_code == 503
            for path in ("/health", "/health/live"):
                assert http.get(path).status_code == 200
            id_file.with_name("gone").unlink(missing_ok=True)
            id_file.write_text(text)
            assert http.get("/health/ready").status_code == 200
        assert http.get("/files/film.mp4").content == b"film"


def test_empty_folder_in_place_of_library_loses_no_rows(
    own_server: Server, check_problem: CheckProblem
) -> None:
    """An unmounted disk leaves an empty folder: the server is not ready, and removes no row."""
    with own_server.client() as http:
        http.put("/files/film.mp4", content=b"film").raise_for_status()
        id_file = own_server.files / ".seekable" / "id"
        id_file.rename(own_server.folder / "id")
        (own_server.files / "film.mp4").rename(own_server.folder / "film.mp4")
        check_problem(http.get("/health/ready"), 503)
        check_problem(http.get("/files/film.mp4"), 503)
        page = http.get("/files/film.mp4", headers={"accept": "text/html"})
        assert page.status_code == 503
        assert f"Wait {page.headers['retry-after']} seconds" in page.text
        check_problem(http.delete("/files/film.mp4"), 503)
        (own_server.folder / "id").rename(id_file)
        (own_server.folder / "film.mp4").rename(own_server.files / "film.mp4")
        assert http.get("/health/ready").status_code == 200
        response = http.get("/files/film.mp4")
        assert (response.status_code, response.content) == (200, b"film")


def test_readiness_fails_when_database_is_corrupt(own_server: Server, check_problem: CheckProblem) -> None:
    database = own_server.files / ".seekable" / "seekable.db"
    with own_server.client() as http:
        http.put("/files/film.mp4", content=b"film").raise_for_status()
        # Checkpoint the WAL into the database file, then destroy its first pages.
        with sqlite3.connect(database) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        with database.open("r+b") as file:
            file.write(os.urandom(8192))
        for _ in range(5):  # each may use another pooled connection
            assert "database" in check_problem(http.get("/health/ready"), 503).lower()
            # A connection that has the page in its cache may still read it.
            files = http.get("/files")
            assert files.status_code == 503 or files.json()["items"][0]["filename"] == "film.mp4"
        assert http.get("/health/live").status_code == 200


def test_readiness_does_not_block_when_id_file_is_a_pipe(
    own_server: Server, check_problem: CheckProblem
) -> None:
    """Opening a pipe without a writer would block; and its content is no library id."""
    id_file = own_server.files / ".seekable" / "id"
    text = id_file.read_text()
    with own_server.client() as http:
        id_file.unlink()
        os.mkfifo(id_file)
        started = time.monotonic()
        check_problem(http.get("/health/ready"), 503)
        assert time.monotonic() - started < 5
        assert http.get("/health/live").status_code == 200
        id_file.unlink()
        id_file.write_text(text)
        assert http.get("/health/ready").status_code == 200


# While no write can succeed


Lock = Callable[[dict[str, Any]], AbstractContextManager[object]]


@contextmanager
def lock_sqlite(settings: dict[str, Any]) -> Iterator[None]:
    path = settings["files_dir"] / ".seekable" / "seekable.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def lock_postgresql(settings: dict[str, Any]) -> Iterator[None]:
    with postgres.shared().connected(settings["database_url"].rpartition("/")[2]) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [0x5EEC_AB1E])
        yield


@contextmanager
def lock_mongodb(settings: dict[str, Any]) -> Iterator[None]:
    admin = mongo.database(settings["mongodb_url"]).client.admin
    admin.command("fsync", lock=True)
    try:
        yield
    finally:
        admin.command("fsyncUnlock")


LOCKS: dict[str, Lock] = {
    "filesystem": lock_sqlite,
    "postgresql": lock_postgresql,
    "gridfs": lock_mongodb,
}


@each_backend
def test_server_is_not_ready_while_database_is_locked(
    server: Server, check_problem: CheckProblem, request: pytest.FixtureRequest
) -> None:
    lock = LOCKS[request.node.callspec.params["new_library"]]
    with server.client() as http:
        assert http.get("/health/ready").status_code == 200
        with lock(server.settings):
            responses: list[httpx.Response] = []

            def is_not_ready() -> bool:
                responses.append(http.get("/health/ready"))
                return responses[-1].status_code == 503

            # A write of the last two seconds counts as proof that writes succeed.
            until(is_not_ready, "the lock is noticed", within=6)
            assert "database" in check_problem(responses[-1], 503).lower()
            assert responses[-1].elapsed.total_seconds() < 3
            assert http.get("/health/live").status_code == 200
        until(lambda: http.get("/health/ready").status_code == 200, "it is ready again")


@pytest.mark.parametrize("damage", ["removed", "replaced by a copy"])
def test_server_is_not_ready_when_database_file_is_gone(
    damage: str, own_server: Server, check_problem: CheckProblem
) -> None:
    database = own_server.files / ".seekable" / "seekable.db"
    saved = database.with_name("kept.db")
    with own_server.client() as http:
        http.put("/files/film.mp4", content=b"film").raise_for_status()
        database.rename(saved)
        if damage != "removed":
            shutil.copyfile(saved, database)
        detail = check_problem(http.get("/health/ready"), 503)
        assert "removed or replaced" in detail
        assert "Start the server again" in detail
        check_problem(http.put("/files/new.mp4", content=b"new"), 503)
        assert not (own_server.files / "new.mp4").exists(), (
            "it would be recorded in a database file that is gone"
        )
        assert database.exists() == (damage != "removed"), "no empty database is created"
        # Readers keep the connections that they have. A scan may borrow one for a moment.
        until(lambda: http.get("/files/film.mp4").content == b"film", "stored files are served")
        saved.rename(database)
        assert http.get("/health/ready").status_code == 200
        http.put("/files/new.mp4", content=b"new").raise_for_status()


@pytest.mark.parametrize("place", ["", ".seekable/staging", ".seekable/seekable.db"])
def test_server_is_not_ready_when_it_loses_write_permission(
    place: str, tmp_path: Path, check_problem: CheckProblem
) -> None:
    server = Server(tmp_path)
    server.bound = True
    damaged = server.files / place
    try:
        with server.start().client() as http:
            assert http.get("/health/ready").status_code == 200
            mode = damaged.stat().st_mode
            damaged.chmod(0o500 if damaged.is_dir() else 0o400)
            detail = check_problem(http.get("/health/ready"), 503)
            assert "may no longer write to the" in detail
            damaged.chmod(mode)
            assert http.get("/health/ready").status_code == 200
    finally:
        server.stop()


def test_server_is_not_ready_when_disk_error_remounts_read_only(
    tmp_path: Path, check_problem: CheckProblem
) -> None:
    """Recent kernels do not mark the mount as read-only in that case."""
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    run("mkfs.ext4", "-q", image)
    with mounted(tmp_path / "films", "-o", "loop,errors=remount-ro", image) as films:
        device = run("findmnt", "-no", "SOURCE", films).stdout.strip().rpartition("/")[2]
        error = Path(f"/sys/fs/ext4/{device}/trigger_fs_error")
        with running(tmp_path, files_dir=films) as server, server.client() as http:
            assert http.get("/health/ready").status_code == 200
            check_problem(http.put("/files/film.mp4", content=b"film", headers={"If-Match": '"x"'}), 412)
            error.write_text("planted")
            check_problem(http.put("/files/film.mp4", content=b"film"), 503)
            detail = check_problem(http.get("/health/ready"), 503)
            assert "read-only" in detail.lower()
            assert http.get("/files").status_code == 200


def test_server_is_not_ready_when_staging_folder_is_removed(
    own_server: Server, check_problem: CheckProblem
) -> None:
    with own_server.client() as http:
        assert http.get("/health/ready").status_code == 200
        (own_server.files / ".seekable" / "staging").rmdir()
        assert ".seekable/staging was removed" in check_problem(http.get("/health/ready"), 503)


def test_server_stays_ready_between_many_writes(own_server: Server) -> None:
    with own_server.client() as http:
        for number in range(60):
            http.put(f"/files/{number}.txt", content=b"x").raise_for_status()
            assert http.get("/health/ready").status_code == 200


def test_server_is_not_ready_when_postgresql_becomes_read_only(
    tmp_path: Path, check_problem: CheckProblem
) -> None:
    url = postgres.shared().new_library()
    name = url.rpartition("/")[2]
    with running(tmp_path, database_url=url) as server, server.client() as http:
        assert http.get("/health/ready").status_code == 200
        with postgres.shared().connected() as admin:
            admin.autocommit = True
            admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'.encode())
            terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            admin.execute(terminate, [name])
        until(lambda: http.get("/health/ready").status_code == 503, "it is noticed")
        assert "read-only" in check_problem(http.get("/health/ready"), 503)
