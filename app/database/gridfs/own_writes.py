"""Filters this process's own writes out of the change stream.

A change stream does not report which client made a change, and a deleted document cannot carry a note. So
each write has a mark, which both the writer and the reader of the stream can compute.
"""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from cachetools import LRUCache

T = TypeVar("T")

Mark = tuple[str, ...]

MAX_MARKS = 10_000
"""Writes that wait to be reported by the stream. Beyond this number the oldest are forgotten, and
count as another process's, which is harmless."""

WAIT_S = 10.0
"""Seconds to wait for a write that is in progress: longer than any write takes."""


def stored(file: Any) -> Mark:
    """Return the mark of a write after which a document names this file of the bucket."""
    return "stored", repr(file)


def moved(document: str, library: str, folder: str, filename: str) -> Mark:
    """Return the mark of a write that moves a document to this key."""
    return "moved", document, library, folder, filename


def deleted(document: str) -> Mark:
    """Return the mark of a write that deletes a document."""
    return "deleted", document


class OwnWrites:
    """The recent writes of this process, by mark. Thread-safe."""

    def __init__(self, max_marks: int = MAX_MARKS) -> None:
        self.enabled = False
        """Whether the change stream is read; if not, no mark is kept."""
        self._in_progress: Counter[Mark] = Counter()
        self._made: LRUCache[Mark, int] = LRUCache(max_marks)
        self._ended = threading.Condition()

    def run(self, mark: Mark, write: Callable[[], T]) -> T:
        """Run a write and return its result, which is true if the write changed the database.

        If it raises an error, its outcome is unknown, and the stream reports it like another process's.
        """
        with self.in_progress([mark]) as made:
            result = write()
            if result:
                made.add(mark)
        return result

    @contextmanager
    def in_progress(self, marks: Collection[Mark]) -> Iterator[set[Mark]]:
        """Yield a set for the marks of those writes, made inside, that changed the database."""
        made: set[Mark] = set()
        if not self.enabled:
            yield made
            return
        with self._ended:
            self._in_progress.update(marks)
        try:
            yield made
        finally:
            with self._ended:
                self._in_progress -= Counter(marks)  # unlike `subtract`, this leaves no zero counts
                for mark in made:
                    self._made[mark] = self._made.get(mark, 0) + 1
                self._ended.notify_all()

    def take(self, mark: Mark) -> bool:
        """Return whether this process made a write that the stream reports, and forget it.

        Blocks while a write with this mark is in progress: the stream may report it before it returns.
        """
        with self._ended:
            self._ended.wait_for(lambda: mark in self._made or mark not in self._in_progress, WAIT_S)
            if mark not in self._made:
                return False
            self._made[mark] -= 1
            if not self._made[mark]:
                del self._made[mark]
            return True

    def clear(self) -> None:
        """Forget all writes: the stream may never report them."""
        with self._ended:
            self._made.clear()
