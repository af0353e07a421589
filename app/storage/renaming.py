"""Rename a file to a name that must be free, in one step, where kernel and file system can (renameat2(2))."""

import ctypes
import errno
import os
from functools import cache

_NOREPLACE = 1
_MISSING = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM}
"""Errors of kernels, seccomp filters and file systems (NFS, for one) that lack the flag."""


@cache
def _libc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return None
    text, number = ctypes.c_char_p, ctypes.c_int
    libc.renameat2.argtypes = (number, text, number, text, ctypes.c_uint)
    return libc


def rename_to_free_name(source_folder: int, source: str, folder: int, name: str) -> bool:
    """Rename a file, so that at every moment it has exactly one name.

    Returns False, and does nothing, where the system has no such rename. Raises OSError, and
    FileExistsError if the name is taken.
    """
    libc = _libc()
    if libc is None:
        return False
    if libc.renameat2(source_folder, os.fsencode(source), folder, os.fsencode(name), _NOREPLACE) == 0:
        return True
    error = ctypes.get_errno()
    if error in _MISSING:
        return False
    raise OSError(error, os.strerror(error), name)
