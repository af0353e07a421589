"""A mongod that accepts connections and never replies: requests fail within seconds, and no data is lost."""

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from app.resources.health import READY_WITHIN_S
from tests.support import Server, mongo, noise
from tests.support.mongo import Mongod
from tests.support.together import Outcomes, Together
from tests.system.faults.conftest import request_starter
from tests.system.faults.grid import (
    Download,
    Grid,
    check_unavailable,
    sha256,
    until,
    upload_heads,
    wait_until_ready,
)

LIMIT_S = 5.0
MAX_LOOP_DELAY_S = 1
"""Seconds that the event loop may take to respond, while it receives many uploads on a busy machine."""
FILM = noise(24_000_000)
PART = FILM[:6_000_000]
MERGE_PATCH = {"content-type": "application/merge-patch+json"}


FOLDER = "films"

concurrent = Together("outcomes")
"""Tests that wait for seconds, each for a mongod of its own."""


@pytest.fixture(scope="module", name="outcomes")
def concurrent_outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    with ExitStack() as stack:

        def resources(name: str) -> tuple[Mongod, Grid]:
            node = stack.enter_context(mongo.mongod())
            return node, Grid(tmp_path_factory.mktemp(name), node.url("library"))

        with concurrent.begun(request, resources) as outcomes:
            yield outcomes


@contextmanager
def serving(node: Mongod, grid: Grid, **settings: object) -> Iterator[Server]:
    """Run a server, and resume its mongod at the end."""
    with grid.server(**settings) as server:  # type: ignore[arg-type]
        try:
            yield server
        finally:
            node.resume()
        assert "Traceback" not in server.log()


def send_request(server: Server, folder: str, number: int) -> tuple[httpx.Response, float]:
    """Send a request of one of the kinds. Return the response and the seconds until it arrived."""
    film, url = f"/files/{folder}/film.mp4", f"/files/{folder}/{number}.mp4"
    requests = [
        ("GET", film, {}),
        ("HEAD", film, {}),
        ("GET", film, {"headers": {"range": "bytes=1000-2000"}}),
        ("PUT", url, {"content": PART}),
        ("PUT", film, {"content": b"new"}),
        ("DELETE", film, {}),
        ("PATCH", film, {"json": {"filename": "moved.mp4"}, "headers": MERGE_PATCH}),
        ("GET", "/files", {"params": {"folder": folder}}),
        ("GET", "/files", {"params": {"q": "film"}}),
        ("GET", f"/playlist.m3u?folder={folder}", {}),
        ("POST", "/file/upload", {"data": {"folder": folder}, "files": {"file": (f"{number}.mp4", PART)}}),
    ]
    method, target, options = requests[number % len(requests)]
    with server.client() as http:
        began = time.monotonic()
        response = http.request(method, target, **options)  # type: ignore[arg-type]
        return response, time.monotonic() - began


def slowest_liveness(server: Server, duration_s: float) -> float:
    """Request /health/live for some seconds. Return the longest time of a response, in seconds."""
    longest, end = 0.0, time.monotonic() + duration_s
    with server.client() as http:
        while time.monotonic() < end:
            began = time.monotonic()
            assert http.get("/health/live").status_code == 200
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.1)
    return longest


@concurrent
def test_requests_fail_within_seconds_and_recover(node: Mongod, grid: Grid) -> None:
    clients = 44
    target = f"/files/{FOLDER}/film.mp4"
    with serving(node, grid) as server, request_starter() as start_request, server.client() as http:
        tag = http.put(target, content=FILM).headers["etag"]
        download = Download(start_request, server, target)
        download.read(1_000_000)
        node.pause()
        with ThreadPoolExecutor(clients + 2) as pool:
            health = pool.submit(slowest_liveness, server, 3.5)
            futures = [pool.submit(send_request, server, FOLDER, number) for number in range(clients)]
            began = time.monotonic()
            assert http.get("/health/ready").status_code == 503
            assert time.monotonic() - began < READY_WITHIN_S + MAX_LOOP_DELAY_S
            responses = [future.result() for future in futures]
            assert health.result() < MAX_LOOP_DELAY_S
        for response, _ in responses:
            check_unavailable(response)
        slowest = sorted(
            (round(took, 2), response.request.method, response.request.url.path)
            for response, took in responses
        )
        assert slowest[-1][0] < LIMIT_S, slowest
        began = time.monotonic()
        assert not download.read_to_end(), "the download ended although mongod was silent"
        assert time.monotonic() - began < 10
        # Later requests fail sooner.
        later = [send_request(server, FOLDER, number) for number in range(3)]
        assert max(took for _, took in later) < LIMIT_S
        node.resume()
        assert wait_until_ready(server) < 5
        received = len(download.body)
        rest = http.get(target, headers={"range": f"bytes={received}-", "if-range": tag})
        assert sha256(download.body + rest.content) == sha256(FILM)


@concurrent
def test_uploads_interrupted_by_silent_database_are_whole_or_absent(node: Mongod, grid: Grid) -> None:
    """At any stage of an upload: each client gets a response, and its file is stored whole or not at all."""
    with serving(node, grid) as server:
        check_uploads(node, grid, server)


def check_uploads(node: Mongod, grid: Grid, server: Server) -> None:
    data = {f"{number}.mp4": random.Random(number).randbytes(3_000_000) for number in range(12)}

    def put(name: str) -> tuple[int, float]:
        with server.client() as http:
            time.sleep(int(name.partition(".")[0]) / 20)
            began = time.monotonic()
            response = http.put(f"/files/{FOLDER}/{name}", content=data[name])
            if response.status_code != 201:
                check_unavailable(response)
            return response.status_code, time.monotonic() - began

    with ThreadPoolExecutor(len(data)) as pool:
        futures = {name: pool.submit(put, name) for name in data}
        assert until(lambda: any(future.done() for future in futures.values()))
        node.pause()
        done = {name: future.result() for name, future in futures.items()}
    assert max(took for _, took in done.values()) < LIMIT_S + 2, done
    statuses = Counter(status for status, _ in done.values())
    assert statuses[201] > 0 < statuses[503], statuses
    node.resume()
    wait_until_ready(server)
    check_outcomes(server, data, {name for name, (status, _) in done.items() if status == 201})
    grid.check_no_leftovers()
    check_outcomes(server, data, {name for name, (status, _) in done.items() if status == 201})


def check_outcomes(server: Server, data: dict[str, bytes], stored: set[str]) -> None:
    """Assert that the files in `stored` exist, and that each of the others is whole or absent."""
    with server.client() as http:
        for name, sent in data.items():
            response = http.get(f"/files/{FOLDER}/{name}")
            assert response.status_code == 200 or name not in stored
            if response.status_code != 404:
                assert sha256(response.content) == sha256(sent)


@concurrent
def test_server_stops_in_time_when_its_database_is_silent(node: Mongod, grid: Grid) -> None:
    with serving(node, grid, shutdown_timeout=1) as server, request_starter() as start_request:
        with server.client() as http:
            http.put(f"/files/{FOLDER}/film.mp4", content=FILM).raise_for_status()
        download = Download(start_request, server, f"/files/{FOLDER}/film.mp4")
        uploads = upload_heads(f"{FOLDER}-up", 2 * len(PART)).values()
        connections = [start_request(server, head + PART) for head in uploads]
        node.pause()
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(20)
        assert time.monotonic() - began < 6, server.log()
        assert not download.read_to_end()
        assert len(connections) == 3
