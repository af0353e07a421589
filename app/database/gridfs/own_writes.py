"""Which changes of documents this process makes itself, so that it does not hear of them as of another's.

A change stream does not say who made a change, and a deleted document cannot. So each change has a mark that
both know who makes it and who hears of it.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

Mark = tuple[str, ...]

MOST = 10_000
"""Changes of which it is known that they will be heard of. Beyond, the oldest are heard of as if they were
another's, which does no harm."""

WAIT_S = 10.0
"""Longer than any change takes."""


def stored(file: Any) -> Mark:
    """A document came to name this file of the bucket."""
    return "stored", repr(file)


def moved(document: str, library: str, folder: str, filename: str) -> Mark:
    """A document came to be there."""
    return "moved", document, library, folder, filename


def deleted(document: str) -> Mark:
    """A document is gone."""
    return "deleted", document


class OwnChanges:
    """By their marks. Used by many threads at once."""

    def __init__(self) -> None:
        self.counts = False
        """Whether anybody listens; if not, nothing is kept."""
        self._under_way: Counter[Mark] = Counter()
        self._made: OrderedDict[Mark, int] = OrderedDict()
        self._ended = threading.Condition()

    def make(self, mark: Mark, change: Callable[[], T]) -> T:
        """Make a change. What it gives is true if it was made here; it was not, or nobody knows, if it raises
        an error: it is then heard of like another's."""
        if not self.counts:
            return change()
        with self._ended:
            self._under_way[mark] += 1
        made = False
        try:
            result = change()
            made = bool(result)
            return result
        finally:
            with self._ended:
                self._under_way -= Counter([mark])  # which leaves no zeros
                if made:
                    self._made[mark] = self._made.pop(mark, 0) + 1
                    if len(self._made) > MOST:
                        self._made.popitem(last=False)
                self._ended.notify_all()

    def is_own(self, mark: Mark) -> bool:
        """Whether a change that was heard of was made here, which is forgotten then. Waits while nobody knows
        because it is being made, or was tried, here."""
        with self._ended:
            self._ended.wait_for(lambda: mark in self._made or mark not in self._under_way, WAIT_S)
            if mark not in self._made:
                return False
            self._made[mark] -= 1
            if not self._made[mark]:
                del self._made[mark]
            return True

    def forget(self) -> None:
        """What was made until now may never be heard of."""
        with self._ended:
            self._made.clear()
