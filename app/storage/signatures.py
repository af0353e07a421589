"""Signatures of files: which bytes a file holds, as far as can be told without reading them."""

import os
from dataclasses import dataclass, replace

_LAST_NS = (1 << 63) - 2


@dataclass(frozen=True, slots=True)
class Signature:
    """Which bytes a file holds, as far as can be told without reading them."""

    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int | None = None
    """When anything happened to the file last; None where an earlier release recorded none."""

    @classmethod
    def of(cls, status: os.stat_result) -> "Signature":
        """Return the signature of a file with this status."""
        inode = signed(status.st_ino)
        return cls(status.st_size, _bounded(status.st_mtime_ns), inode, _bounded(status.st_ctime_ns))

    def agrees_with(self, found: "Signature") -> bool:
        """Return whether a file that was found is the recorded one, untouched since as far as is recorded."""
        return found == (self if self.ctime_ns is not None else replace(self, ctime_ns=found.ctime_ns))


def _bounded(time_ns: int) -> int:
    # Dates beyond 2262 do not fit; the last that does stands for all of them.
    return max(-_LAST_NS, min(time_ns, _LAST_NS))


def signed(number: int) -> int:
    """Fit the number of an inode or a device, of 64 bits without a sign, into a database's integer."""
    return number - (1 << 64) if number >> 63 else number
