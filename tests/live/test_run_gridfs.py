"""`make run-gridfs`: a server over a MongoDB of its own, to try it with one command."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from deploy import run_gridfs
from tests import mongo
from tests.live.clients import Program, program, until

SCRIPT = Path(run_gridfs.__file__)

FILM = os.urandom(1 << 20)

pytestmark = pytest.mark.live


@pytest.fixture
def data() -> Iterator[Path]:
    with mongo.temporary_folder() as folder:
        yield folder / "mongodb"


def processes(data: Path) -> list[int]:
    """What runs over it."""

    def says(process: Path) -> bool:
        try:
            return str(data).encode() in (process / "cmdline").read_bytes()
        except OSError:  # it has ended
            return False

    return [int(process.name) for process in Path("/proc").glob("[0-9]*") if says(process)]


def test_it_keeps_its_files_and_leaves_no_process_behind(tmp_path: Path, data: Path) -> None:
    mongo.Mongod(data)  # skips where there can be none
    port = mongo.free_port()
    words = (sys.executable, SCRIPT, "--data", data, "--mongod-port", port, "--port", 0)
    ways: list[tuple[Callable[[Program], None], int]] = [
        (lambda script: script.process.send_signal(signal.SIGINT), 0),
        (lambda script: script.process.kill(), -signal.SIGKILL),
    ]
    for number, (end, status) in enumerate(ways):
        (tmp_path / str(number)).mkdir()
        with program(tmp_path / str(number), *map(str, words)) as script:
            url = script.wait_for(r"docs +(http\S+)/docs")[1]
            with httpx.Client(base_url=url, trust_env=False) as http:
                if number == 0:
                    http.put("/files/film.mp4", content=FILM).raise_for_status()
                assert http.get("/files/film.mp4").content == FILM
                assert len(processes(data)) >= 2, "this and mongod"
            end(script)
            assert script.process.wait(30) == status, script.log()
            until(lambda: processes(data) == [], "no mongod is left", within=10)
            until(partial(refuses, url), "no server is left", within=10)


def refuses(url: str) -> bool:
    try:
        httpx.get(url, trust_env=False)
    except httpx.ConnectError:
        return True
    except httpx.TransportError:
        return False
    return False


def test_what_keeps_mongod_from_starting_is_said(tmp_path: Path, data: Path) -> None:
    other = mongo.shared()
    words = (sys.executable, SCRIPT, "--data", data, "--mongod-port", other.port, "--port", 0)
    with program(tmp_path, *map(str, words)) as script:
        assert script.process.wait(30) == 1
        assert "mongod did not start" in script.log()
        assert "Address already in use" in script.log()
