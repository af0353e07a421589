"""What can be asked of an open file."""

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import sys
from functools import cache

from app.storage.folders import translated
from app.storage.signatures import Signature

_NO_WAIT = getattr(os, "RWF_NOWAIT", 0)  # Linux only
_PIECE = 256 << 10
_ONE = [bytearray(1)]  # for a byte that nobody wants


def has_writer(descriptor: int, expected: Signature) -> bool | None:
    """Return whether any process has the file open for writing; None where the system cannot tell.

    While a process holds a read lease, no other can have the file open for writing, or mapped for it (Linux:
    fcntl(2), F_SETLEASE). True also if the file is not as expected: it was written to just now.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return None
    libc = _libc()
    # The signal that another program waits for the lease would end this process if it were the default one;
    # this one is ignored unless asked for.
    libc.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
    if libc.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK) != 0:
        # EACCES: another user's file; EINVAL: a file system without leases
        return True if ctypes.get_errno() == errno.EAGAIN else None
    libc.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    try:
        return Signature.of(os.fstat(descriptor)) != expected
    except OSError:
        return None


@cache
def _libc() -> ctypes.PyDLL:
    """Return the C library, whose calls here keep the interpreter's lock. To get it again may take long, and
    while a file has a lease, a program that opens it for writing waits, or fails (O_NONBLOCK)."""
    return ctypes.PyDLL(None, use_errno=True)


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
    with translated():
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
