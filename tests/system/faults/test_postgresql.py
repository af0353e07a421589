"""A PostgreSQL that crashes, stops responding, or serves several servers."""

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support import Server, running
from tests.support.postgres import Postgres, postgres, shared
from tests.system.faults.grid import until

FILM = random.Random(1).randbytes(300_000)
RESTARTS = 2
WRITERS = 4
CREATORS = 80
ANSWERED_WITHIN_S = 5


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Server, Postgres]]:
    with (
        postgres(durable=True) as database,
        running(folder, storage="filesystem", database_url=database.new_library(), stable_after=0) as server,
    ):
        yield server, database


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Postgres]]:
    """Run a server and a PostgreSQL, which tests stop, crash and start again; each uses files of its own."""
    with serving(tmp_path_factory.mktemp("crashes")) as served:
        yield served


@pytest.fixture
def server(served: tuple[Server, Postgres]) -> Server:
    return served[0]


@pytest.fixture
def database(served: tuple[Server, Postgres]) -> Postgres:
    return served[1]


@pytest.fixture
def two_servers(tmp_path: Path) -> Iterator[list[Server]]:
    """Two servers over one database and one folder of files."""
    settings = {
        "storage": "filesystem",
        "files_dir": tmp_path / "files",
        "database_url": shared().new_library(),
    }
    with ExitStack() as stack:
        yield [stack.enter_context(running(tmp_path / name, **settings)) for name in ("one", "two")]


class Writer:
    """A client that changes files of its own, and tracks the possible versions of each."""

    def __init__(self, server: Server, number: int) -> None:
        self._server = server
        self._random = random.Random(number)
        self.folder = f"writer {number}"
        self.possible: dict[str, set[str | None]] = {}
        self.statuses: Counter[int] = Counter()

    def write(self, until: threading.Event) -> None:
        with self._server.client() as http:
            while not until.is_set():
                self._change(http)

    def _change(self, http: httpx.Client) -> None:
        name = f"{self._random.randrange(12)}.mp4"
        before = self.possible.setdefault(name, {None})
        intended: str | None = None
        try:
            if self._random.random() < 0.25:
                response = http.delete(f"/files/{self.folder}/{name}")
            else:
                data = self._random.randbytes(self._random.choice([0, 10, 40_000]))
                intended = sha256(data)
                response = http.put(f"/files/{self.folder}/{name}", content=data)
        except httpx.TransportError:
            self.possible[name] = before | {intended}
            return
        self.statuses[response.status_code] += 1
        assert response.status_code in (201, 204, 404, 503), response.text
        if response.status_code == 404:
            assert None in before, "an acknowledged file is lost"
            self.possible[name] = {None}
        else:
            self.possible[name] = before | {intended} if response.status_code == 503 else {intended}


def test_requests_fail_within_seconds_while_postgresql_is_stopped(server: Server, database: Postgres) -> None:
    limits = httpx.Limits(max_connections=100)
    with server.client(limits=limits) as http, ThreadPoolExecutor(60) as pool:
        assert http.put("/files/film.mp4", content=FILM).status_code == 201

        def timed(request: tuple[str, str]) -> tuple[int, float]:
            began = time.monotonic()
            response = http.request(*request, content=FILM if request[0] == "PUT" else None)
            return response.status_code, time.monotonic() - began

        requests = [
            *(("PUT", f"/files/new/{number}.mp4") for number in range(20)),
            *(("GET", "/files/film.mp4") for _ in range(20)),
            *(("GET", "/files") for _ in range(15)),
            ("DELETE", "/files/film.mp4"),
            ("PUT", "/files/film.mp4"),
            ("GET", "/health/ready"),
        ]
        with http.stream("GET", "/files/film.mp4") as download:
            database.pause()
            try:
                pending = [pool.submit(timed, request) for request in requests]
                while not all(response.done() for response in pending):
                    assert timed(("GET", "/health/live"))[0] == 200
                    time.sleep(0.2)
                for request, response in zip(requests, pending, strict=True):
                    status, took = response.result()
                    assert status == 503, request
                    assert took < ANSWERED_WITHIN_S, request
                later = timed(("GET", "/files/film.mp4"))
                assert later[0] == 503
                assert later[1] < ANSWERED_WITHIN_S
                assert download.read() == FILM
            finally:
                database.resume()
        assert until(lambda: http.get("/health/ready").status_code == 200)
        assert http.put("/files/after.mp4", content=FILM).status_code == 201
        for folder in ("", "new"):
            for item in http.get("/files", params={"folder": folder}).json()["items"]:
                assert http.get(f"/files/{item['path']}").content == FILM
        assert server.staging() == []
        assert "Traceback" not in server.log()


