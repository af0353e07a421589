"""Files that other users of the machine have no rights to: hashes of passwords, keys, films of accounts."""

import contextlib
import os
import stat
from pathlib import Path

_OTHERS = 0o077


def make_private(file: int | Path) -> None:
    """Take all rights from other users, where this user may and the file system knows rights."""
    with contextlib.suppress(OSError):
        mode = stat.S_IMODE(os.stat(file).st_mode)
        if mode & _OTHERS:
            os.chmod(file, mode & ~_OTHERS)


def is_exposed(path: Path) -> bool:
    """Return whether other users have any rights to what is there."""
    try:
        return bool(path.stat().st_mode & _OTHERS)
    except OSError:
        return False


def umask() -> int:
    """Return the process's umask. A file that another thread makes meanwhile is private."""
    mask = os.umask(_OTHERS)
    os.umask(mask)
    return mask
