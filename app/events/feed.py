"""The change feed: brings changes of stored files, made by this process or another, to subscribers."""

import asyncio
import json
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from app.storage.ignored_names import IGNORE_NOTHING, IgnoredNames
from app.storage.types import Change, ChangeKind

RESYNC = "resync"
"""The type of the event after which a client must list the library again."""

MAX_PENDING_CHANGES = 32
"""Changes that one batch contains. More of them become a resync of their libraries."""

MAX_PENDING_LIBRARIES = 1000
"""Libraries that one batch resyncs by name. More of them become a resync of all libraries."""

MAX_PENDING_MESSAGES = 64
"""Messages that wait for delivery. The oldest are dropped first."""

BATCH_PAUSE_S = 0.05
"""Seconds between two batches, so that clients keep up."""

RESYNC_PAUSE_S = 0.5
"""Seconds after a batch with a resync, because listing takes clients longer."""


@dataclass(frozen=True, slots=True)
class Event:
    """A hint to clients that something changed; lists remain the source of truth."""

    type: str
    """For example `file.created`."""
    library: str
    """The library that changed. Clients of other libraries do not receive the event."""
    data: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """Return the JSON object that is sent: the type, and the data beside it."""
        return compact({"type": self.type, **self.data})


def compact(message: Mapping[str, object]) -> str:
    """Return the JSON text of a WebSocket message."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


def event_of(change: Change) -> Event:
    """Return the event that clients of the library receive for a change."""
    file = change.info
    data = {"id": file.id, "path": file.key.path, "etag": file.etag}
    if change.previous is not None:
        data["previous_path"] = change.previous.path
    return Event(f"file.{change.kind.value}", file.key.library, data)


def listed_change(change: Change, ignored: IgnoredNames) -> Change | None:
    """Return the change as the lists of its library show it; None if no list shows the file."""
    file, previous = change.info, change.previous
    was_listed = previous is not None and not ignored.matches(previous)
    if ignored.matches(file.key):
        if previous is None or not was_listed:
            return None
        return Change(ChangeKind.DELETED, replace(file, key=previous))
    if previous is not None and (not was_listed or previous.library != file.key.library):
        return Change(ChangeKind.CREATED, file)
    return change


class Message(NamedTuple):
    """A text for one WebSocket session, which must be of this library."""

    library: str
    sid: str
    text: str


@dataclass(frozen=True, slots=True)
class Batch:
    """News that subscribers receive in one call."""

    changes: Sequence[Change] = ()
    """In the order in which they were made."""
    resync: Collection[str] | None = ()
    """Libraries that clients must list again before the changes apply; None means all libraries."""
    messages: Sequence[Message] = ()
    unverified: bool = False
    """Whether files may be stored that have no verified hash."""

    @property
    def has_resync(self) -> bool:
        return self.resync is None or bool(self.resync)

    @property
    def is_empty(self) -> bool:
        return not (self.changes or self.messages or self.unverified or self.has_resync)


class Pending:
    """News that waits for delivery, bounded. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes: list[Change] = []
        self._resync: set[str] = set()
        self._resync_all = False
        self._messages: deque[Message] = deque(maxlen=MAX_PENDING_MESSAGES)
        self._unverified = False

    def add_changes(self, changes: Iterable[Change], *, unverified: bool) -> None:
        """Add changes, except those of libraries that will be listed again anyway."""
        with self._lock:
            self._unverified |= unverified
            if self._resync_all:
                return
            self._changes += [one for one in changes if one.info.key.library not in self._resync]
            if len(self._changes) > MAX_PENDING_CHANGES:
                self._add_resync({change.info.key.library for change in self._changes})

    def add_resync(self, libraries: Iterable[str] | None) -> None:
        """Request a list of these libraries, or of all."""
        with self._lock:
            self._add_resync(libraries)

    def _add_resync(self, libraries: Iterable[str] | None) -> None:
        self._resync |= set(libraries or ())
        self._changes = [one for one in self._changes if one.info.key.library not in self._resync]
        if libraries is None or len(self._resync) > MAX_PENDING_LIBRARIES:
            self._resync_all = True
            self._resync.clear()
            self._changes.clear()

    def add_message(self, message: Message) -> None:
        with self._lock:
            self._messages.append(message)

    def take(self) -> Batch:
        """Remove and return everything."""
        with self._lock:
            resync = None if self._resync_all else self._resync
            batch = Batch(self._changes, resync, [*self._messages], self._unverified)
            self._changes, self._resync = [], set()
            self._resync_all = self._unverified = False
            self._messages.clear()
            return batch


class ChangeFeed:
    """Delivers changes of stored files to subscribers, in the event loop.

    `ignored` decides which files no list shows; their changes are dropped. The methods whose names end in
    `_threadsafe` may be called by any thread. They collect into bounded batches and never block. Until the
    first subscription, all news is dropped.
    """

    def __init__(self, ignored: IgnoredNames = IGNORE_NOTHING) -> None:
        self._ignored = ignored
        self._subscribers: list[Callable[[Batch], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending = Pending()
        self._is_scheduled = threading.Event()
        self._not_before = 0.0

    def subscribe(self, callback: Callable[[Batch], None]) -> None:
        """Call `callback`, which must not block, with each later batch. Call this from the event loop."""
        self._loop = asyncio.get_running_loop()
        self._subscribers.append(callback)

    def publish(self, changes: Sequence[Change]) -> None:
        """Deliver changes now, after the pending ones. Call this from the event loop."""
        self._deliver_pending()
        if listed := self._listed(changes):
            self._deliver(Batch(listed))

    def publish_threadsafe(self, changes: Sequence[Change], *, unverified: bool = False) -> None:
        """Deliver changes soon. `unverified` reports that files without a verified hash are stored."""
        if self._subscribers:
            self._pending.add_changes(self._listed(changes), unverified=unverified)
            self._schedule()

    def resync_threadsafe(self, libraries: Sequence[str] | None = None) -> None:
        """Report that unknown changes were made in these libraries, or in any."""
        if self._subscribers:
            self._pending.add_resync(libraries)
            self._schedule()

    def send_threadsafe(self, message: Message) -> None:
        """Deliver a message of another process, whose session may be connected to this one."""
        if self._subscribers:
            self._pending.add_message(message)
            self._schedule()

    def _listed(self, changes: Sequence[Change]) -> list[Change]:
        listed = (listed_change(change, self._ignored) for change in changes)
        return [change for change in listed if change is not None]

    def _schedule(self) -> None:
        if self._loop is not None and not self._is_scheduled.is_set():
            self._is_scheduled.set()
            with suppress(RuntimeError):  # the event loop is closed
                self._loop.call_soon_threadsafe(self._schedule_delivery, self._loop)

    def _schedule_delivery(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_at(max(self._not_before, loop.time()), self._deliver_pending)

    def _deliver_pending(self) -> None:
        self._is_scheduled.clear()  # before `take`: news that arrives from now on schedules a delivery
        batch = self._pending.take()
        if batch.is_empty or self._loop is None:
            return
        self._deliver(batch)
        pause_s = RESYNC_PAUSE_S if batch.has_resync else BATCH_PAUSE_S
        self._not_before = self._loop.time() + pause_s

    def _deliver(self, batch: Batch) -> None:
        for callback in self._subscribers:
            callback(batch)