def test_postgresql_restart_between_requests_causes_no_error(server: Server, database: Postgres) -> None:
    with server.client() as http:
        assert http.put("/files/restart.mp4", content=FILM).status_code == 201
        with ThreadPoolExecutor(8) as pool:  # so that several connections are idle
            list(pool.map(lambda _: http.get("/files"), range(40)))
        database.crash()
        database.start()
        assert http.put("/files/restart.mp4", content=FILM).status_code == 204
        for _ in range(20):
            assert http.get("/files/restart.mp4").content == FILM
            assert http.get("/files").status_code == 200


def test_postgresql_crash_loses_no_acknowledged_change(server: Server, database: Postgres) -> None:
    writers = [Writer(server, number) for number in range(WRITERS)]
    stop = threading.Event()
    with ThreadPoolExecutor(WRITERS) as pool:
        futures = [pool.submit(writer.write, stop) for writer in writers]
        for _ in range(RESTARTS):
            time.sleep(0.5)
            database.crash()
            database.start()
        time.sleep(0.5)
        stop.set()
        for future in futures:
            future.result()
    statuses = sum((writer.statuses for writer in writers), Counter())
    assert statuses[201] > RESTARTS, statuses
    assert statuses[503] > 0, "no request met a restart"
    with server.client() as http:
        for writer in writers:
            items = http.get("/files", params={"folder": writer.folder}).raise_for_status().json()["items"]
            found = {item["filename"]: item for item in items}
            for name, possible in writer.possible.items():
                response = http.get(f"/files/{writer.folder}/{name}")
                version = None if response.status_code == 404 else sha256(response.raise_for_status().content)
                assert version in possible
                assert (name in found) == (version is not None)
                assert version is None or found[name]["sha256"] in (None, version)
    assert server.staging() == []
    assert "Traceback" not in server.log()


@pytest.mark.campaign
def test_uploads_interrupted_by_stopped_postgresql_are_whole_or_absent(tmp_path: Path) -> None:
    with serving(tmp_path) as (server, database):
        check_stops(server, database)


def check_stops(server: Server, database: Postgres) -> None:
    writers = [Writer(server, number) for number in range(WRITERS)]
    stop = threading.Event()
    with ThreadPoolExecutor(WRITERS) as pool:
        futures = [pool.submit(writer.write, stop) for writer in writers]
        for _ in range(3):
            time.sleep(0.4)
            database.pause()
            time.sleep(2.5)
            database.resume()
        time.sleep(1.5)
        stop.set()
        for future in futures:
            future.result()
    with server.client() as http:
        for writer in writers:
            assert writer.statuses[503] > 0
            for name, possible in writer.possible.items():
                response = http.get(f"/files/{writer.folder}/{name}")
                version = None if response.status_code == 404 else sha256(response.raise_for_status().content)
                assert version in possible
    assert server.staging() == []


def test_one_of_many_racing_creates_on_two_servers_wins(two_servers: list[Server], tmp_path: Path) -> None:
    start = threading.Barrier(CREATORS)
    limits = httpx.Limits(max_connections=100)
    with two_servers[0].client(limits=limits) as one, two_servers[1].client(limits=limits) as other:

        def create(number: int) -> int:
            start.wait(30)
            http = other if number % 2 else one
            return http.post("/file/upload", files={"file": ("film.mp4", b"%d" % number)}).status_code

        with ThreadPoolExecutor(CREATORS) as pool:
            assert Counter(pool.map(create, range(CREATORS))) == {201: 1, 409: CREATORS - 1}
        assert one.get("/files/film.mp4").content == other.get("/files/film.mp4").content
    assert list((tmp_path / "files" / ".seekable" / "staging").iterdir()) == []


def test_servers_see_each_others_changes_at_once(
    two_servers: list[Server], hashes_in: Callable[[httpx.Client, str], dict[str, str]]
) -> None:
    with two_servers[0].client() as one, two_servers[1].client() as other:
        for number in range(12):
            writer, reader = (one, other) if number % 2 else (other, one)
            data, path = b"%d" % number, f"/files/films/{number % 5}.mp4"
            assert writer.put(path, content=data).status_code in (201, 204)
            assert reader.get(path).content == data
            assert sha256(data) in hashes_in(reader, "films").values()
            if number % 3 == 0:
                assert reader.delete(path).status_code == 204
                assert writer.get(path).status_code == 404
                names = {
                    item["filename"]
                    for item in writer.get("/files", params={"folder": "films"}).json()["items"]
                }
                assert f"{number % 5}.mp4" not in names
