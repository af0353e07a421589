"""The changes that clients made, and the versions that a backup taken meanwhile may and must contain."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from threading import Lock
from time import monotonic

ABSENT = ""
"""The version of a path that has no file."""


@dataclass(frozen=True)
class Change:
    """A version that a path takes at some moment between the request and its response."""

    version: str
    sent: float
    acknowledged: float


@dataclass
class History:
    """All changes of each path, in order. Versions are unique across paths."""

    clock: Callable[[], float] = monotonic
    changes: dict[str, list[Change]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def change(self, versions: dict[str, str], request: Callable[[], object]) -> None:
        """Send a request that gives all these paths their versions atomically, and record it. Thread-safe."""
        sent = self.clock()
        request()
        acknowledged = self.clock()
        with self._lock:
            for path, version in versions.items():
                self.changes.setdefault(path, []).append(Change(version, sent, acknowledged))

    def may_hold(self, path: str, begin: float, end: float) -> set[str]:
        """Return the versions that the path may have had at any time between begin and end."""
        return {version for version, since, until in self._lifetimes(path) if since <= end and until >= begin}

    def must_hold(self, begin: float, end: float) -> set[str]:
        """Return the versions that were stored from begin to end, at whichever path."""
        stored, ended = set(), set()
        for path, changes in self.changes.items():
            for change in changes:
                if change.version and change.acknowledged <= begin:
                    stored.add(change.version)
            for before, after in pairwise(changes):
                moved = any(
                    change.version == before.version and change.sent == after.sent
                    for other, other_changes in self.changes.items()
                    if other != path
                    for change in other_changes
                )
                if before.version and after.sent <= end and not moved:
                    ended.add(before.version)
        return stored - ended

    def _lifetimes(self, path: str) -> Iterator[tuple[str, float, float]]:
        changes = [Change(ABSENT, -inf, -inf), *self.changes.get(path, []), Change(ABSENT, inf, inf)]
        for change, following in pairwise(changes):
            yield change.version, change.sent, following.acknowledged
