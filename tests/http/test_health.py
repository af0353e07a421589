"""Whether the server says how it is."""

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
def test_all_is_well(http: httpx.Client, path: str) -> None:
    response = http.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    said = response.json()
    dependencies = said.pop("dependencies", {})
    assert said == {"status": "ok", "version": version("seekable")}
    assert ("database" in dependencies) == (path == "/health/ready")
    assert set(dependencies.values()) <= {"ok"}
    head = http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == response.headers["content-length"]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Server]:
    """A server over the filesystem backend that may be harmed."""
    with running(tmp_path, storage="filesystem") as server:
        yield server


def test_ready_names_what_is_not_there_and_recovers(alone: Server, check_problem: CheckProblem) -> None:
    with alone.client() as http:
        http.put("/files/film.mp4", content=b"film").raise_for_status()
        mark = alone.files / ".seekable" / "id"
        text = mark.read_text()
        for harm in (lambda: mark.rename(mark.with_name("gone")), lambda: mark.write_text("0" * 32)):
            harm()
            response = http.get("/health/ready")
            assert "folder of files" in check_problem(response, 503)
            assert int(response.headers["retry-after"]) > 0
            assert http.head("/health/ready").status_code == 503
            for path in ("/health", "/health/live"):
                assert http.get(path).status_code == 200
            mark.with_name("gone").unlink(missing_ok=True)
            mark.write_text(text)
            assert http.get("/health/ready").status_code == 200
        assert http.get("/files/film.mp4").content == b"film"


def test_an_empty_folder_in_place_of_the_library_loses_nothing(
    alone: Server, check_problem: CheckProblem
) -> None:
    """As when a disk was not mounted: not ready, and no row is removed."""
    with alone.client() as http:
        http.put("/files/film.mp4", content=b"film").raise_for_status()
        mark = alone.files / ".seekable" / "id"
        mark.rename(alone.folder / "id")
        (alone.files / "film.mp4").rename(alone.folder / "film.mp4")
        check_problem(http.get("/health/ready"), 503)
        check_problem(http.get("/files/film.mp4"), 503)
        check_problem(http.delete("/files/film.mp4"), 503)
        (alone.folder / "id").rename(mark)
        (alone.folder / "film.mp4").rename(alone.files / "film.mp4")
        assert http.get("/health/ready").status_code == 200
        response = http.get("/files/film.mp4")
        assert (response.status_code, response.content) == (200, b"film")


def test_ready_looks_at_the_database(alone: Server, check_problem: CheckProblem) -> None:
    database = alone.files / ".seekable" / "seekable.db"
    with alone.client() as http:
        http.put("/files/film.mp4", content=b"film").raise_for_status()
        # The log goes into the file, and then the file is destroyed where its head is.
        with sqlite3.connect(database) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        with database.open("r+b") as file:
            file.write(os.urandom(8192))
        for _ in range(5):  # whichever connection to it each of them gets, old or new
            assert "database" in check_problem(http.get("/health/ready"), 503).lower()
            # A connection that has the page in memory may still answer, and rightly.
            files = http.get("/files")
            assert files.status_code == 503 or files.json()["items"][0]["filename"] == "film.mp4"
        assert http.get("/health/live").status_code == 200


def test_ready_does_not_wait_for_a_storage_that_does_not_answer(
    alone: Server, check_problem: CheckProblem
) -> None:
    """The id is a pipe that nobody writes to: opening it must not wait, and what is there is no id."""
    mark = alone.files / ".seekable" / "id"
    text = mark.read_text()
    with alone.client() as http:
        mark.unlink()
        os.mkfifo(mark)
        started = time.monotonic()
        check_problem(http.get("/health/ready"), 503)
        assert time.monotonic() - started < 5
        assert http.get("/health/live").status_code == 200
        mark.unlink()
        mark.write_text(text)
        assert http.get("/health/ready").status_code == 200


# While no change can succeed


Locked = Callable[[dict[str, Any]], AbstractContextManager[object]]


@contextmanager
def sqlite_locked(settings: dict[str, Any]) -> Iterator[None]:
    path = settings["files_dir"] / ".seekable" / "seekable.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def postgresql_locked(settings: dict[str, Any]) -> Iterator[None]:
    with postgres.shared().connected(settings["database_url"].rpartition("/")[2]) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [0x5EEC_AB1E])
        yield


@contextmanager
def mongodb_locked(settings: dict[str, Any]) -> Iterator[None]:
    admin = mongo.database(settings["mongodb_url"]).client.admin
    admin.command("fsync", lock=True)
    try:
        yield
    finally:
        admin.command("fsyncUnlock")


