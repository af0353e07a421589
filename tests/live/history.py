"""Changes that clients made, and what a backup taken meanwhile may and must hold of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from threading import Lock
from time import monotonic

ABSENT = ""
"""The version of a path at which there is no file."""


@dataclass(frozen=True)
class Change:
    """A path has this version from some moment between the request and its answer on."""

    version: str
    sent: float
    acknowledged: float


@dataclass
class History:
    """All changes of each path, one after the other. A version has a name that no other has."""

    clock: Callable[[], float] = monotonic
    changes: dict[str, list[Change]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def change(self, versions: dict[str, str], request: Callable[[], object]) -> None:
        """Make the request, which gives each path its version at the same moment."""
        sent = self.clock()
        request()
        acknowledged = self.clock()
        with self._lock:
            for path, version in versions.items():
                self.changes.setdefault(path, []).append(Change(version, sent, acknowledged))

    def may_hold(self, path: str, begin: float, end: float) -> set[str]:
        """Return the versions that the path may have had at any time of the span."""
        return {version for version, since, until in self._lives(path) if since <= end and until >= begin}

    def must_hold(self, begin: float, end: float) -> set[str]:
        """Return the versions that were stored for the whole span, wherever they were moved in it."""
        stored, over = set(), set()
        for path, changes in self.changes.items():
            for change in changes:
                if change.version and change.acknowledged <= begin:
                    stored.add(change.version)
            for before, after in pairwise(changes):
                moved = any(
                    change.version == before.version and change.sent == after.sent
                    for other, there in self.changes.items()
                    if other != path
                    for change in there
                )
                if before.version and after.sent <= end and not moved:
                    over.add(before.version)
        return stored - over

    def _lives(self, path: str) -> Iterator[tuple[str, float, float]]:
        changes = [Change(ABSENT, -inf, -inf), *self.changes.get(path, []), Change(ABSENT, inf, inf)]
        for change, following in pairwise(changes):
            yield change.version, change.sent, following.acknowledged
