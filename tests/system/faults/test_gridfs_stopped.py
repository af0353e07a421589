"""A mongod that is there and answers nothing: everybody is told so within seconds, and nothing is lost."""

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from tests.support import Server, mongo, noise
from tests.support.mongo import Mongod
from tests.support.together import Outcomes, Together
from tests.system.faults.conftest import beginning
from tests.system.faults.grid import (
    Download,
    Grid,
    beginnings,
    check_refused,
    recovered,
    sha256,
    until,
)

LIMIT_S = 5.0
FILM = noise(24_000_000)
PART = FILM[:6_000_000]
KIND = {"content-type": "application/merge-patch+json"}


FOLDER = "films"

stopped = Together("stopped")
"""Each of them has a mongod to itself, and waits for it for seconds."""


@pytest.fixture(scope="module", name="stopped")
def begun_stopped(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    with ExitStack() as stack:

        def given(name: str) -> tuple[Mongod, Grid]:
            node = stack.enter_context(mongo.mongod())
            return node, Grid(tmp_path_factory.mktemp(name), node.url("harmed"))

        with stopped.begun(request, given) as outcomes:
            yield outcomes


@contextmanager
def serving(node: Mongod, grid: Grid, **settings: object) -> Iterator[Server]:
    """A server, whose database answers again at the end."""
    with grid.server(**settings) as server:  # type: ignore[arg-type]
        try:
            yield server
        finally:
            node.resume()
        assert "Traceback" not in server.log()


def ask(server: Server, folder: str, number: int) -> tuple[httpx.Response, float]:
    """One request of some kind, and how long its answer took."""
    film, url = f"/files/{folder}/film.mp4", f"/files/{folder}/{number}.mp4"
    requests = [
        ("GET", film, {}),
        ("HEAD", film, {}),
        ("GET", film, {"headers": {"range": "bytes=1000-2000"}}),
        ("PUT", url, {"content": PART}),
        ("PUT", film, {"content": b"new"}),
        ("DELETE", film, {}),
        ("PATCH", film, {"json": {"filename": "moved.mp4"}, "headers": KIND}),
        ("GET", "/files", {"params": {"folder": folder}}),
        ("GET", "/files", {"params": {"q": "film"}}),
        ("GET", f"/playlist.m3u?folder={folder}", {}),
        ("POST", "/file/upload", {"data": {"folder": folder}, "files": {"file": (f"{number}.mp4", PART)}}),
    ]
    method, target, options = requests[number % len(requests)]
    with server.client() as http:
        began = time.monotonic()
        answer = http.request(method, target, **options)  # type: ignore[arg-type]
        return answer, time.monotonic() - began


def watch(server: Server, until_s: float) -> float:
    """The longest that the server took to say that it lives, and that it is not ready."""
    longest, end = 0.0, time.monotonic() + until_s
    with server.client() as http:
        while time.monotonic() < end:
            began = time.monotonic()
            assert http.get("/health/live").status_code == 200
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.1)
    return longest


@stopped
def test_all_are_told_within_seconds(node: Mongod, grid: Grid) -> None:
    clients = 44
    target = f"/files/{FOLDER}/film.mp4"
    with serving(node, grid) as server, beginning() as begin, server.client() as http:
        tag = http.put(target, content=FILM).headers["etag"]
        download = Download(begin, server, target)
        download.read(1_000_000)
        node.pause()
        with ThreadPoolExecutor(clients + 2) as pool:
            health = pool.submit(watch, server, 3.5)
            going = [pool.submit(ask, server, FOLDER, number) for number in range(clients)]
            began = time.monotonic()
            assert http.get("/health/ready").status_code == 503
            assert time.monotonic() - began < 2.5
            answers = [each.result() for each in going]
            assert health.result() < 1
        for answer, _ in answers:
            check_refused(answer)
        slowest = sorted(
            (round(took, 2), answer.request.method, answer.request.url.path) for answer, took in answers
        )
        assert slowest[-1][0] < LIMIT_S, slowest
        began = time.monotonic()
        assert not download.rest(), "it breaks, and does not wait for ever"
        assert time.monotonic() - began < 10
        # Those who come later are told so at once, or nearly.
        again = [ask(server, FOLDER, number) for number in range(3)]
        assert max(took for _, took in again) < LIMIT_S
        node.resume()
        assert recovered(server) < 5
        here = len(download.body)
        rest = http.get(target, headers={"range": f"bytes={here}-", "if-range": tag})
        assert sha256(download.body + rest.content) == sha256(FILM)


@stopped
def test_uploads_in_the_middle_of_which_it_stops(node: Mongod, grid: Grid) -> None:
    """Whatever they were doing: each is told, and what it sent is there wholly or not at all."""
    with serving(node, grid) as server:
        check_uploads(node, grid, server)


def check_uploads(node: Mongod, grid: Grid, server: Server) -> None:
    data = {f"{number}.mp4": random.Random(number).randbytes(3_000_000) for number in range(12)}

    def put(name: str) -> tuple[int, float]:
        with server.client() as http:
            time.sleep(int(name.partition(".")[0]) / 20)
            began = time.monotonic()
            answer = http.put(f"/files/{FOLDER}/{name}", content=data[name])
            if answer.status_code != 201:
                check_refused(answer)
            return answer.status_code, time.monotonic() - began

    with ThreadPoolExecutor(len(data)) as pool:
        going = {name: pool.submit(put, name) for name in data}
        assert until(lambda: any(each.done() for each in going.values()))
        node.pause()
        done = {name: each.result() for name, each in going.items()}
    assert max(took for _, took in done.values()) < LIMIT_S + 2, done
    statuses = Counter(status for status, _ in done.values())
    assert statuses[201] > 0 < statuses[503], statuses
    node.resume()
    recovered(server)
    check_outcomes(server, data, {name for name, (status, _) in done.items() if status == 201})
    grid.check_nothing_left()
    check_outcomes(server, data, {name for name, (status, _) in done.items() if status == 201})


def check_outcomes(server: Server, data: dict[str, bytes], stored: set[str]) -> None:
    """What was acknowledged is there, and the others wholly or not at all."""
    with server.client() as http:
        for name, sent in data.items():
            answer = http.get(f"/files/{FOLDER}/{name}")
            assert answer.status_code == 200 or name not in stored
            if answer.status_code != 404:
                assert sha256(answer.content) == sha256(sent)


@stopped
def test_a_server_ends_in_time_although_its_database_is_silent(node: Mongod, grid: Grid) -> None:
    with serving(node, grid, shutdown_timeout=1) as server, beginning() as begin:
        with server.client() as http:
            http.put(f"/files/{FOLDER}/film.mp4", content=FILM).raise_for_status()
        download = Download(begin, server, f"/files/{FOLDER}/film.mp4")
        uploads = beginnings(f"{FOLDER}-up", 2 * len(PART)).values()
        going = [begin(server, top + PART) for top in uploads]
        node.pause()
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(20)
        assert time.monotonic() - began < 6, server.log()
        assert not download.rest()
        assert len(going) == 3
