"""What other processes did, brought to those who listen here; and what is told to others."""

import asyncio
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from app.events.connections import ConnectionManager
from app.events.event import Event


def compact(message: Mapping[str, object]) -> str:
    """JSON as every socket sends it."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


T = TypeVar("T")

MOST = 32
"""Events that are told one by one at a time. Of more, listeners hear that they should list again."""

MOST_LIBRARIES = 1000
"""In so many libraries of which is known that they should be listed again; of more, all should."""

MOST_TEXTS = 64
"""Texts about uploads that wait to be told, here or elsewhere. The oldest go first."""

PAUSE_S = 0.05
"""Between two times, so that whoever listens keeps up."""

AGAIN_PAUSE_S = 0.5
"""The same after listeners were sent to list again, which takes them longer."""


class Others(Protocol):
    """The other processes."""

    def tell(self, library: str, sid: str, text: str) -> None:
        """Let them hear a text for somebody in the library. Blocks while that takes; does not raise."""


class Waiting:
    """What was heard and not told yet. Bounded, whatever happens meanwhile. Used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._again: set[str] = set()
        self._all_again = False
        self._texts: deque[tuple[str, str, str]] = deque(maxlen=MOST_TEXTS)

    def events(self, events: Sequence[Event]) -> None:
        """What is to be listed again needs no events."""
        with self._lock:
            if self._all_again:
                return
            self._events += [event for event in events if event.library not in self._again]
            if len(self._events) > MOST:
                self._list_again({event.library for event in self._events})

    def again(self, libraries: Sequence[str] | None) -> None:
        """They are to be listed again: these, or all."""
        with self._lock:
            self._list_again(libraries)

    def _list_again(self, libraries: Iterable[str] | None) -> None:
        self._again |= set(libraries or ())
        self._events = [event for event in self._events if event.library not in self._again]
        if libraries is None or len(self._again) > MOST_LIBRARIES:
            self._all_again = True
            self._again.clear()
            self._events.clear()

    def text(self, library: str, sid: str, text: str) -> None:
        with self._lock:
            self._texts.append((library, sid, text))

    def take(self) -> "tuple[list[Event], set[str] | None, list[tuple[str, str, str]]]":
        """All of it: the events, the libraries to be listed again (None: all), the texts."""
        with self._lock:
            again = None if self._all_again else self._again
            taken = self._events, again, [*self._texts]
            self._events, self._again, self._all_again = [], set(), False
            self._texts.clear()
            return taken


class Relay(Generic[T]):
    """Between the connections of this process and the others. `event_of`: the event of a change, or None.

    Made and opened in the event loop; what hears of other processes (`changed`, `missed`, `progressed`) is
    called by any thread.
    """

    def __init__(self, connections: ConnectionManager, event_of: Callable[[T], Event | None]) -> None:
        self._connections = connections
        self._event_of = event_of
        self._loop = asyncio.get_running_loop()
        self._heard = Waiting()
        self._is_due = threading.Event()
        self._not_before = 0.0
        self._others: Others | None = None
        self._to_tell: deque[tuple[str, str, str]] = deque(maxlen=MOST_TEXTS)
        self._telling: asyncio.Task[None] | None = None

    def open(self, others: Others | None) -> None:
        """From now on others hear of this process, if there can be any."""
        self._others = others

    # What others did

    def changed(self, changes: Sequence[T]) -> None:
        events = (self._event_of(change) for change in changes)
        self._heard.events([event for event in events if event is not None])
        self._wake()

    def missed(self, libraries: Sequence[str] | None = None) -> None:
        self._heard.again(libraries)
        self._wake()

    def progressed(self, library: str, sid: str, text: str) -> None:
        self._heard.text(library, sid, text)
        self._wake()

    def _wake(self) -> None:
        if not self._is_due.is_set():
            self._is_due.set()
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._arrange)

    def _arrange(self) -> None:
        self._loop.call_at(max(self._not_before, self._loop.time()), self._deliver)

    def _deliver(self) -> None:
        self._is_due.clear()  # first: what is heard from now on comes next time
        events, again, texts = self._heard.take()
        if not events and not texts and again == set():
            return
        self._connections.list_again(again)
        for event in events:
            self._connections.publish(event)
        for text in texts:
            self._connections.send(*text)
        told_to_list = again is None or bool(again)
        self._not_before = self._loop.time() + (AGAIN_PAUSE_S if told_to_list else PAUSE_S)

    # What happens here

    def publish(self, event: Event) -> None:
        """As `ConnectionManager.publish`; what was heard of others before comes first, however shortly."""
        self._deliver()
        self._connections.publish(event)

    def send(self, library: str, sid: str, text: str, *, elsewhere: bool) -> None:
        """To who has this sid, as `ConnectionManager.send`; if elsewhere, also where other processes are."""
        if self._connections.find(sid) is not None or not elsewhere:
            self._connections.send(library, sid, text)
        elif self._others is not None:
            self._to_tell.append((library, sid, text))
            if self._telling is None:
                self._telling = asyncio.create_task(self._tell_all(self._others))

    async def _tell_all(self, others: Others) -> None:
        try:
            while self._to_tell:
                await asyncio.to_thread(others.tell, *self._to_tell.popleft())
        finally:  # or nothing would ever be told again
            self._telling = None
