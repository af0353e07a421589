"""Databases that cannot be served: the start fails within seconds, with an error message of one line."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import mongo
from tests.support.mongo import Mongod
from tests.system.faults.grid import Grid


def start_error(folder: Path, url: str) -> str:
    """Start a server over the database, and assert that it exits with one error line. Return the line."""
    grid = Grid(folder, url)
    began = time.monotonic()
    ended = grid.seekable("serve", "--port", "0", timeout=40)
    # MongoDB's driver waits for 30 s by default; ten servers start here at once.
    assert time.monotonic() - began < 20
    assert ended.returncode == (1 if ended.stderr.startswith("Error: MongoDB at ") else 2)
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("Error: ")
    print(url, line)
    return line


UNUSABLE = [
    "mongodb://127.0.0.1:{closed}/library",
    "mongodb://127.0.0.1:{open}/library?replicaSet=another",
    "mongodb://unknown:wrong@127.0.0.1:{open}/library",
    "nonsense",
    "mongodb://",
    "mongodb://127.0.0.1:port/library",
    "mongodb://127.0.0.1:{open}/in valid",
    "mongodb://127.0.0.1:{open}/library?w=none of these&nonsense=1",
    "http://127.0.0.1/library",
]


def test_start_fails_in_seconds_when_database_is_unusable_or_silent(tmp_path: Path) -> None:
    """All at once, because some starts retry for seconds."""
    closed, open_port = mongo.free_port(), mongo.shared().port
    with mongo.mongod() as silent:
        silent.pause()
        urls = [*(url.format(closed=closed, open=open_port) for url in UNUSABLE), silent.url("library")]
        with ThreadPoolExecutor(len(urls)) as pool:
            folders = [tmp_path / str(number) for number in range(len(urls))]
            for folder in folders:
                folder.mkdir()
            assert len(list(pool.map(start_error, folders, urls))) == len(urls)


@pytest.mark.campaign
def test_start_fails_on_a_node_that_is_no_primary(tmp_path: Path) -> None:
    with mongo.temporary_folder() as folder:
        node = Mongod(folder)
        try:
            node.start()  # a member of a replica set that was never initiated
            start_error(tmp_path, f"mongodb://{node.host}/library?directConnection=true")
            start_error(tmp_path, node.url("library"))
        finally:
            node.kill()


def test_url_without_database_uses_the_default_name(tmp_path: Path) -> None:
    node = mongo.shared()
    grid = Grid(tmp_path, f"mongodb://{node.host}/?replicaSet=tests")
    with grid.server() as server, server.client() as http:
        assert http.put("/files/film.mp4", content=b"film").status_code == 201
    database = mongo.database(node.url("seekable"))
    assert database["media"].count_documents({}) == 1
    database.client.drop_database(database)
