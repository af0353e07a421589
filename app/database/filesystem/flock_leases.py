"""Leases as locks of the kernel, for processes of one machine.

They write nothing to a disk, which may sleep, and the kernel releases them when their process dies.
"""

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from app.database.filesystem.posix import map_os_errors

_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class _Held:
    holder: str
    until: float
    file: str
    descriptor: int


class FlockLeases:
    """`storage.leases.LeaseStore` over locked files in a folder.

    `open_folder` returns a descriptor of the folder. It is called for the first lease only, because a command
    that needs none may be run by another user, and must not create the folder.
    """

    def __init__(self, open_folder: Callable[[], int]) -> None:
        self._open_folder = open_folder
        self._folder = -1
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            for held in self._held.values():
                os.close(held.descriptor)
            self._held.clear()
            if self._folder >= 0:
                os.close(self._folder)

    def acquire(self, name: str, holder: str, for_s: float) -> bool:
        now = time.monotonic()
        with self._lock:
            held = self._held.get(name)
            if held is not None and held.holder != holder and now < held.until:
                return False
            file = hashlib.sha256(name.encode()).hexdigest()[:32]
            descriptor = self._lock_file(file) if held is None else held.descriptor
            if descriptor is None:
                return False
            self._held[name] = _Held(holder, now + for_s, file, descriptor)
            return True

    def release(self, name: str, holder: str) -> None:
        with self._lock:
            held = self._held.get(name)
            if held is not None and held.holder == holder:
                del self._held[name]
                with map_os_errors():
                    try:
                        os.unlink(held.file, dir_fd=self._folder)  # before another process can lock it
                    finally:
                        os.close(held.descriptor)

    def _lock_file(self, file: str) -> int | None:
        """Return a descriptor of the locked file; None if another process has locked it."""
        if self._folder < 0:
            self._folder = self._open_folder()
        with map_os_errors(), ExitStack() as stack:
            descriptor = os.open(file, _OPEN, 0o666, dir_fd=self._folder)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                inode = os.stat(file, dir_fd=self._folder, follow_symlinks=False).st_ino
            except (BlockingIOError, FileNotFoundError):
                return None
            if inode != os.fstat(descriptor).st_ino:  # it was released between the open and the lock
                return None
            stack.pop_all()
        return descriptor
