"""Signatures of files: which bytes a file holds, as far as can be told without reading them."""

import os
from dataclasses import dataclass, replace

_LAST_NS = (1 << 63) - 2

TICK_S = 0.02
"""Seconds within which two changes may get the same ctime, by the tick of the kernel's clock."""

COARSE_TICK_S = 2
"""The same on file systems that keep whole seconds, or even ones."""


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

    def unsure_for_s(self, now_ns: int) -> float:
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
