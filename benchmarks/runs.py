"""Runs: each measures one contestant once and returns its figures."""

import os
import random
import time
from collections.abc import Callable

from app.database.gridfs.bucket import CHUNK_SIZE
from benchmarks import verify
from benchmarks.client import Client, Failed
from benchmarks.measure import forget_peak, memory, processor_time, wait_until_idle
from benchmarks.servers import Server
from benchmarks.testbed import MIB, Testbed
from benchmarks.wire import Target, Unexpected

Figures = dict[str, float]
Run = Callable[[Server, Testbed], Figures]

BUSY = "client busy"
"""Fraction of a run in which the client used the processor; near 1 the client was the bottleneck."""


GRIDFS_BOUND = 1.6
"""GB/s that two cores of the machine in docs/benchmarks.md can send from GridFS at best, with the work of
mongod, of decoding and of sending; a server reaches a share of it."""
BOUND_SHARE = f"of {GRIDFS_BOUND} GB/s"


def downloads(connections: int, length: int | None = None) -> Run:
    """Return a run that downloads whole films, or ranges of one length, on connections that stay open."""

    def run(server: Server, testbed: Testbed) -> Figures:
        before = _processor(server, testbed)
        found = Client(
            "download",
            server.target,
            connections=connections,
            length=length,
            seconds=testbed.effort.seconds,
        ).result()
        used = [now - then for now, then in zip(_processor(server, testbed), before, strict=True)]
        rate, done, unit = found["bytes"] / 1e9, found["all_bytes"] / 1e9, "CPU-s/GB"
        if length is not None:
            rate, done, unit = found["answers"], found["all_answers"] / 1e6, "CPU µs"
        if not done:
            raise Failed(f"nothing was complete within {2 * testbed.effort.seconds:g} s")
        figures = {
            "GB/s" if length is None else "ranges/s": rate / found["seconds"],
            unit: used[0] / done,
            BUSY: found["busy"],
        }
        if server.contestant.gridfs:
            figures[f"mongod {unit}"] = used[1] / done
            figures[BOUND_SHARE] = found["bytes"] / found["seconds"] / (GRIDFS_BOUND * 1e9)
        return figures

    return run


def _processor(server: Server, testbed: Testbed) -> tuple[float, float]:
    mongod = testbed.mongod.process if server.contestant.gridfs else None
    return processor_time(server.pid), processor_time(mongod.pid) if mongod else 0.0


def seeks(server: Server, testbed: Testbed) -> Figures:
    """Measure the time to the first byte of a range in the middle, on new connections."""
    found = Client("seek", server.target, count=testbed.effort.seeks).result()
    return {"p50 ms": found["p50"] * 1e3, "p99 ms": found["p99"] * 1e3}


def pings(*, downloads: int = 0, listers: int = 0) -> Run:
    """Return a run that requests the smallest response every 10 ms, while other clients load the server."""

    def run(server: Server, testbed: Testbed) -> Figures:
        seconds = max(1.0, 2 * testbed.effort.seconds)
        if downloads:
            load = Client("download", server.target, connections=downloads, length=None, seconds=seconds + 1)
        else:
            load = Client("get", server.at(LIST), connections=listers, seconds=seconds + 1)
        time.sleep(0.5)
        try:
            found = Client("ping", server.at(server.contestant.ping), seconds=seconds).result()
        finally:
            load.result()
        return {"worst ms": found["worst"] * 1e3, "p99 ms": found["p99"] * 1e3}

    return run


def start(server: Server, testbed: Testbed) -> Figures:
    """Measure the time from exec(2) to a server that is ready, and the memory of one without clients."""
    time.sleep(2)  # what the server does after its start is over
    wait_until_idle(server.pid)
    return {"ready after s": server.ready_after, "idle RSS MiB": memory(server.pid) / MIB}


def slow_readers(count: int) -> Run:
    """Return a run that measures the memory for clients that read 8 KiB, then 4 KiB per second."""

    def run(server: Server, testbed: Testbed) -> Figures:
        verify.ranges(server, MIB, 2)
        forget_peak(server.pid)
        idle = memory(server.pid)
        seconds = 4 + count / 250  # long enough for the read-ahead of every client
        found = Client("slow", server.target, connections=count, seconds=seconds).result()
        growth = memory(server.pid, peak=True) - idle
        if found["going"] < count:
            raise Failed(
                f"{found['answered']:.0f} of {count} got a response, {found['going']:.0f} until the end"
            )
        return {"RSS growth MiB": growth / MIB}

    return run


