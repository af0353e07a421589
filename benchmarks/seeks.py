"""Clients that measure the latency of one response at a time."""

import os
import random
import time
from contextlib import suppress

from benchmarks.wire import Target, Unexpected, body_length, receive_head


def seek(target: Target, *, count: int) -> dict[str, float]:
    """Measure the seconds from connect() to the first byte of a body that starts at a random offset.

    Each request has a new connection. As players do, it selects the rest of the file and leaves early.
    """
    waited = []
    for _ in range(count):
        start = random.randrange(target.size // 4, target.size * 3 // 4)
        begun = time.perf_counter()
        with target.connect() as connection:
            connection.send(target.get(start))
            head, body = receive_head(connection)
            body = body or connection.recv(1)
            waited.append(time.perf_counter() - begun)
        if not body or body_length(head, status=206) != target.size - start:
            raise Unexpected(head[:200].decode("latin-1"))
        time.sleep(0.003)  # time for the server to notice the disconnect
    return _times(waited)


def ping(target: Target, *, seconds: float) -> dict[str, float]:
    """Measure a small response every 10 ms, on one connection, while other clients load the server."""
    # Real-time priority (only root may set it): the client's own wait for a processor is no latency.
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    waited = []
    with target.connect() as connection:
        deadline = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < deadline:
            connection.send(target.get())
            head, body = receive_head(connection)
            left = body_length(head, status=200) - len(body)
            while left > 0:
                left -= len(connection.recv(left))
            waited.append(time.perf_counter() - begun)
            time.sleep(max(0.0, begun + 0.01 - time.perf_counter()))
    return _times(waited)


def _times(waited: list[float]) -> dict[str, float]:
    waited.sort()
    last = len(waited) - 1
    return {"p50": waited[last // 2], "p99": waited[last * 99 // 100], "worst": waited[last]}
