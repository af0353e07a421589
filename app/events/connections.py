"""Who is connected, and what they are told. It has never heard of WebSockets."""

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Iterable
from enum import Enum, auto
from typing import Protocol

from app.events.event import RESYNC, Event


class Offered(Enum):
    """What became of a message."""

    FIRST = auto()
    """It is kept, and nobody is sending: begin."""
    BEHIND = auto()
    """It is kept; whoever is sending will come to it."""
    OVERFLOW = auto()
    """One more than may wait. Nothing is kept any longer: close the connection."""
    IGNORED = auto()
    """It was closed before."""


class Outbox:
    """At most `limit` messages that wait behind the one that is being sent.

    A list with holes would tell a client less than a closed connection: after an overflow nothing is left.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[str] = deque()
        self._sending = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, text: str) -> Offered:
        """Keep a message for later, unless too many wait."""
        if self._closed:
            return Offered.IGNORED
        if len(self._waiting) >= self._limit:
            self.close()
            return Offered.OVERFLOW
        self._waiting.append(text)
        if self._sending:
            return Offered.BEHIND
        self._sending = True
        return Offered.FIRST

    def take(self) -> str | None:
        """The next one to send. None when there is none: the next offer is a FIRST again."""
        if self._waiting:
            return self._waiting.popleft()
        self._sending = False
        return None

    def close(self) -> None:
        """Forget what waits, and keep nothing more."""
        self._closed = True
        self._waiting.clear()


BACKLOG = 128
"""Messages that wait for one connection. They are small, and those of a broadcast are one string for all."""

TRY_AGAIN_LATER = 1013
"""How the connection of a client that does not read is closed (IANA's registry of RFC 6455 codes)."""


class TooManyConnections(Exception):
    """The message is a sentence that may be shown to the person who asked."""


class Peer(Protocol):
    """The other end of a connection."""

    async def send(self, text: str) -> None:
        """Return when it may be given more, which may take for ever. ConnectionError when it has left."""

    async def close(self, code: int) -> None:
        """End the connection, within seconds even if the other end does not read. Does not raise."""


class Connection:
    """One client, its outbox, and the task that sends from it: there is one only while something waits."""

    def __init__(self, peer: Peer, library: str, topic: str | None, backlog: int) -> None:
        self.library = library
        self.sid = secrets.token_urlsafe(16)
        self.topic = topic
        self._peer = peer
        self._outbox = Outbox(backlog)
        self._task: asyncio.Task[None] | None = None

    def offer(self, text: str) -> None:
        """Send it when the ones before it are sent. Waits for nobody: who does not read is closed."""
        match self._outbox.offer(text):
            case Offered.FIRST:
                self._task = asyncio.create_task(self._send_all())
            case Offered.OVERFLOW:
                self._stop()
                self._task = asyncio.create_task(self._peer.close(TRY_AGAIN_LATER))

    @property
    def waiting(self) -> int:
        """Messages that wait behind the one that is being sent."""
        return len(self._outbox)

    def close(self) -> None:
        """Send nothing more."""
        self._outbox.close()
        self._stop()

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _send_all(self) -> None:
        with contextlib.suppress(ConnectionError):  # whoever receives from it hears of that too
            while (text := self._outbox.take()) is not None:
                await self._peer.send(text)


class ConnectionManager:
    """All connections. `limit` is how many there may be. Used from the event loop only."""

    def __init__(self, *, limit: int, backlog: int = BACKLOG) -> None:
        self._limit = limit
        self._backlog = backlog
        self._by_sid: dict[str, Connection] = {}
        self._by_topic: dict[str, set[Connection]] = {}

    def connect(self, peer: Peer, library: str, topic: str | None) -> Connection:
        """Make room for a connection, which hears of nothing yet. Raises TooManyConnections.

        With a topic it is for what is broadcast there; without, for what is sent to its sid. `library` is
        that of whoever connects.
        """
        if len(self._by_sid) >= self._limit:
            raise TooManyConnections("Too many WebSockets are open; try again later.")
        connection = Connection(peer, library, topic, self._backlog)
        self._by_sid[connection.sid] = connection
        return connection

    def open(self, connection: Connection, greeting: str) -> None:
        """From now on it is told what concerns it, and the greeting before all else."""
        connection.offer(greeting)
        if connection.topic is not None:
            self._by_topic.setdefault(connection.topic, set()).add(connection)

    def disconnect(self, connection: Connection) -> None:
        """Forget a connection."""
        connection.close()
        self._by_sid.pop(connection.sid, None)
        if connection.topic in self._by_topic:
            listeners = self._by_topic[connection.topic]
            listeners.discard(connection)
            if not listeners:
                del self._by_topic[connection.topic]

    def queues(self) -> list[tuple[str, list[int]]]:
        """By kind, how many messages wait for each connection."""
        found: dict[str, list[int]] = {"session": [], "events": []}
        for connection in self._by_sid.values():
            found["session" if connection.topic is None else "events"].append(connection.waiting)
        return [*found.items()]

    def find(self, sid: str) -> Connection | None:
        """The connection with this sid."""
        return self._by_sid.get(sid)

    def send(self, library: str, sid: str, text: str) -> None:
        """To one, if it is still there, about its own library: whoever learns the sid of another tells that
        one nothing."""
        connection = self.find(sid)
        if connection is not None and connection.library == library:
            connection.offer(text)

    def broadcast(self, topic: str, text: str) -> None:
        """To all who listen to the topic. One that does not read costs the others nothing."""
        for connection in self._by_topic.get(topic, ()):
            connection.offer(text)

    def publish(self, event: Event) -> None:
        """To all who listen to the library that changed."""
        self.broadcast(event.library, event.text())

    def list_again(self, libraries: Iterable[str] | None) -> None:
        """To all who listen to these libraries, or to any."""
        for library in list(self._by_topic) if libraries is None else libraries:
            self.publish(Event(RESYNC, library))
