"""The films and the MongoDB that all contestants share, and the length of a run."""

import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from gridfs import GridFSBucket

from benchmarks.client import Client
from benchmarks.contestants import CONTESTANTS, ROOT, Place
from benchmarks.servers import Server, free_port, stopped_at_the_end
from deploy.run_gridfs import Mongod

MIB = 1 << 20


@dataclass(frozen=True)
class Effort:
    """The size of a benchmark: seconds and seeks per run, rounds, the bytes of the films in a folder and in
    GridFS and of an upload, and the seconds after which no run starts (without preparations)."""

    seconds: float
    rounds: int
    seeks: int
    film: int
    gridfs_film: int
    upload: int
    within: float


FULL = Effort(1.0, rounds=7, seeks=200, film=1024 * MIB, gridfs_film=96 * MIB, upload=256 * MIB, within=1860)
COMPARISON = Effort(
    1.0, rounds=5, seeks=100, film=128 * MIB, gridfs_film=64 * MIB, upload=64 * MIB, within=math.inf
)
QUICK = Effort(0.5, rounds=3, seeks=50, film=128 * MIB, gridfs_film=64 * MIB, upload=64 * MIB, within=240)


@dataclass
class Testbed:
    """The environment of all runs. `small` is a file of 1 MiB for warming up, `upload` one of `effort.upload`
    bytes; `deadline` is a time of time.monotonic(); `checked` holds the contestants and kinds whose uploads
    have been compared."""

    effort: Effort
    servers: dict[str, Server]
    mongod: Mongod
    small: Path
    upload: Path
    deadline: float
    checked: set[tuple[str, str]] = field(default_factory=set)


@contextmanager
def prepared(effort: Effort, names: set[str], before: Path = ROOT) -> Iterator[Testbed]:
    """Prepare the films and these contestants; on exit, stop all processes and remove all files.

    `before` is a folder with the code of an earlier commit, for the contestants that run it.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seekable-bench-")))
        servers = stack.enter_context(stopped_at_the_end())
        mongod = Mongod(folder / "mongod", free_port())
        if any(CONTESTANTS[name].gridfs for name in names):
            stack.callback(mongod.stop)
            mongod.start().lead()
        for name in sorted(names | {"Seekable"}):
            contestant = CONTESTANTS[name]
            home = folder / name.replace(" ", "-")
            films = home / "films" if contestant.own_library else folder / "films"
            films.mkdir(parents=True, exist_ok=True)
            place = Place(
                code=before if contestant.before else ROOT,
                films=films,
                home=home,
                port=free_port(),
                mongodb=mongod.url("before" if contestant.own_library else "films"),
            )
            film = folder / "short.mp4" if contestant.gridfs else films / "film.mp4"
            servers[name] = Server(contestant, place, film)
        testbed = Testbed(effort, servers, mongod, folder / "small.bin", folder / "upload.bin", math.inf)
        _make_films(testbed, folder)
        testbed.deadline = time.monotonic() + effort.within
        yield testbed


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _make_films(testbed: Testbed, folder: Path) -> None:
    """Upload the films through Seekable, so that it has indexed them before the first run."""
    film, short = folder / "film.bin", folder / "short.mp4"
    _fill(testbed.small, MIB)
    _fill(testbed.upload, testbed.effort.upload)
    _fill(film, testbed.effort.film)
    ours = [server for server in testbed.servers.values() if server.contestant.film == "/files/film.mp4"]
    if any(server.contestant.gridfs for server in testbed.servers.values()):
        _fill(short, testbed.effort.gridfs_film)
    for server in ours:
        server.start()
        _upload(server, short if server.contestant.gridfs else film, "/files/film.mp4")
    film.write_text("pong\n")
    _upload(testbed.servers["Seekable"], film, "/files/ping.txt")
    film.unlink()
    if tutorial := testbed.servers.get("GridFS tutorial"):
        # As the tutorial stores a film: in chunks of the driver's default length.
        with testbed.mongod.direct() as client, short.open("rb") as opened:
            name = tutorial.contestant.film.removeprefix("/")
            GridFSBucket(client["films"]).upload_from_stream(name, opened)


def _upload(server: Server, file: Path, path: str) -> None:
    Client("put", server.at(path), file=str(file)).result()


def _fill(path: Path, size: int) -> None:
    """Fill a file with random bytes, so that neither compression nor deduplication helps."""
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
