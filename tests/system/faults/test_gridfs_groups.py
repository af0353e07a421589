"""A server is killed between two commands of a group of small uploads: each is whole or absent afterwards."""

import itertools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from tests.support import Server, mongo
from tests.system.faults.grid import Grid
from tests.system.faults.mongo_proxy import MongoProxy, command_prefix, mongo_proxy

AT_ONCE = 8
NUMBERS = itertools.count(1)

LAST = ("delete", "media.uploads")
STEPS = [
    ("find", "media"),
    ("update", "media.uploads"),
    ("insert", "fs.chunks"),
    ("insert", "fs.files"),
    ("insert", "media"),
    LAST,
]


@pytest.fixture(scope="module")
def proxy() -> Iterator[MongoProxy]:
    with mongo_proxy(mongo.shared().port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def grid(proxy: MongoProxy, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Return a library whose servers reach mongod through the proxy, and the test directly."""
    grid = Grid(tmp_path_factory.mktemp("grid"), str(mongo.gridfs()["mongodb_url"]))
    name = grid.url.rpartition("/")[2].partition("?")[0]
    grid.settings["mongodb_url"] = f"mongodb://{proxy.host}/{name}?directConnection=true"
    return grid


@pytest.fixture(scope="module")
def server(grid: Grid) -> Iterator[Server]:
    with grid.server() as server:
        yield server


def put(server: Server, target: str) -> int | None:
    """Return the status, or None if the connection broke."""
    with suppress(httpx.TransportError), server.client() as http:
        return http.put(target, content=target.encode()).status_code
    return None


def let_requests_begin(server: Server) -> None:
    """Answer requests for a while: the event loop then has begun all that were sent before."""
    with server.client() as http:
        for _ in range(50):
            http.get("/health/live").raise_for_status()


@pytest.mark.parametrize(
    "step", [pytest.param(each, marks=pytest.mark.campaign if each[0] == "find" else ()) for each in STEPS]
)
def test_kill_between_commands_of_a_group_leaves_each_upload_whole_or_absent(
    proxy: MongoProxy, grid: Grid, server: Server, step: tuple[str, str]
) -> None:
    folder = f"folder-{next(NUMBERS)}"
    targets = [f"/files/{folder}/{number}.txt" for number in range(AT_ONCE)]
    before = grid.database["media"].count_documents({})
    with ThreadPoolExecutor(AT_ONCE + 1) as pool:
        proxy.hold_at(command_prefix(*LAST))
        first = pool.submit(put, server, f"/files/{folder}/first.txt")
        assert proxy.is_holding.wait(10)
        uploads: list[Future[int | None]] = [pool.submit(put, server, target) for target in targets]
        let_requests_begin(server)
        proxy.release_and_hold_at(command_prefix(*step))
        assert proxy.is_holding.wait(10)
        stored = grid.database["media"].count_documents({}) - before - 1
        assert stored > 1 if step == LAST else stored == 0, "the uploads were not written together"
        server.kill()
        proxy.release()
        assert first.result() in (201, None)
        assert {upload.result() for upload in uploads} <= {None, 503}
    server.start()
    with server.client() as http:
        for target in targets:
            found = http.get(target)
            assert found.status_code in (200, 404)
            assert found.status_code == 404 or found.content == target.encode()
        grid.check_no_leftovers()
        for target in targets:
            assert http.put(target, content=b"new").is_success
            assert http.get(target).content == b"new"


@pytest.mark.parametrize("step", STEPS)
def test_upload_is_stored_once_when_a_reply_is_lost(
    proxy: MongoProxy, grid: Grid, server: Server, step: tuple[str, str]
) -> None:
    folder = f"folder-{next(NUMBERS)}"
    proxy.break_connection_at(command_prefix(*step))
    with server.client() as http:
        for number in range(4):  # not each needs a lease
            target = f"/files/{folder}/{number}.txt"
            assert http.put(target, content=target.encode()).status_code == 201
            assert http.get(target).content == target.encode()
    assert grid.database["media"].count_documents({"folder": folder}) == 4
    grid.check_no_leftovers()
