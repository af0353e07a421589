"""What can be asked of an open file."""

import contextlib
import os
import sys

from app.database.filesystem.posix import map_os_errors

_NO_WAIT = getattr(os, "RWF_NOWAIT", 0)  # Linux only
_PIECE = 256 << 10
_ONE = [bytearray(1)]  # for a byte that nobody wants


def read_nowait(descriptor: int, start: int, size: int) -> bytes | None:
    """What `read` would give, when all of it is in the page cache; None when it is not, or nobody knows."""
    if not _NO_WAIT:
        return None
    buffer = bytearray(size)
    try:
        complete = os.preadv(descriptor, [buffer], start, _NO_WAIT) == size
    except OSError:  # EAGAIN: it is not; EOPNOTSUPP: nobody knows (tmpfs). A real fault shows in `read`.
        return None
    return bytes(buffer) if complete else None


def read(descriptor: int, start: int, size: int) -> bytes:
    """Up to `size` bytes from `start`; fewer only where the file ends."""
    with map_os_errors():
        data = os.pread(descriptor, size, start)
        while 0 < len(data) < size:
            more = os.pread(descriptor, size - len(data), start + len(data))
            if not more:
                break
            data += more
        return data


def is_cached(descriptor: int, start: int, stop: int) -> bool:
    """Whether the bytes [start, stop) are in the page cache, going by the first and the last of them."""
    if not _NO_WAIT:
        return False
    try:
        for position in {start, stop - 1}:
            os.preadv(descriptor, _ONE, position, _NO_WAIT)
    except OSError:  # EAGAIN: they are not; EOPNOTSUPP: nobody knows. A real fault shows in `preload`.
        return False
    return True


def preload(descriptor: int, start: int, stop: int) -> None:
    """Have the bytes [start, stop) in the page cache."""
    for position in range(start, stop, _PIECE):
        read(descriptor, position, min(_PIECE, stop - position))


def begin_write_back(descriptor: int, start: int, stop: int) -> None:
    """Have the system bring the bytes [start, stop) of a file to the disk, without waiting for it and without
    knowing that it did: for that there is fsync. Does nothing where the system cannot be told."""
    if sys.platform == "linux":
        # What it is made for is to drop pages from memory. It writes dirty ones first, and does not wait for
        # them, so that these stay. sync_file_range(2), which does just that, is not in Python.
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)
