"""The network to mongod is cut at the command that makes a change, so that its outcome is unknown."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support import Server, mongo
from tests.support.together import Outcomes, Together
from tests.system.faults.grid import Grid, check_unavailable, wait_until_ready
from tests.system.faults.mongo_proxy import MongoProxy, command_prefix, mongo_proxy

OLD, NEW = b"old" * 100_000, b"new" * 200_000
SMALL = b"small" * 100  # which is stored as one of a group
MERGE_PATCH = {"content-type": "application/merge-patch+json"}
NUMBERS = itertools.count(1)

# The command that makes each change.
CHANGES = {
    "create": command_prefix("insert", "media"),
    "replace": command_prefix("update", "media"),
    "delete": command_prefix("delete", "media"),
    "move": command_prefix("update", "media"),
}

# The content at the name of the film, and at the name to which it is moved.
BEFORE = {"create": [None, None], "replace": [OLD, None], "delete": [OLD, None], "move": [OLD, None]}
AFTER = {"delete": [None, None], "move": [None, OLD]}


@pytest.fixture(scope="module")
def proxy() -> Iterator[MongoProxy]:
    with mongo_proxy(mongo.shared().port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def grid(proxy: MongoProxy, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return library_through(proxy, tmp_path_factory.mktemp("grid"))


def library_through(proxy: MongoProxy, folder: Path) -> Grid:
    """Return a library whose servers reach mongod through the proxy, and the test directly."""
    grid = Grid(folder, mongo.gridfs()["mongodb_url"])  # type: ignore[arg-type]
    name = grid.url.rpartition("/")[2].partition("?")[0]
    grid.settings["mongodb_url"] = f"mongodb://{proxy.host}/{name}?directConnection=true"
    return grid


@pytest.fixture(scope="module")
def server(grid: Grid) -> Iterator[Server]:
    with server_without_tracebacks(grid) as server:
        yield server


@contextmanager
def server_without_tracebacks(grid: Grid) -> Iterator[Server]:
    with grid.server() as server:
        yield server
        assert "Traceback" not in server.log()


concurrent = Together("outcomes")
"""Tests in which a server waits seconds for its database. Each has a library and a proxy of its own."""


@pytest.fixture(scope="module", name="outcomes")
def concurrent_outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    with ExitStack() as stack:

        def resources(name: str) -> tuple[MongoProxy, Grid]:
            proxy = stack.enter_context(mongo_proxy(mongo.shared().port))
            return proxy, library_through(proxy, tmp_path_factory.mktemp(name))

        with concurrent.begun(request, resources) as outcomes:
            yield outcomes


@concurrent
def test_create_gets_503_and_is_kept_when_delivered_without_reply(proxy: MongoProxy, grid: Grid) -> None:
    with server_without_tracebacks(grid) as server:
        check_outcome(proxy, grid, server, "create", True)


@concurrent
def test_small_upload_gets_503_and_is_whole_when_its_outcome_is_unknown(
    proxy: MongoProxy, grid: Grid
) -> None:
    with server_without_tracebacks(grid) as server:
        check_outcome(proxy, grid, server, "create", True, SMALL)
        check_outcome(proxy, grid, server, "replace", True, SMALL)
        check_outcome(proxy, grid, server, "create", False, SMALL)


@concurrent
def test_create_gets_503_and_leaves_nothing_when_not_delivered(proxy: MongoProxy, grid: Grid) -> None:
    with server_without_tracebacks(grid) as server:
        check_outcome(proxy, grid, server, "create", False)


DELIVERED = [(kind, True) for kind in CHANGES if kind != "create"]


@pytest.mark.campaign
@pytest.mark.parametrize(("kind", "delivered"), [*DELIVERED, ("delete", False)])
def test_change_gets_503_and_is_whole_when_its_outcome_is_unknown(
    proxy: MongoProxy, grid: Grid, server: Server, kind: str, delivered: bool
) -> None:
    check_outcome(proxy, grid, server, kind, delivered)


def check_outcome(
    proxy: MongoProxy, grid: Grid, server: Server, kind: str, delivered: bool, new: bytes = NEW
) -> None:
    folder = f"folder-{next(NUMBERS)}"
    with server.client() as http:
        if kind != "create":
            http.put(f"/files/{folder}/film.mp4", content=OLD).raise_for_status()
        proxy.cut_at(CHANGES[kind], deliver=delivered)
        response = change(http, kind, folder, new)
        assert proxy.is_cut.is_set()
        check_unavailable(response)
        assert response.elapsed.total_seconds() < 5
        proxy.restore()
        wait_until_ready(server)
        for _ in range(2):
            assert stored(http, folder) == (AFTER.get(kind, [new, None]) if delivered else BEFORE[kind])
            grid.check_no_leftovers()  # the bytes of the stored version stay, and no others


def change(http: httpx.Client, kind: str, folder: str, new: bytes = NEW) -> httpx.Response:
    film = f"/files/{folder}/film.mp4"
    match kind:
        case "delete":
            return http.delete(film)
        case "move":
            return http.patch(film, json={"filename": "moved.mp4"}, headers=MERGE_PATCH)
        case _:
            return http.put(film, content=new)


def stored(http: httpx.Client, folder: str) -> list[bytes | None]:
    """Return the content at both names, None where there is no file."""
    responses = [http.get(f"/files/{folder}/{name}.mp4") for name in ("film", "moved")]
    return [response.content if response.is_success else None for response in responses]


@concurrent
def test_change_succeeds_when_only_its_reply_is_lost(proxy: MongoProxy, grid: Grid) -> None:
    """The server looks up the outcome where the driver does not retry by itself, as without a replica set."""
    url = f"{grid.settings['mongodb_url']}&retryWrites=false"
    with grid.server("unretrying", mongodb_url=url) as server, server.client() as http:
        for kind, new in itertools.product(CHANGES, (NEW, SMALL)):
            folder = f"folder-{next(NUMBERS)}"
            if kind != "create":
                http.put(f"/files/{folder}/film.mp4", content=OLD).raise_for_status()
            proxy.break_connection_at(CHANGES[kind])
            assert change(http, kind, folder, new).is_success
            assert stored(http, folder) == AFTER.get(kind, [new, None])
    grid.check_no_leftovers()


@concurrent
def test_sweep_keeps_bytes_that_a_document_may_reference(proxy: MongoProxy, grid: Grid) -> None:
    """The server could remove them: other commands still reach the database."""
    with server_without_tracebacks(grid) as server:
        check_bytes_are_kept(proxy, grid, server, "create")


@pytest.mark.campaign
def test_sweep_keeps_bytes_that_a_document_may_reference_after_replacement(
    proxy: MongoProxy, grid: Grid, server: Server
) -> None:
    check_bytes_are_kept(proxy, grid, server, "replace")


def check_bytes_are_kept(proxy: MongoProxy, grid: Grid, server: Server, kind: str) -> None:
    folder = f"folder-{next(NUMBERS)}"
    with server.client() as http:
        if kind == "replace":
            http.put(f"/files/{folder}/film.mp4", content=OLD).raise_for_status()
        proxy.drop_replies_to(CHANGES[kind], command_prefix("find", "media"))
        check_unavailable(change(http, kind, folder))
        assert stored(http, folder) == [NEW, None]
        grid.check_no_leftovers()
        assert stored(http, folder) == [NEW, None]


@pytest.mark.parametrize("new", [NEW, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("kind", ["create", "replace"])
def test_commit_after_its_lease_was_swept_gets_503(
    proxy: MongoProxy, grid: Grid, server: Server, kind: str, new: bytes
) -> None:
    """Such as the commit of a process that was stopped for longer than its lease."""
    target = f"/files/folder-{next(NUMBERS)}/film.mp4"
    with server.client() as http, ThreadPoolExecutor(1) as pool:
        if kind == "replace":
            http.put(target, content=OLD).raise_for_status()
        proxy.hold_at(CHANGES[kind])
        response = pool.submit(http.put, target, content=new)
        assert proxy.is_holding.wait(10)
        grid.expire_leases(matching=lambda file: file not in grid.referenced())
        assert grid.sweep()
        proxy.release()
        check_unavailable(response.result())
        found = http.get(target)
        assert (found.content if found.is_success else None) == (OLD if kind == "replace" else None)
        grid.check_no_leftovers()
        assert http.put(target, content=NEW).is_success
        assert http.get(target).content == NEW


def test_file_in_conflict_with_a_folder_is_kept_when_it_is_moved(
    proxy: MongoProxy, grid: Grid, server: Server
) -> None:
    folder = f"folder-{next(NUMBERS)}"
    with server.client() as http, grid.server("other", mongodb_url=grid.url) as other:
        with other.client() as other_http, ThreadPoolExecutor(1) as pool:
            proxy.hold_at(CHANGES["create"])
            response = pool.submit(http.put, f"/files/{folder}/x", content=NEW)
            assert proxy.is_holding.wait(10)
            # The other server makes the path a folder, and moves the file before the conflict is detected.
            assert other_http.put(f"/files/{folder}/x/film.mp4", content=OLD).status_code == 201
            proxy.release_and_hold_at(CHANGES["delete"])
            assert proxy.is_holding.wait(10)
            moved = other_http.patch(f"/files/{folder}/x", json={"filename": "y"}, headers=MERGE_PATCH)
            assert moved.status_code == 200
            proxy.release()
            assert response.result().status_code == 201
        assert http.get(f"/files/{folder}/y").content == NEW
        grid.check_no_leftovers()
        assert http.get(f"/files/{folder}/y").content == NEW
