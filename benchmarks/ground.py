"""What all contestants share: films, a MongoDB, and how long a run is."""

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
from benchmarks.contestants import CONTESTANTS, Place
from benchmarks.servers import Server, free_port, stopped_at_the_end
from deploy.run_gridfs import Mongod

MIB = 1 << 20


@dataclass(frozen=True)
class Effort:
    """How much is done: seconds a run, rounds, seeks a run, the sizes of the films in a folder and in GridFS,
    and the seconds after which nothing more is begun."""

    seconds: float
    rounds: int
    seeks: int
    film: int
    gridfs_film: int
    within: float


FULL = Effort(1.2, rounds=7, seeks=200, film=1024 * MIB, gridfs_film=96 * MIB, within=math.inf)
QUICK = Effort(0.5, rounds=3, seeks=50, film=128 * MIB, gridfs_film=64 * MIB, within=150)


@dataclass
class Ground:
    """Where the contestants meet. `small` is a file of 1 MiB, to warm up with; `deadline` is on the clock of
    time.monotonic(), and `checked` says whose uploads were looked at."""

    effort: Effort
    servers: dict[str, Server]
    mongod: Mongod
    small: Path
    deadline: float
    checked: set[tuple[str, str]] = field(default_factory=set)


@contextmanager
def prepared(effort: Effort, names: set[str]) -> Iterator[Ground]:
    """Films in their places and these contestants ready to start. At the end nothing is left of it."""
    deadline = time.monotonic() + effort.within
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seekable-bench-")))
        servers = stack.enter_context(stopped_at_the_end())
        (folder / "films").mkdir()
        mongod = Mongod(folder / "mongod", free_port())
        if any(CONTESTANTS[name].gridfs for name in names):
            stack.callback(mongod.stop)
            mongod.start().lead()
        for name in sorted(names | {"Seekable"}):
            contestant = CONTESTANTS[name]
            home = folder / name.replace(" ", "-")
            place = Place(folder / "films", home, free_port(), mongod.url("films"))
            film = folder / "short.mp4" if contestant.gridfs else folder / "films" / "film.mp4"
            servers[name] = Server(contestant, place, film)
        ground = Ground(effort, servers, mongod, folder / "small.bin", deadline)
        _make_films(ground, folder)
        yield ground


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _make_films(ground: Ground, folder: Path) -> None:
    """Seekable takes in the films that all serve, so that it knows them from the start."""
    film, short = folder / "film.bin", folder / "short.mp4"
    _fill(ground.small, MIB)
    _fill(film, ground.effort.film)
    ours = ground.servers["Seekable"]
    ours.start()
    upload(ground, ours, film, "/files/film.mp4")
    film.write_text("pong\n")
    upload(ground, ours, film, "/files/ping.txt")
    film.unlink()
    if any(server.contestant.gridfs for server in ground.servers.values()):
        _fill(short, ground.effort.gridfs_film)
    if grid := ground.servers.get("Seekable GridFS"):
        grid.start()
        upload(ground, grid, short, "/files/film.mp4")
    if tutorial := ground.servers.get("GridFS tutorial"):
        # As whoever follows it stores a film: in chunks of the length that the driver makes.
        with ground.mongod.direct() as client, short.open("rb") as opened:
            name = tutorial.contestant.film.removeprefix("/")
            GridFSBucket(client["films"]).upload_from_stream(name, opened)


def upload(ground: Ground, server: Server, file: Path, path: str) -> dict[str, float]:
    return Client("put", server.at(path), file=str(file)).result()


def _fill(path: Path, size: int) -> None:
    """With what cannot be compressed, and has no two parts that are alike."""
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
