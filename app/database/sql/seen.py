"""What is remembered of folders, so that they need not be looked through again."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from app.storage.folders import Segments

MAX_FOLDERS = 20_000
MAX_INNER = 10_000
SETTLED_AFTER_NS = 2_000_000_000
"""How coarse a file system's times may be: a change within as long of the last look may have the same."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A folder as it was when it was looked through."""

    changed_ns: int
    folders: tuple[str, ...]
    """Names of those inside, as on the disk."""
    empty: tuple[str, ...]
    """Those of them that no row speaks of: nothing but looking would tell that a file came."""


class SeenFolders:
    """The folders that were looked through last, within bounds. Used by many threads at once."""

    def __init__(self) -> None:
        self._folders: OrderedDict[Segments, Seen] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Segments) -> Seen | None:
        with self._lock:
            return self._folders.get(path)

    def put(self, path: Segments, seen: Seen, looked_ns: int) -> None:
        """Remember it, unless it changed so shortly before it was looked through (`looked_ns`) that a later
        change may not show."""
        with self._lock:
            self._folders.pop(path, None)
            if 0 <= seen.changed_ns <= looked_ns - SETTLED_AFTER_NS and len(seen.folders) <= MAX_INNER:
                self._folders[path] = seen
                while len(self._folders) > MAX_FOLDERS:
                    self._folders.popitem(last=False)
