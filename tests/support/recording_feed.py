"""A change feed that records."""

import threading
from collections.abc import Sequence
from typing import Any

from app.events.feed import ChangeFeed, Message
from app.storage.types import Change


class RecordingFeed(ChangeFeed):
    """A feed that records changes, messages and resyncs in their order instead of delivering them."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Any] = []
        self._more = threading.Condition()

    def publish(self, changes: Sequence[Change]) -> None:
        self._record(*changes)

    def publish_threadsafe(self, changes: Sequence[Change], *, unverified: bool = False) -> None:
        self._record(*changes)

    def resync_threadsafe(self, libraries: Sequence[str] | None = None) -> None:
        self._record("missed" if libraries is None else ("missed", *libraries))

    def send_threadsafe(self, message: Message) -> None:
        self._record(message)

    def _record(self, *news: object) -> None:
        with self._more:
            self.all += news
            self._more.notify_all()

    def until(self, last: object, *, within: float = 20) -> list[Any]:
        """Block until the last one arrives; remove and return everything up to it."""
        with self._more:
            found = self._more.wait_for(lambda: self.all and self.all[-1] == last, within)
            assert found, f"{self.all[-3:]}, and not {last}"
            received, self.all = self.all, []
            return received
