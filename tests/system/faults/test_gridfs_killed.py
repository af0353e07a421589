"""mongod or the server is killed at any moment: truncated files never look complete, acknowledged changes are
kept, and a sweep removes the leftovers."""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import suppress

import httpx
import pytest

from tests.support import Server, mongo, noise
from tests.support.mongo import Mongod
from tests.system.faults.grid import (
    Download,
    Grid,
    StartRequest,
    check_unavailable,
    leftovers,
    response_to,
    sha256,
    until,
    upload_heads,
    wait_until_ready,
)

FILM = noise(24_000_000)
PART = FILM[:6_000_000]
NEW = b"new" * 100_000
NUMBERS = itertools.count(1)


NODES = [
    pytest.param("tests", id="replica set"),
    pytest.param("", id="standalone", marks=pytest.mark.campaign),
]


@pytest.fixture(scope="module", params=NODES)
def node(request: pytest.FixtureRequest) -> Iterator[Mongod]:
    with mongo.mongod(replica_set=request.param) as node:
        yield node


@pytest.fixture(scope="module")
def grid(node: Mongod, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return Grid(tmp_path_factory.mktemp("grid"), node.url("harmed"))


@pytest.fixture(scope="module")
def server(grid: Grid) -> Iterator[Server]:
    """Run one server for all tests. It outlives failures of the database; a test may kill and restart it."""
    with grid.server() as server:
        yield server
        assert "Traceback" not in server.log()


@pytest.fixture
def folder() -> str:
    return f"folder-{next(NUMBERS)}"


def test_kill_of_mongod_breaks_transfers_which_resume_after_restart(
    node: Mongod, grid: Grid, server: Server, folder: str, start_request: StartRequest
) -> None:
    target = f"/files/{folder}/film.mp4"
    with server.client() as http:
        tag = http.put(target, content=FILM).headers["etag"]
    header_sets = ([], ["Connection: keep-alive"], ["Range: bytes=1000-"], ["Range: bytes=0-"])
    downloads = [Download(start_request, server, target, *headers) for headers in header_sets]
    for download in downloads:
        assert download.status in (200, 206)
        download.read(download.length * 3 // 10)
    uploads = {
        path: start_request(server, head + PART) for path, head in upload_heads(folder, 5 * len(PART)).items()
    }
    assert until(lambda: all_uploads_have_begun(grid))
    node.kill()
    assert [download.read_to_end() for download in downloads] == [False] * len(downloads)
    for connection in uploads.values():
        with suppress(ConnectionError):
            connection.sendall(PART * 3)
        response = response_to(connection)
        if response is not None:
            check_unavailable(response)
    with server.client() as http:
        check_unavailable(http.get(target))
        assert http.get("/health/live").status_code == 200
        assert http.get("/health/ready").status_code == 503
        node.restart()
        wait_until_ready(server)
        for download in downloads:
            start = 1000 if b"bytes 1000-" in download.head else 0
            received = start + len(download.body)
            assert start + download.length == len(FILM) > received
            rest = http.get(target, headers={"range": f"bytes={received}-", "if-range": tag})
            assert rest.status_code == 206
            assert sha256(FILM[:start] + download.body + rest.content) == sha256(FILM)
        check_creatable(http, uploads)
    assert len(grid.unreferenced_chunks()) == 3, "chunks were removed before their leases expired"
    grid.check_no_leftovers()


def all_uploads_have_begun(grid: Grid) -> bool:
    """Return whether the bucket has some chunks of each of the three uploads."""
    chunks = grid.unreferenced_chunks().values()
    return len(chunks) == 3 and min(chunks) > 10


def check_creatable(http: httpx.Client, targets: Iterable[str]) -> None:
    """Assert that no target exists, and that each may be created."""
    for target in targets:
        assert http.get(target).status_code == 404
        assert http.put(target, content=NEW, headers={"if-none-match": "*"}).status_code == 201
        assert http.get(target).content == NEW


def make_all_changes(http: httpx.Client, folder: str) -> None:
    """Make one change of each kind, and assert that all are acknowledged."""
    for name in ("replaced", "deleted", "moved"):
        http.put(f"/files/{folder}/{name}", content=b"old").raise_for_status()
    assert http.put(f"/files/{folder}/replaced", content=NEW).status_code == 204
    assert http.delete(f"/files/{folder}/deleted").status_code == 204
    headers = {"content-type": "application/merge-patch+json"}
    assert http.patch(f"/files/{folder}/moved", json={"filename": "new"}, headers=headers).status_code == 200
    form = {"data": {"folder": folder}, "files": {"file": ("form", NEW)}}
    assert http.post("/file/upload", **form).status_code == 201  # type: ignore[arg-type]
    assert http.put(f"/files/{folder}/put", content=PART).status_code == 201


def check_all_changes(http: httpx.Client, folder: str) -> None:
    expected = {"replaced": NEW, "new": b"old", "form": NEW, "put": PART}
    items = http.get("/files", params={"folder": folder}).json()["items"]
    found = {item["filename"]: item["sha256"] for item in items}
    assert found == {name: sha256(data) for name, data in expected.items()}
    for name, data in expected.items():
        assert sha256(http.get(f"/files/{folder}/{name}").content) == sha256(data)


def test_kill_of_mongod_right_after_response_keeps_acknowledged_changes(
    node: Mongod, server: Server, folder: str
) -> None:
    with server.client() as http:
        make_all_changes(http, folder)
        node.kill()
        node.restart()
        wait_until_ready(server)
        check_all_changes(http, folder)


def test_kill_of_server_keeps_acknowledged_changes_and_frees_names(
    grid: Grid, server: Server, folder: str, start_request: StartRequest
) -> None:
    grid.check_no_leftovers()
    uploads = {
        path: start_request(server, head + PART) for path, head in upload_heads(folder, 2 * len(PART)).items()
    }
    assert until(lambda: all_uploads_have_begun(grid))
    with server.client() as http:
        make_all_changes(http, f"{folder}-acknowledged")
        server.kill()
    server.start()
    with server.client() as http:
        check_all_changes(http, f"{folder}-acknowledged")
        check_creatable(http, uploads)
        assert len(grid.unreferenced_chunks()) >= 3, (
            "chunks were removed although another server may be writing them"
        )
        grid.check_no_leftovers()
        check_all_changes(http, f"{folder}-acknowledged")


def test_cancelled_upload_is_removed_at_once(
    grid: Grid, server: Server, folder: str, start_request: StartRequest
) -> None:
    grid.check_no_leftovers()
    uploads = {
        path: start_request(server, head + PART) for path, head in upload_heads(folder, 2 * len(PART)).items()
    }
    assert until(lambda: all_uploads_have_begun(grid))
    for connection in uploads.values():
        connection.close()
    assert until(lambda: leftovers(server) == set())
    with server.client() as http:
        check_creatable(http, uploads)
