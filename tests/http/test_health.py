"""Whether the server says how it is."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest

from tests.support import Server, running

Problem = Callable[[httpx.Response, int], str]


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
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


def test_ready_names_what_is_not_there_and_recovers(alone: Server, problem: Problem) -> None:
    with alone.client() as http:
        http.put("/files/film.mp4", content=b"film").raise_for_status()
        mark = alone.files / ".seekable" / "id"
        text = mark.read_text()
        for harm in (lambda: mark.rename(mark.with_name("gone")), lambda: mark.write_text("0" * 32)):
            harm()
            response = http.get("/health/ready")
            assert "folder of files" in problem(response, 503)
            assert int(response.headers["retry-after"]) > 0
            assert http.head("/health/ready").status_code == 503
            for path in ("/health", "/health/live"):
                assert http.get(path).status_code == 200
            mark.with_name("gone").unlink(missing_ok=True)
            mark.write_text(text)
            assert http.get("/health/ready").status_code == 200
        assert http.get("/files/film.mp4").content == b"film"


def test_an_empty_folder_in_place_of_the_library_loses_nothing(alone: Server, problem: Problem) -> None:
    """As when a disk was not mounted: not ready, and no row is removed."""
    with alone.client() as http:
        http.put("/files/film.mp4", content=b"film").raise_for_status()
        mark = alone.files / ".seekable" / "id"
        mark.rename(alone.folder / "id")
        (alone.files / "film.mp4").rename(alone.folder / "film.mp4")
        problem(http.get("/health/ready"), 503)
        problem(http.get("/files/film.mp4"), 503)
        problem(http.delete("/files/film.mp4"), 503)
        (alone.folder / "id").rename(mark)
        (alone.folder / "film.mp4").rename(alone.files / "film.mp4")
        assert http.get("/health/ready").status_code == 200
        response = http.get("/files/film.mp4")
        assert (response.status_code, response.content) == (200, b"film")


def test_ready_looks_at_the_database(alone: Server, problem: Problem) -> None:
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
            assert "database" in problem(http.get("/health/ready"), 503).lower()
            # A connection that has the page in memory may still answer, and rightly.
            files = http.get("/files")
            assert files.status_code == 503 or files.json()["items"][0]["filename"] == "film.mp4"
        assert http.get("/health/live").status_code == 200


def test_ready_does_not_wait_for_a_storage_that_does_not_answer(alone: Server, problem: Problem) -> None:
    """The id is a pipe that nobody writes to: opening it must not wait, and what is there is no id."""
    mark = alone.files / ".seekable" / "id"
    text = mark.read_text()
    with alone.client() as http:
        mark.unlink()
        os.mkfifo(mark)
        started = time.monotonic()
        problem(http.get("/health/ready"), 503)
        assert time.monotonic() - started < 5
        assert http.get("/health/live").status_code == 200
        mark.unlink()
        mark.write_text(text)
        assert http.get("/health/ready").status_code == 200
