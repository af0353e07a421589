"""Opening files without waiting for a disk, where the system can do so (Linux 5.12 and later)."""

import ctypes
import os
import sys

_OPENAT2 = 437  # on every architecture that Python has been seen on with such a kernel
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH, _CACHED = 0x01, 0x02, 0x04, 0x08, 0x20

_LOCAL = {
    0xEF53,  # ext2, ext3, ext4
    0x58465342,  # XFS
    0x9123683E,  # Btrfs
    0xF2F52010,  # F2FS
    0x2FC12FC1,  # ZFS
    0xCA451A4E,  # bcachefs
    0x01021994,  # tmpfs
    0x794C7630,  # overlayfs
}
"""What statfs(2) calls the file systems that open a file they know of without asking anybody."""


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW = _How(_FLAGS, 0, _NO_XDEV | _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH | _CACHED)
_HOW_POINTER, _HOW_SIZE = ctypes.byref(_HOW), ctypes.sizeof(_HOW)


class CachedOpener:
    """Opens what is beneath a root, without ever waiting or being led out of it.

    The kernel walks the path through what it has in memory alone (RESOLVE_CACHED), follows no symbolic link
    and enters nothing that is mounted there. On file systems of other machines an open is a question to
    them all the same, so that nothing is opened there.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._libc: ctypes.PyDLL | None = None
        if sys.platform == "linux":
            # Unlike CDLL it keeps the interpreter's lock, which to take again may last longer than the call.
            libc = ctypes.PyDLL(None)
            libc.syscall.argtypes = (
                ctypes.c_long,
                ctypes.c_long,
                ctypes.c_char_p,
                ctypes.c_void_p,
                ctypes.c_size_t,
            )
            libc.syscall.restype = ctypes.c_long
            if _kind(libc, root) in _LOCAL:
                self._libc = libc

    def open(self, path: str) -> int | None:
        """A descriptor of what is at the path, which the caller closes; None where nothing is, or where that
        cannot be said without waiting, or not on this system."""
        if self._libc is None:
            return None
        descriptor: int = self._libc.syscall(_OPENAT2, self._root, os.fsencode(path), _HOW_POINTER, _HOW_SIZE)
        return None if descriptor < 0 else descriptor


def _kind(libc: ctypes.PyDLL, descriptor: int) -> int | None:
    """The kind of file system that holds the file: the first field of what statfs(2) says."""
    said = (ctypes.c_ulong * 64)()
    return said[0] if libc.fstatfs(descriptor, said) == 0 else None