def uploads(kind: str) -> Run:
    """Return a run that uploads a file by `put` or `form`, after a sync of the disks."""

    def run(server: Server, testbed: Testbed) -> Figures:
        address = getattr(server.contestant, kind)
        stored = server.contestant.stored.format("upload.mp4")
        options = {"name": "upload.mp4"} if kind == "form" else {}
        target = server.at(address.format("upload.mp4"))
        Client(kind, target, file=str(testbed.small), **options).result()
        verify.whole(server, stored, testbed.small)
        verify.remove(server, stored)
        os.sync()
        forget_peak(server.pid)
        idle, used = memory(server.pid), processor_time(server.pid)
        found = Client(kind, target, file=str(testbed.upload), **options).result()
        growth, used = memory(server.pid, peak=True) - idle, processor_time(server.pid) - used
        if (server.name, kind) not in testbed.checked:
            verify.whole(server, stored, testbed.upload)
            testbed.checked.add((server.name, kind))
        verify.remove(server, stored)
        gigabytes = testbed.effort.upload / 1e9
        return {
            "GB/s": gigabytes / found["seconds"],
            "CPU-s/GB": used / gigabytes,
            "RSS growth MiB": growth / MIB,
            BUSY: found["busy"],
        }

    return run


def small_uploads(connections: int, size: int = 1 << 10) -> Run:
    """Return a run that uploads small files under new names, on connections that stay open."""

    def run(server: Server, testbed: Testbed) -> Figures:
        return _exchanges(
            "put-small", server.at(f"/files/{connections}"), server, testbed,
            connections=connections, size=size,
        )  # fmt: skip

    return run


def lists(server: Server, testbed: Testbed) -> Figures:
    """Measure lists of 1,000 files, one after the other."""
    return _exchanges("get", server.at(LIST), server, testbed, connections=1)


def _exchanges(kind: str, target: Target, server: Server, testbed: Testbed, **options: int) -> Figures:
    before = _processor(server, testbed)
    found = Client(kind, target, seconds=testbed.effort.seconds, **options).result()
    used = [now - then for now, then in zip(_processor(server, testbed), before, strict=True)]
    answers = found["all_answers"]
    return {
        "answers/s": found["answers"] / found["seconds"],
        "p50 ms": found["p50"] * 1e3,
        "p99 ms": found["p99"] * 1e3,
        "CPU ms": used[0] / answers * 1e3,
        BUSY: found["busy"],
        **({"mongod CPU ms": used[1] / answers * 1e3} if server.contestant.gridfs else {}),
    }


LISTED = 1000
LIST = f"/files?folder=list&limit={LISTED}"


def list_exists(server: Server) -> None:
    """Upload the files of the list if they are missing. Raises Unexpected if it then lacks any."""
    paths = [f"/files/list/A film with a usual name, {number:04}.mp4" for number in range(LISTED)]
    if verify.number_listed(server, LIST) < LISTED:
        verify.fill(server, paths)
    if (found := verify.number_listed(server, LIST)) != LISTED:
        raise Unexpected(f"The list has {found} files, not {LISTED}.")


def mongod_traffic(server: Server, testbed: Testbed) -> Figures:
    """Measure the bytes that mongod sends per byte of a whole film, of ranges of 1 MiB, and of their chunks.

    A chunk is the smallest unit of a query, so the last ratio is 1 at best.
    """
    size, count = server.film.stat().st_size, 16
    before = _sent(testbed)
    verify.whole(server, server.contestant.film, server.film)
    between = _sent(testbed)
    state = random.getstate()
    verify.ranges(server, MIB, count)
    after = _sent(testbed)
    random.setstate(state)  # the same ranges, to count their chunks
    starts = [random.randrange(size - MIB) for _ in range(count)]
    chunks = sum((start + MIB - 1) // CHUNK_SIZE - start // CHUNK_SIZE + 1 for start in starts)
    return {
        "1 MiB ranges": (after - between) / (count * MIB),
        "chunks of ranges": (after - between) / (chunks * CHUNK_SIZE),
        "whole film": (between - before) / size,
    }


def _sent(testbed: Testbed) -> int:
    with testbed.mongod.direct() as client:
        return client.admin.command("serverStatus")["network"]["bytesOut"]  # type: ignore[no-any-return]
