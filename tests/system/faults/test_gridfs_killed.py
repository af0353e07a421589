"""mongod or the server killed at any moment, over GridFS: nothing short looks complete, nothing that was
acknowledged is lost, and what is left over is swept."""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import suppress

import httpx
import pytest

from tests.support import Server, mongo, noise
from tests.support.mongo import Mongod
from tests.system.faults.grid import (
    Begin,
    Download,
    Grid,
    answer_to,
    beginnings,
    check_refused,
    leftovers,
    recovered,
    sha256,
    until,
)

FILM = noise(24_000_000)
PART = FILM[:6_000_000]
NEW = b"new" * 100_000
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module", params=["tests", ""], ids=["replica set", "standalone"])
def node(request: pytest.FixtureRequest) -> Iterator[Mongod]:
    with mongo.mongod(replica_set=request.param) as node:
        yield node


@pytest.fixture(scope="module")
def grid(node: Mongod, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return Grid(tmp_path_factory.mktemp("grid"), node.url("harmed"))


@pytest.fixture(scope="module")
def server(grid: Grid) -> Iterator[Server]:
    """The same all the time, whatever happens to the database, unless it is killed itself."""
    with grid.server() as server:
        yield server
        assert "Traceback" not in server.log()


@pytest.fixture
def folder() -> str:
    return f"folder-{next(NUMBERS)}"


def test_mongod_killed_in_transfers(
    node: Mongod, grid: Grid, server: Server, folder: str, begin: Begin
) -> None:
    target = f"/files/{folder}/film.mp4"
    with server.client() as http:
        tag = http.put(target, content=FILM).headers["etag"]
    ways = ([], ["Connection: keep-alive"], ["Range: bytes=1000-"], ["Range: bytes=0-"])
    downloads = [Download(begin, server, target, *headers) for headers in ways]
    for download in downloads:
        assert download.status in (200, 206)
        download.read(download.length * 3 // 10)
    uploads = {path: begin(server, top + PART) for path, top in beginnings(folder, 5 * len(PART)).items()}
    assert until(lambda: all_under_way(grid))
    node.kill()
    assert [download.rest() for download in downloads] == [False] * len(downloads)
    for connection in uploads.values():
        with suppress(ConnectionError):
            connection.sendall(PART * 3)
        answer = answer_to(connection)
        if answer is not None:
            check_refused(answer)
    with server.client() as http:
        check_refused(http.get(target))
        assert http.get("/health/live").status_code == 200
        assert http.get("/health/ready").status_code == 503
        node.restart()
        recovered(server)
        for download in downloads:
            start = 1000 if b"bytes 1000-" in download.head else 0
            here = start + len(download.body)
            assert start + download.length == len(FILM) > here
            rest = http.get(target, headers={"range": f"bytes={here}-", "if-range": tag})
            assert rest.status_code == 206
            assert sha256(FILM[:start] + download.body + rest.content) == sha256(FILM)
        check_free(http, uploads)
    assert len(grid.under_way()) == 3, "what was sent is kept until the leases run out"
    grid.check_nothing_left()


def all_under_way(grid: Grid) -> bool:
    """Whether some of each of three uploads is in the bucket."""
    chunks = grid.under_way().values()
    return len(chunks) == 3 and min(chunks) > 10


def check_free(http: httpx.Client, targets: Iterable[str]) -> None:
    """Nothing is there, and something may be put there."""
    for target in targets:
        assert http.get(target).status_code == 404
        assert http.put(target, content=NEW, headers={"if-none-match": "*"}).status_code == 201
        assert http.get(target).content == NEW


def change_all(http: httpx.Client, folder: str) -> None:
    """One change of each kind, each acknowledged."""
    for name in ("replaced", "deleted", "moved"):
        http.put(f"/files/{folder}/{name}", content=b"old").raise_for_status()
    assert http.put(f"/files/{folder}/replaced", content=NEW).status_code == 204
    assert http.delete(f"/files/{folder}/deleted").status_code == 204
    kind = {"content-type": "application/merge-patch+json"}
    assert http.patch(f"/files/{folder}/moved", json={"filename": "new"}, headers=kind).status_code == 200
    form = {"data": {"folder": folder}, "files": {"file": ("form", NEW)}}
    assert http.post("/file/upload", **form).status_code == 201  # type: ignore[arg-type]
    assert http.put(f"/files/{folder}/put", content=PART).status_code == 201


def check_all(http: httpx.Client, folder: str) -> None:
    expected = {"replaced": NEW, "new": b"old", "form": NEW, "put": PART}
    items = http.get("/files", params={"folder": folder}).json()["items"]
    found = {item["filename"]: item["sha256"] for item in items}
    assert found == {name: sha256(data) for name, data in expected.items()}
    for name, data in expected.items():
        assert sha256(http.get(f"/files/{folder}/{name}").content) == sha256(data)


def test_mongod_killed_right_after_the_answer(node: Mongod, server: Server, folder: str) -> None:
    with server.client() as http:
        change_all(http, folder)
        node.kill()
        node.restart()
        recovered(server)
        check_all(http, folder)


def test_a_server_killed_in_uploads_and_right_after_the_answer(
    grid: Grid, server: Server, folder: str, begin: Begin
) -> None:
    grid.check_nothing_left()
    uploads = {path: begin(server, top + PART) for path, top in beginnings(folder, 2 * len(PART)).items()}
    assert until(lambda: all_under_way(grid))
    with server.client() as http:
        change_all(http, f"{folder}-acknowledged")
        server.kill()
    server.start()
    with server.client() as http:
        check_all(http, f"{folder}-acknowledged")
        check_free(http, uploads)
        assert len(grid.under_way()) >= 3, "another server may still be writing them"
        grid.check_nothing_left()
        check_all(http, f"{folder}-acknowledged")


def test_a_cancelled_upload_leaves_nothing_at_once(
    grid: Grid, server: Server, folder: str, begin: Begin
) -> None:
    grid.check_nothing_left()
    uploads = {path: begin(server, top + PART) for path, top in beginnings(folder, 2 * len(PART)).items()}
    assert until(lambda: all_under_way(grid))
    for connection in uploads.values():
        connection.close()
    assert until(lambda: leftovers(server) == set())
    with server.client() as http:
        check_free(http, uploads)
