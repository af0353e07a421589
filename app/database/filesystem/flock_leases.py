"""Leases as locks of the system: for processes of one machine.

Nothing is written to a disk for them, which may rest; and what a process holds is free as soon as it dies.
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
    """`storage.leases.LeaseStore` over the files of a folder, which is opened when the first is asked for: a
    command that needs none, and that somebody else may run, makes no folder. `opened` gives a descriptor."""

    def __init__(self, opened: Callable[[], int]) -> None:
        self._opened = opened
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
            descriptor = self._locked(file) if held is None else held.descriptor
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
                        os.unlink(held.file, dir_fd=self._folder)  # before somebody else can lock it
                    finally:
                        os.close(held.descriptor)

    def _locked(self, file: str) -> int | None:
        if self._folder < 0:
            self._folder = self._opened()
        with map_os_errors(), ExitStack() as stack:
            descriptor = os.open(file, _OPEN, 0o666, dir_fd=self._folder)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                there = os.stat(file, dir_fd=self._folder, follow_symlinks=False).st_ino
            except (BlockingIOError, FileNotFoundError):
                return None
            if there != os.fstat(descriptor).st_ino:  # it was given back between the open and the lock
                return None
            stack.pop_all()
        return descriptor
