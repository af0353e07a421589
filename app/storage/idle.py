"""Read a disk only while no other program wants it (Linux: ioprio_set(2))."""

import contextlib
import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_CALL = {"x86_64": 251, "aarch64": 30}.get(platform.machine())
_THIS_THREAD = (1, 0)  # IOPRIO_WHO_PROCESS, which means a thread; 0 is the caller
_IDLE, _DEFAULT = 3 << 13, 0


@contextmanager
def idle_io() -> Iterator[None]:
    """Give the reads of this thread the class IDLE, on schedulers that have it (bfq, mq-deadline).

    Does nothing where the system has no such call.
    """
    _set(_IDLE)
    try:
        yield
    finally:
        _set(_DEFAULT)


def _set(priority: int) -> None:
    if sys.platform == "linux" and _CALL is not None:
        with contextlib.suppress(OSError):
            _libc().syscall(_CALL, *_THIS_THREAD, priority)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
