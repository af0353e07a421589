"""Clients on slow lines, which read a few KiB and then a few KiB every second."""

import socket
import time

from benchmarks.wire import Target, body_length

FIRST, THEN = 8 << 10, 4 << 10
BUFFER = 32 << 10
"""Bytes of the receive buffer: small, so that the client's kernel holds little of the file."""


def read_slowly(target: Target, *, connections: int, seconds: float, within: float = 30) -> dict[str, float]:
    """Return how many clients got a response, and how many still received data at the end."""
    readers = []
    for _ in range(connections):
        reader = target.connect(receive_buffer=BUFFER)
        reader.send(target.get())
        readers.append(reader)
    answered, going = 0, []
    deadline = time.monotonic() + within
    for reader in readers:
        reader.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            body_length(reader.recv(FIRST), status=200)
        except TimeoutError:
            continue
        answered += 1
        going.append(reader)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        going = [reader for reader in going if _takes(reader)]
        time.sleep(max(0.0, begun + 1 - time.monotonic()))
    return {"answered": answered, "going": len(going)}


def _takes(reader: socket.socket) -> bool:
    try:
        return bool(reader.recv(THEN))
    except OSError:
        return False
