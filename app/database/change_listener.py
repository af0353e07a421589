"""Receives the changes and messages of other processes on the same database, for the change feed."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

from app.events.feed import ChangeFeed, Message
from app.storage.errors import StorageError

PAUSE_S = 0.1
"""Seconds before the first attempt to reconnect. Doubles with each attempt, up to MAX_PAUSE_S."""

MAX_PAUSE_S = 2.0

CLOSE_WITHIN_S = 0.1
"""Seconds to wait for the listener thread at shutdown; a late reply from MongoDB is dropped."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class ChangeSource(Protocol):
    """Notifications between the processes that share a database. It leaves out those that this process sent.

    Only `send` and `interrupt` are thread-safe. Raises StorageError if the database is unavailable.
    """

    def connect(self) -> bool:
        """Start to listen. Return whether nothing was missed since the last notification."""

    def receive(self, feed: ChangeFeed) -> None:
        """Block until others notify or for a while, and pass the notifications to the feed."""

    def interrupt(self) -> None:
        """Make the current and all later calls of `receive` return soon."""

    def disconnect(self) -> None:
        """Stop listening. Does not raise."""

    def close(self) -> None:
        """Release the remaining resources. Called once; only `interrupt` may be called later."""

    def send(self, message: Message) -> None:
        """Send a message to the other processes."""


class ChangeListener:
    """A thread that listens to a source until it is closed, and reconnects after failures."""

    def __init__(self, source: ChangeSource, feed: ChangeFeed) -> None:
        self._source = source
        self._feed = feed
        self._closed = threading.Event()
        self._failed = False
        # Connects before the thread starts, so that a client that lists from now on misses nothing.
        self._connected = self._attempt(self._source.connect) is not None
        self._thread = threading.Thread(target=self._run, name="change-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._source.interrupt()
        self._thread.join(CLOSE_WITHIN_S)

    def send(self, message: Message) -> None:
        """Send a message to the other processes. Drops it if the database is unavailable."""
        with suppress(StorageError):
            if not self._closed.is_set():
                self._source.send(message)

    def _run(self) -> None:
        pause = PAUSE_S
        while not self._closed.is_set():
            if self._connected:
                pause = PAUSE_S
                self._receive()
            else:
                self._closed.wait(pause)
                pause = min(2 * pause, MAX_PAUSE_S)
                self._reconnect()
        self._source.disconnect()
        self._source.close()

    def _receive(self) -> None:
        def receive() -> bool:
            self._source.receive(self._feed)
            return True

        if self._attempt(receive) is None:
            self._connected = False
            self._source.disconnect()

    def _reconnect(self) -> None:
        missed_nothing = None if self._closed.is_set() else self._attempt(self._source.connect)
        self._connected = missed_nothing is not None
        if missed_nothing is False:
            self._feed.resync_threadsafe()
        if self._connected and self._failed:
            self._failed = False
            log.info("Changes of other processes are received again.")

    def _attempt(self, step: Callable[[], T]) -> T | None:
        """Run a step. Returns None if it failed; logs only the first failure in a row."""
        try:
            return step()
        except StorageError as error:
            reason, trace = str(error), None
        except Exception as error:  # the server must continue after any error
            reason, trace = repr(error), error
        if not self._failed and not self._closed.is_set():
            self._failed = True
            log.warning("Changes of other processes are not received for now: %s", reason, exc_info=trace)
        return None
