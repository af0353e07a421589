"""Databases that cannot be served, of which one sentence says what is wrong, within seconds."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import mongo
from tests.support.mongo import Mongod
from tests.system.faults.grid import Grid


def refusal(folder: Path, url: str) -> str:
    """The sentence with which a start over it ends."""
    grid = Grid(folder, url)
    began = time.monotonic()
    ended = grid.seekable("serve", "--port", "0", timeout=40)
    assert time.monotonic() - began < 20  # MongoDB's driver would wait for 30, and ten start here at once
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("Error: ")
    print(url, line)
    return line


NOWHERE = [
    "mongodb://127.0.0.1:{closed}/library",
    "mongodb://127.0.0.1:{open}/library?replicaSet=another",
    "mongodb://nobody:wrong@127.0.0.1:{open}/library",
    "nonsense",
    "mongodb://",
    "mongodb://127.0.0.1:port/library",
    "mongodb://127.0.0.1:{open}/in valid",
    "mongodb://127.0.0.1:{open}/library?w=none of these&nonsense=1",
    "http://127.0.0.1/library",
]


def test_a_url_that_leads_nowhere_or_to_a_mongod_that_answers_nothing(tmp_path: Path) -> None:
    """All of them at once: some are tried for seconds."""
    closed, there = mongo.free_port(), mongo.shared().port
    with mongo.mongod() as silent:
        silent.pause()
        urls = [*(url.format(closed=closed, open=there) for url in NOWHERE), silent.url("library")]
        with ThreadPoolExecutor(len(urls)) as pool:
            folders = [tmp_path / str(number) for number in range(len(urls))]
            for folder in folders:
                folder.mkdir()
            assert len(list(pool.map(refusal, folders, urls))) == len(urls)


@pytest.mark.campaign
def test_a_node_that_is_no_primary(tmp_path: Path) -> None:
    with mongo.temporary_folder() as folder:
        node = Mongod(folder)
        try:
            node.start()  # of a replica set that nobody has made
            refusal(tmp_path, f"mongodb://{node.host}/library?directConnection=true")
            refusal(tmp_path, node.url("library"))
        finally:
            node.kill()


def test_a_url_without_a_database(tmp_path: Path) -> None:
    """It has a usual name then."""
    node = mongo.shared()
    grid = Grid(tmp_path, f"mongodb://{node.host}/?replicaSet=tests")
    with grid.server() as server, server.client() as http:
        assert http.put("/files/film.mp4", content=b"film").status_code == 201
    database = mongo.database(node.url("seekable"))
    assert database["media"].count_documents({}) == 1
    database.client.drop_database(database)