LOCKED: dict[str, Locked] = {
    "filesystem": sqlite_locked,
    "postgresql": postgresql_locked,
    "gridfs": mongodb_locked,
}


@each_backend
def test_server_is_not_ready_while_the_database_is_locked(
    server: Server, check_problem: CheckProblem, request: pytest.FixtureRequest
) -> None:
    locked = LOCKED[request.node.callspec.params["new_library"]]
    with server.client() as http:
        assert http.get("/health/ready").status_code == 200
        with locked(server.settings):
            responses: list[httpx.Response] = []

            def is_refused() -> bool:
                responses.append(http.get("/health/ready"))
                return responses[-1].status_code == 503

            # For two seconds a change that succeeded before proves that others can.
            until(is_refused, "the lock is noticed", within=6)
            assert "database" in check_problem(responses[-1], 503).lower()
            assert responses[-1].elapsed.total_seconds() < 3
            assert http.get("/health/live").status_code == 200
        until(lambda: http.get("/health/ready").status_code == 200, "it is ready again")


@pytest.mark.parametrize("harm", ["removed", "replaced by a copy"])
def test_server_is_not_ready_when_the_database_file_is_gone(
    harm: str, alone: Server, check_problem: CheckProblem
) -> None:
    database = alone.files / ".seekable" / "seekable.db"
    kept = database.with_name("kept.db")
    with alone.client() as http:
        http.put("/files/film.mp4", content=b"film").raise_for_status()
        database.rename(kept)
        if harm != "removed":
            shutil.copyfile(kept, database)
        said = check_problem(http.get("/health/ready"), 503)
        assert "removed or replaced" in said
        assert "start the server again" in said
        check_problem(http.put("/files/new.mp4", content=b"new"), 503)
        assert not (alone.files / "new.mp4").exists(), "it would be in a database that is lost"
        assert database.exists() == (harm != "removed"), "no empty one is made"
        assert http.get("/files/film.mp4").content == b"film"
        kept.rename(database)
        assert http.get("/health/ready").status_code == 200
        http.put("/files/new.mp4", content=b"new").raise_for_status()


@pytest.mark.parametrize("place", ["", ".seekable/staging", ".seekable/seekable.db"])
def test_server_is_not_ready_when_it_lost_the_right_to_write(
    place: str, tmp_path: Path, check_problem: CheckProblem
) -> None:
    server = Server(tmp_path)
    server.bound = True
    harmed = server.files / place
    try:
        with server.start().client() as http:
            assert http.get("/health/ready").status_code == 200
            mode = harmed.stat().st_mode
            harmed.chmod(0o500 if harmed.is_dir() else 0o400)
            said = check_problem(http.get("/health/ready"), 503)
            assert "cannot be written by this user any more" in said
            harmed.chmod(mode)
            assert http.get("/health/ready").status_code == 200
    finally:
        server.stop()


def test_server_is_not_ready_when_an_error_made_its_disk_read_only(
    tmp_path: Path, check_problem: CheckProblem
) -> None:
    """Recent kernels do not even mark the mount then."""
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
            said = check_problem(http.get("/health/ready"), 503)
            assert "read-only" in said.lower()
            assert http.get("/files").status_code == 200


def test_staging_folder_that_is_removed_is_noticed(alone: Server, check_problem: CheckProblem) -> None:
    with alone.client() as http:
        assert http.get("/health/ready").status_code == 200
        (alone.files / ".seekable" / "staging").rmdir()
        assert ".seekable/staging was removed" in check_problem(http.get("/health/ready"), 503)


def test_server_stays_ready_beside_many_changes(alone: Server) -> None:
    with alone.client() as http:
        for number in range(60):
            http.put(f"/files/{number}.txt", content=b"x").raise_for_status()
            assert http.get("/health/ready").status_code == 200


def test_postgresql_that_became_read_only_is_not_ready(tmp_path: Path, check_problem: CheckProblem) -> None:
    url = postgres.shared().new_library()
    name = url.rpartition("/")[2]
    with running(tmp_path, database_url=url) as server, server.client() as http:
        assert http.get("/health/ready").status_code == 200
        with postgres.shared().connected() as admin:
            admin.autocommit = True
            admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'.encode())
            ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            admin.execute(ends, [name])
        until(lambda: http.get("/health/ready").status_code == 503, "it is noticed")
        assert "read-only" in check_problem(http.get("/health/ready"), 503)
