"""What is remembered of folders, so that they need not be looked through again."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

from app.storage.folders import Segments

MAX_FOLDERS = 100_000
MAX_NAMES = 500_000
"""Of folders inside folders, in all."""

FINE_NS = 100_000_000
COARSE_NS = 2_000_000_000
"""How long after a change another one may still have the same time, on file systems whose times have
fractions of a second, and on others."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A folder as it was when it was looked through."""

    changed_ns: int
    folders: tuple[str, ...]
    """Names of those inside, as on the disk."""
    empty: tuple[str, ...]
    """Those of them that no row speaks of: nothing but looking would tell that a file came."""
    files: int = 0
    """How many it has that rows speak of."""


class SeenFolders:
    """The folders that were looked through last, within bounds. Used by many threads at once."""

    def __init__(self) -> None:
        self._folders: OrderedDict[Segments, Seen] = OrderedDict()
        self._names = 0
        self._lock = threading.Lock()

    def get(self, path: Segments) -> Seen | None:
        with self._lock:
            return self._folders.get(path)

    def put(self, path: Segments, seen: Seen, looked_ns: int) -> None:
        """Remember it, unless it changed so shortly before it was looked through (`looked_ns`) that a later
        change may not show."""
        with self._lock:
            self._forget(path)
            fine = seen.changed_ns % 1_000_000_000 != 0
            if seen.changed_ns <= looked_ns - (FINE_NS if fine else COARSE_NS):
                self._folders[path] = seen
                self._names += len(seen.folders)
                while len(self._folders) > MAX_FOLDERS or self._names > MAX_NAMES:
                    self._forget(next(iter(self._folders)))

    def note(self, path: Segments, changed_ns: int) -> None:
        """Remember that it changed in a way that is known, if it is remembered still."""
        with self._lock:
            seen = self._folders.get(path)
            if seen is not None:
                self._folders[path] = replace(seen, changed_ns=changed_ns)

    def forget(self, path: Segments) -> None:
        with self._lock:
            self._forget(path)

    def clear(self) -> None:
        with self._lock:
            self._folders.clear()
            self._names = 0

    def _forget(self, path: Segments) -> None:
        seen = self._folders.pop(path, None)
        if seen is not None:
            self._names -= len(seen.folders)
