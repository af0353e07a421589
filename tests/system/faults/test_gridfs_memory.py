"""What a server over GridFS holds in memory does not depend on how long a file is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Server, mongo, running
from tests.system.soak.memory import get, peak, post_form, put, slow_readers

SIZE = 144
LIMIT = 48  # of which a heap that has grown takes a part
READERS = 200
ALL_READERS = 100  # the budget, a little for each, and what threads are fetching


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    library = mongo.gridfs()
    with running(tmp_path, **library) as server:
        yield server
    database = mongo.database(str(library["mongodb_url"]))
    database.client.drop_database(database)


def test_a_long_file_up_and_down(server: Server) -> None:
    with server.client() as http:
        http.put("/files/small.bin", content=b"x" * 5_000_000).raise_for_status()
        http.get("/files/small.bin").raise_for_status()
    peak(server)
    idle = server.rss() / (1 << 20)
    for move in (put, post_form, get):
        move(server, SIZE)
        assert peak(server) < idle + LIMIT, move.__name__


def test_many_readers_that_take_next_to_nothing(server: Server) -> None:
    """Each of them had many megabytes once."""
    with server.client() as http:
        http.put("/files/put.bin", content=b"x" * 30_000_000).raise_for_status()
        http.get("/files/put.bin").raise_for_status()
    peak(server)
    idle = server.rss() / (1 << 20)
    slow_readers(server, READERS, seconds=2.5)
    assert peak(server) < idle + ALL_READERS
