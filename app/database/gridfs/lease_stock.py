"""Ids of new files that were leased ahead, so that most small uploads need no command for a lease.

Leases that are never used expire, or are ended at shutdown.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bson import ObjectId

from app.database.gridfs.connection import MongoDatabase
from app.database.gridfs.garbage_collection import LEASE_S, end_lease_command
from app.storage.errors import StorageError

USABLE_S = LEASE_S / 2
"""Seconds for which a lease may be used; the rest of its time is for the upload."""

MAX_AHEAD = 32
"""Leases that are taken ahead by one command."""


@dataclass(slots=True)
class LeasedId:
    """The id of a new file, and until when an upload may begin with it, by the clock of the stock."""

    file: ObjectId
    usable_until: float
    term: Any = None
    """The term of the primary that wrote the lease; None without a replica set."""


class LeaseStock:
    """Leased ids. Thread-safe. Each shortage that soon follows another doubles the leases that are taken
    ahead: a lone upload takes none."""

    def __init__(self, database: MongoDatabase, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()  # guards the following
        self._leased: list[LeasedId] = []
        self._ahead = 0
        self._last_shortage = float("-inf")

    def take(self, count: int) -> list[LeasedId]:
        """Return at most so many ids whose leases are usable."""
        with self._lock:
            now = self._clock()
            usable = [leased for leased in self._leased if leased.usable_until > now]
            self._leased = usable[count:]
            return usable[:count]

    def order(self, short: int) -> list[LeasedId]:
        """Return new ids, which the caller leases: those that are short now, and some ahead."""
        with self._lock:
            now = self._clock()
            is_soon = now - self._last_shortage < USABLE_S
            self._ahead = min(max(1, 2 * self._ahead), MAX_AHEAD) if is_soon else 0
            self._last_shortage = now
            return [LeasedId(ObjectId(), now + USABLE_S) for _ in range(short + self._ahead)]

    def give(self, leased: Sequence[LeasedId]) -> None:
        """Put unused ids into the stock."""
        with self._lock:
            self._leased += leased

    def close(self) -> None:
        """End the unused leases. If that fails, they expire."""
        with self._lock:
            files, self._leased = [leased.file for leased in self._leased], []
        if files:
            with suppress(StorageError), self._database.operation():
                self._database.media.database.command(end_lease_command(self._database, files))
