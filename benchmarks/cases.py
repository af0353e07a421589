"""The cases, their contestants, and the goals for our figures."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import runs, verify
from benchmarks.contestants import BEFORE, BEFORE_GRIDFS, SLOW_PATH
from benchmarks.runs import Run
from benchmarks.servers import Server
from benchmarks.testbed import MIB

KIB = 1 << 10

ALL = ("nginx", "Caddy", "aiohttp", "Starlette", "tutorial", "Seekable", "Seekable GridFS")
FEW = ("nginx", "Starlette", "Seekable")
GRIDFS = ("GridFS tutorial", "Seekable GridFS")
OURS = ("Seekable", "Seekable GridFS")
LOGGED = ("nginx, log", "Seekable, log")
PROGRESS = (BEFORE, "Seekable")
GRIDFS_PROGRESS = (BEFORE_GRIDFS, "Seekable GridFS")


def _whole(server: Server) -> None:
    verify.whole(server, server.contestant.film, server.film)


def _ranges(length: int) -> Callable[[Server], None]:
    return lambda server: verify.ranges(server, length)


@dataclass(frozen=True)
class Case:
    """One measurement. Ratios are to the first of `contestants`; quick mode runs only those in `quick`.

    With `fresh` every run starts a new server; that is slow, so quick mode has one round. `check` compares
    the bytes once, before the first round; uploads are compared in every run. `rounds` limits the rounds of a
    figure that hardly varies.
    """

    name: str
    title: str
    run: Run
    contestants: tuple[str, ...]
    quick: tuple[str, ...]
    check: Callable[[Server], None] | None = None
    fresh: bool = False
    rounds: int = 7


CASES = [
    Case("one", "One client, whole films", runs.downloads(1), ALL, FEW, _whole),
    Case("16", "16 clients, whole films", runs.downloads(16), ALL, FEW, _whole),
    Case("64", "64 clients, whole films", runs.downloads(64), ALL, (), _whole),
    Case("1m", "Ranges of 1 MiB, 8 clients", runs.downloads(8, MIB), (*ALL, BEFORE), FEW, _ranges(MIB)),
    Case(
        "64k", "Ranges of 64 KiB, 8 clients", runs.downloads(8, 64 * KIB), (*ALL, BEFORE, SLOW_PATH), FEW,
        _ranges(64 * KIB),
    ),
    Case(
        "64k-log", "Ranges of 64 KiB, 8 clients, with the access log", runs.downloads(8, 64 * KIB),
        LOGGED, LOGGED, _ranges(64 * KIB),
    ),
    Case("seek", "Seek on a new connection, to the first byte", runs.seeks, ALL, FEW, _ranges(64 * KIB)),
    Case(
        "ping", "A small answer while 16 download", runs.pings(downloads=16), (*ALL, BEFORE),
        ("nginx", *OURS), _whole,
    ),
    Case(
        "ping-lists", "A small answer while 8 list 1,000 files", runs.pings(listers=8), (BEFORE, *OURS), OURS,
        runs.list_exists,
    ),
    Case("gridfs", "GridFS, one client, whole films", runs.downloads(1), GRIDFS, GRIDFS, _whole),
    Case(
        "gridfs-1m", "GridFS, ranges of 1 MiB, 8 clients", runs.downloads(8, MIB),
        (*GRIDFS, BEFORE_GRIDFS), GRIDFS, _ranges(MIB),
    ),
    Case(
        "gridfs-64k", "GridFS, ranges of 64 KiB, 8 clients", runs.downloads(8, 64 * KIB),
        (*GRIDFS, BEFORE_GRIDFS), (), _ranges(64 * KIB),
    ),
    Case(
        "gridfs-asked", "Bytes that mongod sends for each requested byte", runs.mongod_traffic, GRIDFS,
        GRIDFS,
    ),
    Case("put-1k", "PUT of 1 KB, one client", runs.small_uploads(1), PROGRESS, PROGRESS),
    Case("put-1k-16", "PUT of 1 KB, 16 clients", runs.small_uploads(16), PROGRESS, PROGRESS),
    Case(
        "gridfs-put-1k", "GridFS, PUT of 1 KB, one client", runs.small_uploads(1), GRIDFS_PROGRESS,
        GRIDFS_PROGRESS,
    ),
    Case(
        "gridfs-put-1k-16", "GridFS, PUT of 1 KB, 16 clients", runs.small_uploads(16), GRIDFS_PROGRESS,
        GRIDFS_PROGRESS,
    ),
    Case("list", "A list of 1,000 files", runs.lists, PROGRESS, PROGRESS, runs.list_exists),
    Case(
        "gridfs-list", "GridFS, a list of 1,000 files", runs.lists, GRIDFS_PROGRESS, GRIDFS_PROGRESS,
        runs.list_exists,
    ),
    Case(
        "put", "Upload by PUT", runs.uploads("put"), ("nginx", *OURS), ("nginx", "Seekable"), fresh=True,
    ),
    Case(
        "form", "Upload by form", runs.uploads("form"), ("FastAPI form", "FastAPI read()", "Seekable"),
        ("FastAPI form", "Seekable"), fresh=True,
    ),
    Case("gridfs-form", "GridFS, upload by form", runs.uploads("form"), GRIDFS, GRIDFS, fresh=True),
    Case(
        "start", "Start, and memory without clients", runs.start, (BEFORE, *OURS), OURS, fresh=True,
        rounds=5,
    ),
    Case(
        "slow-256", "256 slow readers", runs.slow_readers(256),
        ("nginx", "Starlette", *OURS, "GridFS tutorial"), (), fresh=True, rounds=3,
    ),
    Case(
        "slow-1000", "1,000 slow readers", runs.slow_readers(1000), ("nginx", "Starlette", *OURS), OURS,
        fresh=True, rounds=3,
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Goal:
    """A target for a figure of ours, or for its ratio to the figure of `over`."""

    case: str
    figure: str
    at_least: float | None = None
    at_most: float | None = None
    over: str | None = None
    who: str = "Seekable"

    def is_met(self, found: float) -> bool:
        return (self.at_least is None or found >= self.at_least) and (
            self.at_most is None or found <= self.at_most
        )


GRID, GRID_TUTORIAL = "Seekable GridFS", "GridFS tutorial"
GOALS = [
    Goal("one", "GB/s", at_least=0.95, over="nginx"),
    Goal("16", "GB/s", at_least=0.95, over="nginx"),
    Goal("64", "GB/s", at_least=0.9, over="nginx"),
    Goal("1m", "ranges/s", at_least=0.95, over="nginx"),
    Goal("64k", "ranges/s", at_least=0.8, over="nginx"),
    Goal("64k-log", "ranges/s", at_least=0.6, over="nginx, log", who="Seekable, log"),
    Goal("one", "CPU-s/GB", at_most=1.1, over="nginx"),
    Goal("seek", "p50 ms", at_most=1.3, over="nginx"),
    Goal("one", "GB/s", at_least=5, over="Starlette"),
    Goal("64k", "ranges/s", at_least=8, over="Starlette"),
    Goal("gridfs", "GB/s", at_least=15, over=GRID_TUTORIAL, who=GRID),
    Goal("gridfs", runs.BOUND_SHARE, at_least=0.8, who=GRID),
    Goal("gridfs-1m", "ranges/s", at_least=15, over=GRID_TUTORIAL, who=GRID),
    Goal("gridfs-asked", "whole film", at_most=1.2, who=GRID),
    Goal("gridfs-asked", "1 MiB ranges", at_most=1.2, who=GRID),
    Goal("put-1k", "answers/s", at_least=3, over=BEFORE),
    Goal("put-1k-16", "answers/s", at_least=5, over=BEFORE),
    Goal("gridfs-put-1k", "answers/s", at_least=3, over=BEFORE_GRIDFS, who=GRID),
    Goal("gridfs-put-1k-16", "answers/s", at_least=5, over=BEFORE_GRIDFS, who=GRID),
    Goal("put", "GB/s", at_least=1.1, over="nginx"),
    Goal("form", "GB/s", at_least=1.5, over="FastAPI form"),
    Goal("list", "CPU ms", at_most=8),
    Goal("gridfs-list", "CPU ms", at_most=8, who=GRID),
    *(
        Goal(case, figure, at_most=limit, who=who)
        for case, figure, limit in [
            ("ping", "worst ms", 20), ("ping", "p99 ms", 10), ("ping-lists", "p99 ms", 10),
            ("start", "ready after s", 1), ("start", "idle RSS MiB", 86),
        ]
        for who in OURS
    ),
    Goal("slow-1000", "RSS growth MiB", at_most=25),
    Goal("slow-1000", "RSS growth MiB", at_most=150, who=GRID),
    Goal("put", "RSS growth MiB", at_most=10),
    Goal("form", "RSS growth MiB", at_most=10),
    Goal("put", "RSS growth MiB", at_most=10, who=GRID),
    Goal("gridfs-form", "RSS growth MiB", at_most=10, who=GRID),
]  # fmt: skip
