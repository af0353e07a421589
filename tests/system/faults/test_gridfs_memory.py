"""The memory of a server over GridFS does not grow with the length of files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Server, mongo, running
from tests.system.soak.memory import get, peak, post_form, put, slow_readers

SIZE = 144
LIMIT = 48  # part of it is growth of the heap that the allocator keeps
READERS = 200
ALL_READERS = 100  # the memory budget, a little for each reader, and the chunks that threads are fetching


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    library = mongo.gridfs()
    with running(tmp_path, **library) as server:
        yield server
    database = mongo.database(str(library["mongodb_url"]))
    database.client.drop_database(database)


def test_memory_does_not_grow_with_length_of_uploads_and_downloads(server: Server) -> None:
    with server.client() as http:
        http.put("/files/small.bin", content=b"x" * 5_000_000).raise_for_status()
        http.get("/files/small.bin").raise_for_status()
    peak(server)
    idle = server.rss() / (1 << 20)
    for transfer in (put, post_form, get):
        transfer(server, SIZE)
        assert peak(server) < idle + LIMIT, transfer.__name__


def test_memory_stays_within_budget_with_many_slow_readers(server: Server) -> None:
    """A regression: each reader once held many megabytes."""
    with server.client() as http:
        http.put("/files/put.bin", content=b"x" * 30_000_000).raise_for_status()
        http.get("/files/put.bin").raise_for_status()
    peak(server)
    idle = server.rss() / (1 << 20)
    slow_readers(server, READERS, seconds=2.5)
    assert peak(server) < idle + ALL_READERS
