"""Whether a file still holds the bytes that its row records, as far as stat(2) reveals."""

import ctypes
import errno
import fcntl
import os
import signal
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache

_MAX_NS = (1 << 63) - 2

TICK_S = 0.02
"""Seconds within which two changes may get the same time: a tick of the kernel's clock."""

COARSE_TICK_S = 2
"""The same on file systems that store whole seconds, or only even ones."""


def tick_s(time_ns: int, fine_s: float = TICK_S) -> float:
    """Return for how many seconds a later change may get this same time: `fine_s` if it has a fraction."""
    return fine_s if time_ns % 1_000_000_000 else COARSE_TICK_S


@dataclass(frozen=True, slots=True)
class FileStat:
    """The fields of stat(2) that change when the bytes of a file change."""

    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int | None = None
    """The time of the last change of any kind; None in rows of earlier releases."""

    @classmethod
    def of(cls, status: os.stat_result) -> "FileStat":
        inode = to_signed(status.st_ino)
        return cls(status.st_size, _bounded(status.st_mtime_ns), inode, _bounded(status.st_ctime_ns))

    def agrees_with(self, found: "FileStat") -> bool:
        """Return whether a file is the recorded one, unchanged as far as the record shows."""
        return found == (self if self.ctime_ns is not None else replace(self, ctime_ns=found.ctime_ns))

    def ambiguous_for_s(self, now_ns: int) -> float:
        """Return for how many more seconds a change may go unnoticed because it gets the recorded ctime.

        Returns 0 if no ctime is recorded, or one in the future.
        """
        if self.ctime_ns is None or self.ctime_ns > now_ns:
            return 0
        return max(0, tick_s(self.ctime_ns) - (now_ns - self.ctime_ns) / 1e9)


def _bounded(time_ns: int) -> int:
    """Return the time, or the last one that a database's integer holds: dates after 2262 exceed it."""
    return max(-_MAX_NS, min(time_ns, _MAX_NS))


def to_signed(number: int) -> int:
    """Convert an inode or device number, an unsigned 64-bit integer, to a database's signed one."""
    return number - (1 << 64) if number >> 63 else number


class Match(Enum):
    """The result of comparing a file with its row."""

    SAME = "same"
    """No system call has changed the file since, as far as the row shows."""
    UNPROVEN = "unproven"
    """The same inode, size and modification time, but another ctime: chmod, an extended attribute, a link, a
    rename, or an edit that restored the time."""
    LOOKALIKE = "lookalike"
    """The same size, but another inode or modification time: a restored backup, `touch`, or other bytes."""
    DIFFERENT = "different"
    """Another size."""


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """The status of a file and its device; None if unknown."""

    stat: FileStat
    device: int | None


def compare(known: FileIdentity, found: FileIdentity) -> Match:
    """Compare a file with the one that a row records.

    The device counts only when the ctime differs: after a reboot a disk may have another number. The row of
    an earlier release has no ctime, and counts as matching.
    """
    before, now = known.stat, found.stat
    if before.size != now.size:
        return Match.DIFFERENT
    if (before.inode, before.mtime_ns) != (now.inode, now.mtime_ns):
        return Match.LOOKALIKE
    if before.ctime_ns in (None, now.ctime_ns):
        return Match.SAME
    return Match.UNPROVEN if known.device in (None, found.device) else Match.LOOKALIKE


def has_writer(descriptor: int, expected: FileStat) -> bool | None:
    """Return whether any process has the file open for writing; None if unknown.

    Also returns True if the file is not as expected, because a process has just written to it. A read lease
    is granted only while no process has the file open or mapped for writing (Linux: fcntl(2), F_SETLEASE).
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return None
    libc = _libc()
    # The default signal of a broken lease would end this process; SIGURG is ignored by default.
    libc.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
    if libc.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK) != 0:
        # EACCES: another user's file; EINVAL: a file system without leases
        return True if ctypes.get_errno() == errno.EAGAIN else None
    libc.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    try:
        return FileStat.of(os.fstat(descriptor)) != expected
    except OSError:
        return None


@cache
def _libc() -> ctypes.PyDLL:
    """Return the C library, with calls that keep the GIL: acquiring it again may take long, and while the
    file has a lease, a program that opens it for writing blocks, or fails (O_NONBLOCK)."""
    return ctypes.PyDLL(None, use_errno=True)
