"""The primary of three nodes dies or steps down during many uploads and downloads. The next primary has every
acknowledged change."""

import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from pymongo.errors import PyMongoError

from tests.support import Server, mongo, noise
from tests.support.mongo import Mongod, ReplicaSet
from tests.system.faults.grid import (
    Download,
    Grid,
    StartRequest,
    check_unavailable,
    sha256,
    until,
    wait_until_ready,
)

AT_ONCE = 20
FILM = noise(12_000_000)
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def nodes() -> Iterator[ReplicaSet]:
    with mongo.three_nodes() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def grid(nodes: ReplicaSet, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return Grid(tmp_path_factory.mktemp("grid"), nodes.url("library"))


@pytest.fixture(scope="module")
def server(grid: Grid) -> Iterator[Server]:
    with grid.server() as server:
        yield server
        assert "Traceback" not in server.log()


def data(number: int) -> bytes:
    """Return a small file, which is stored as one of a group, or one that is stored alone."""
    return random.Random(number).randbytes(3_000 if number % 2 else 300_000)


class Uploads:
    """Clients that upload one file after another, and replace or delete some, until `stopped` is set."""

    def __init__(self, server: Server, folder: str) -> None:
        self._server = server
        self._folder = folder
        self.stopped = False
        self.outcomes: Counter[object] = Counter()
        self.known: dict[str, bytes | None] = {}
        """The stored content of each path whose changes were all answered; None if it was deleted."""

    def run(self, number: int) -> None:
        with self._server.client(timeout=20) as http:
            for turn in itertools.count():
                if self.stopped:
                    return
                path = f"/files/{self._folder}/{number}-{turn}.mp4"
                new = data(number * 1000 + turn)
                self._change(http, path, new)
                if turn % 3 == 1:
                    self._change(http, path, new[::-1])
                elif turn % 3 == 2:
                    self._change(http, path, None)

    def failed(self) -> int:
        return self.outcomes.total() - sum(self.outcomes[status] for status in (201, 204))

    def _change(self, http: httpx.Client, path: str, new: bytes | None) -> None:
        if new is not None and path in self.known and self.known[path] is None:
            return
        before = self.known.pop(path, None)
        try:
            response = http.delete(path) if new is None else http.put(path, content=new)
        except httpx.TransportError as error:
            self.outcomes[type(error)] += 1
            return
        self.outcomes[response.status_code] += 1
        if response.is_success:
            self.known[path] = new
        elif not (new is None and before is None and response.status_code == 404):
            check_unavailable(response)


def fail_primary(primary: Mongod, other: Mongod, how: str) -> None:
    if how == "steps down":
        with suppress(PyMongoError), primary.direct() as client:
            client.admin.command("replSetStepDown", 5, secondaryCatchUpPeriodSecs=3)
        return
    if "no successor" in how:
        other.pause()
    primary.kill()


def complete(http: httpx.Client, target: str, tag: str, download: Download) -> bytes:
    """Return the whole film: the received bytes, and the rest by a range request."""
    received = len(download.body)
    if received == download.length:
        return bytes(download.body)
    rest = http.get(target, headers={"range": f"bytes={received}-", "if-range": tag})
    assert rest.status_code == 206
    return download.body + rest.content


def test_start_is_refused_on_a_secondary(nodes: ReplicaSet, tmp_path: Path) -> None:
    primary = nodes.primary()
    secondary = next(node for node in nodes.nodes if node is not primary)
    grid = Grid(tmp_path, f"mongodb://{secondary.host}/harmed?directConnection=true")
    began = time.monotonic()
    ended = grid.seekable("serve", "--port", "0")
    assert time.monotonic() - began < 12
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1, ended.stderr


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("steps down", marks=pytest.mark.campaign),
        "is killed",
        pytest.param("is killed, and has no successor for a while", marks=pytest.mark.campaign),
    ],
)
def test_failover_keeps_acknowledged_changes_and_downloads_resume(
    nodes: ReplicaSet, grid: Grid, server: Server, start_request: StartRequest, how: str
) -> None:
    folder = f"folder-{next(NUMBERS)}"
    target = f"/files/{folder}/film.mp4"
    with server.client() as http:
        tag = http.put(target, content=FILM).raise_for_status().headers["etag"]
    uploads = Uploads(server, folder)
    downloads = [Download(start_request, server, target) for _ in range(AT_ONCE)]
    for number, download in enumerate(downloads):
        download.read(len(FILM) * number // (2 * AT_ONCE))
    with ThreadPoolExecutor(2 * AT_ONCE) as pool:
        futures: list[Future[None]] = [pool.submit(uploads.run, number) for number in range(AT_ONCE)]
        try:
            assert until(lambda: uploads.outcomes[201] > AT_ONCE)
            primary = nodes.primary()
            other = next(node for node in nodes.nodes if node is not primary)
            fail_primary(primary, other, how)
            complete_downloads = list(pool.map(Download.read_to_end, downloads))
            if "no successor" in how:
                assert until(lambda: uploads.outcomes[503] > AT_ONCE)
                other.resume()
            acknowledged = uploads.outcomes[201]
            assert nodes.primary() is not primary
            wait_until_ready(server)
            assert until(lambda: uploads.outcomes[201] > acknowledged + AT_ONCE), "uploads did not continue"
        finally:
            uploads.stopped = True
        for future in futures:
            future.result()
    if how == "steps down":
        assert (complete_downloads, uploads.failed()) == ([True] * AT_ONCE, 0), uploads.outcomes
    elif "no successor" in how:
        # The other downloads were already buffered to their end.
        assert complete_downloads.count(False) >= AT_ONCE // 2
    with server.client() as http:
        for download, is_complete in zip(downloads, complete_downloads, strict=True):
            assert is_complete is (len(download.body) == len(FILM))
            assert sha256(complete(http, target, tag, download)) == sha256(FILM)
        assert len(uploads.known) > 2 * AT_ONCE
        for path, expected in uploads.known.items():
            found = http.get(path)
            assert (found.content if found.is_success else None) == expected
    grid.check_no_leftovers()
    print(how, dict(uploads.outcomes), Counter(complete_downloads))
    if "killed" in how:
        primary.start()
