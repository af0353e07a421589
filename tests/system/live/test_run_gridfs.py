"""`make run-gridfs` runs a server together with its own MongoDB."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from deploy import run_gridfs
from tests.support import mongo
from tests.system.live.clients import Program, program, until

SCRIPT = Path(run_gridfs.__file__)

FILM = os.urandom(1 << 20)

pytestmark = pytest.mark.live


@pytest.fixture
def data() -> Iterator[Path]:
    with mongo.temporary_folder() as folder:
        yield folder / "mongodb"


def processes(data: Path) -> list[int]:
    """Return the ids of the processes whose command line contains the data folder."""

    def names_data(process: Path) -> bool:
        try:
            return str(data).encode() in (process / "cmdline").read_bytes()
        except OSError:  # the process has ended
            return False

    return [int(process.name) for process in Path("/proc").glob("[0-9]*") if names_data(process)]


def test_run_gridfs_keeps_files_and_leaves_no_process_behind(tmp_path: Path, data: Path) -> None:
    mongo.Mongod(data)  # skips the test where mongod cannot run
    port = mongo.free_port()
    command = (sys.executable, SCRIPT, "--data", data, "--mongod-port", port, "--port", 0)
    endings: list[tuple[Callable[[Program], None], int]] = [
        (lambda script: script.process.send_signal(signal.SIGINT), 0),
        (lambda script: script.process.kill(), -signal.SIGKILL),
    ]
    for number, (end, status) in enumerate(endings):
        (tmp_path / str(number)).mkdir()
        with program(tmp_path / str(number), *map(str, command)) as script:
            url = script.wait_for(r"docs +(http\S+)/docs")[1]
            with httpx.Client(base_url=url, trust_env=False) as http:
                if number == 0:
                    http.put("/files/film.mp4", content=FILM).raise_for_status()
                assert http.get("/files/film.mp4").content == FILM
                assert len(processes(data)) >= 2, "the script and mongod"
            end(script)
            assert script.process.wait(30) == status, script.log()
            until(lambda: processes(data) == [], "no mongod is left", within=10)
            until(partial(is_unreachable, url), "no server is left", within=10)


def is_unreachable(url: str) -> bool:
    try:
        httpx.get(url, trust_env=False)
    except httpx.ConnectError:
        return True
    except httpx.TransportError:
        return False
    return False


def test_run_gridfs_reports_why_mongod_did_not_start(tmp_path: Path, data: Path) -> None:
    other = mongo.shared()
    command = (sys.executable, SCRIPT, "--data", data, "--mongod-port", other.port, "--port", 0)
    with program(tmp_path, *map(str, command)) as script:
        assert script.process.wait(30) == 1
        assert "mongod did not start" in script.log()
        assert "Address already in use" in script.log()
