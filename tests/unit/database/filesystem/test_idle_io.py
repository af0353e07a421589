"""The I/O priority of reads that hash files."""

import ctypes
import platform

import pytest

from app.database.filesystem.integrity import idle_io
from tests.support import skip_or_fail

GET = {"x86_64": 252, "aarch64": 31}.get(platform.machine())
IDLE = 3


def io_class() -> int:
    """Return the I/O scheduling class of this thread (ioprio_get(2))."""
    if GET is None:
        skip_or_fail("this architecture has no known number for ioprio_get")
    priority: int = ctypes.CDLL(None).syscall(GET, 1, 0)
    return priority >> 13


def test_idle_io_sets_idle_class_only_inside_context() -> None:
    before = io_class()
    with pytest.raises(ZeroDivisionError), idle_io():
        assert io_class() == IDLE
        raise ZeroDivisionError
    assert io_class() == before != IDLE
