"""Clients that wait for one answer at a time, and say how long."""

import os
import random
import time
from contextlib import suppress

from benchmarks.wire import Target, Unexpected, body_length, receive_head


def seek(target: Target, *, count: int) -> dict[str, float]:
    """Each on a new connection: from connect() to the first byte of the body, which begins anywhere.

    As players do, it asks for all from there, and leaves when it has seen enough.
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
        time.sleep(0.003)  # the server notices that it left
    return _times(waited)


def ping(target: Target, *, seconds: float) -> dict[str, float]:
    """A small answer every 10 ms, on one connection, while others load the server."""
    with suppress(
        OSError
    ):  # only root may: it is the server's delay that counts, not the wait for a processor
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
