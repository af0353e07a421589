"""Compare a file with what its row records, without reading a byte of it."""

from dataclasses import dataclass
from enum import Enum

from app.storage.signatures import Signature


class Likeness(Enum):
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
class Identity:
    """A file's signature and the device that it is on; None is unknown."""

    signature: Signature
    device: int | None


def likeness(known: Identity, found: Identity) -> Likeness:
    """Return how a file that was found compares with the one that a row records.

    The device counts only when the ctime differs: after a reboot a disk may have another number. A row of an
    earlier release has no ctime, and is taken at its word.
    """
    before, now = known.signature, found.signature
    if before.size != now.size:
        return Likeness.DIFFERENT
    if (before.inode, before.mtime_ns) != (now.inode, now.mtime_ns):
        return Likeness.LOOKALIKE
    if before.ctime_ns in (None, now.ctime_ns):
        return Likeness.SAME
    return Likeness.UNPROVEN if known.device in (None, found.device) else Likeness.LOOKALIKE
