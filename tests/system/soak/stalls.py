"""Print how long sendfile(2) blocks when the pages of a range leave memory after they were probed.

Run by hand: `python tests/system/soak/stalls.py FOLDER`, on the disk to measure. Writes 256 MiB there.
"""

import os
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

SIZE = 256 << 20
PAGE = 4096
ROUNDS = 25
PAUSE_S = 0.3
"""Seconds before each range, so that the disk is idle."""


def stall(server: socket.socket, file: int, size: int) -> tuple[float, int]:
    """Send a random range from the disk; return the longest call in seconds and the reads of the disk."""
    at = random.randrange((SIZE - size) // PAGE) * PAGE
    stop = at + size
    os.pread(file, size, at)
    os.preadv(file, [bytearray(1)], stop - 1, os.RWF_NOWAIT)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    time.sleep(PAUSE_S)
    before, longest = reads_of_disk(file), 0.0
    while at < stop:
        began = time.perf_counter()
        at += os.sendfile(server.fileno(), file, at, stop - at)
        longest = max(longest, time.perf_counter() - began)
    return longest, reads_of_disk(file) - before


def reads_of_disk(file: int) -> int:
    device = os.fstat(file).st_dev
    return int(Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()[0])


def discard(client: socket.socket) -> None:
    while client.recv(1 << 20, socket.MSG_TRUNC):
        pass


def main() -> None:
    with (
        tempfile.NamedTemporaryFile(dir=sys.argv[1]) as film,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as server,
    ):
        client, _ = listener.accept()
        server.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20
        )  # so that no call waits for the client
        threading.Thread(target=discard, args=(client,), daemon=True).start()
        for _ in range(SIZE >> 20):
            film.write(os.urandom(1 << 20))
        film.flush()
        os.fsync(film.fileno())
        for size in (64 << 10, 128 << 10, 1 << 20):
            found = [stall(server, film.fileno(), size) for _ in range(ROUNDS)]
            times = [1000 * seconds for seconds, _ in found]
            reads = statistics.median(count for _, count in found)
            print(
                f"{size >> 10:5} KiB: median {statistics.median(times):.1f} ms, longest {max(times):.1f} ms, "
                f"{reads:.0f} reads of the disk"
            )
        server.shutdown(socket.SHUT_RDWR)
        client.close()


if __name__ == "__main__":
    main()
