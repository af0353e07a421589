"""Signatures of files: which bytes a file holds, as far as can be told without reading them."""

import ctypes
import errno
import fcntl
import os
import signal
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache

_LAST_NS = (1 << 63) - 2

TICK_S = 0.02
"""Seconds within which two changes may get the same ctime, by the tick of the kernel's clock."""

COARSE_TICK_S = 2
"""The same on file systems that keep whole seconds, or even ones."""


@dataclass(frozen=True, slots=True)
class FileStat:
    """Which bytes a file holds, as far as can be told without reading them."""

    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int | None = None
    """When anything happened to the file last; None where an earlier release recorded none."""

    @classmethod
    def of(cls, status: os.stat_result) -> "FileStat":
        """Return the signature of a file with this status."""
        inode = signed(status.st_ino)
        return cls(status.st_size, _bounded(status.st_mtime_ns), inode, _bounded(status.st_ctime_ns))

    def agrees_with(self, found: "FileStat") -> bool:
        """Return whether a file that was found is the recorded one, untouched since as far as is recorded."""
        return found == (self if self.ctime_ns is not None else replace(self, ctime_ns=found.ctime_ns))

    def ambiguous_for_s(self, now_ns: int) -> float:
        """Return for how many more seconds a change may get the ctime that is recorded, and so not show.

        Returns 0 if no ctime is recorded, or one in the future.
        """
        if self.ctime_ns is None or self.ctime_ns > now_ns:
            return 0
        tick_s = TICK_S if self.ctime_ns % 1_000_000_000 else COARSE_TICK_S
        return max(0, tick_s - (now_ns - self.ctime_ns) / 1e9)


def _bounded(time_ns: int) -> int:
    # Dates beyond 2262 do not fit; the last that does stands for all of them.
    return max(-_LAST_NS, min(time_ns, _LAST_NS))


def signed(number: int) -> int:
    """Fit the number of an inode or a device, of 64 bits without a sign, into a database's integer."""
    return number - (1 << 64) if number >> 63 else number


class Match(Enum):
    """How a file compares with its row."""

    SAME = "same"
    """No system call has touched the file since, as far as the row can tell."""
    UNPROVEN = "unproven"
    """The same inode, size and time of modification, and another ctime: chmod, an attribute, another link, a
    rename, or an edit whose time was put back."""
    LOOKALIKE = "lookalike"
    """The same size, and another inode or time of modification: a restored backup, `touch`, other bytes."""
    DIFFERENT = "different"
    """Another size."""


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """A file's signature and the device that it is on; None is unknown."""

    signature: FileStat
    device: int | None


def compare(known: FileIdentity, found: FileIdentity) -> Match:
    """Return how a file that was found compares with the one that a row records.

    The device counts only when the ctime differs: after a reboot a disk may have another number. A row of an
    earlier release has no ctime, and is taken at its word.
    """
    before, now = known.signature, found.signature
    if before.size != now.size:
        return Match.DIFFERENT
    if (before.inode, before.mtime_ns) != (now.inode, now.mtime_ns):
        return Match.LOOKALIKE
    if before.ctime_ns in (None, now.ctime_ns):
        return Match.SAME
    return Match.UNPROVEN if known.device in (None, found.device) else Match.LOOKALIKE


def has_writer(descriptor: int, expected: FileStat) -> bool | None:
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
        return FileStat.of(os.fstat(descriptor)) != expected
    except OSError:
        return None


@cache
def _libc() -> ctypes.PyDLL:
    """Return the C library, whose calls here keep the interpreter's lock. To get it again may take long, and
    while a file has a lease, a program that opens it for writing waits, or fails (O_NONBLOCK)."""
    return ctypes.PyDLL(None, use_errno=True)
