"""Connected clients and their bounded queues of messages. Independent of WebSockets."""

import asyncio
import secrets
from collections import deque
from contextlib import suppress
from enum import Enum, auto
from typing import Protocol

from app.events.feed import MAX_PENDING_MESSAGES, RESYNC, Batch, Event, Message, event_of


class Offered(Enum):
    """The outcome of offering a message to an outbox."""

    FIRST = auto()
    """Accepted; the caller must start to send."""
    BEHIND = auto()
    """Accepted; the current sender will send it."""
    OVERFLOW = auto()
    """Rejected, and all waiting messages are dropped: close the connection."""
    IGNORED = auto()
    """Rejected, because the outbox was closed before."""


class Outbox:
    """At most `limit` messages that wait behind the one that is being sent.

    An overflow drops all of them: a closed connection is more useful to a client than a sequence with gaps.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[str] = deque()
        self._sending = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, text: str) -> Offered:
        """Queue a message unless the queue is full."""
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
        """Return the next message to send; None if the queue is empty: the next offer is then FIRST again."""
        if self._waiting:
            return self._waiting.popleft()
        self._sending = False
        return None

    def close(self) -> None:
        """Drop the waiting messages and reject later ones."""
        self._closed = True
        self._waiting.clear()


BACKLOG = 128
"""Messages that wait for one connection. They are small, and a broadcast is one string for all."""

TRY_AGAIN_LATER = 1013
"""The close code for a client that does not read (IANA's registry of RFC 6455 codes)."""


class TooManyConnections(Exception):
    """The limit of connections is reached. The message may be shown to the client."""


class Peer(Protocol):
    """The other end of a connection."""

    async def send(self, text: str) -> None:
        """Send a message. Blocks while the peer does not read. Raises ConnectionError if it has left."""

    async def close(self, code: int) -> None:
        """Close the connection, within seconds even if the peer does not read. Does not raise."""


class ClientConnection:
    """A client and its outbox. A task sends from the outbox while it is not empty."""

    def __init__(self, peer: Peer, library: str, topic: str | None, backlog: int) -> None:
        self.library = library
        self.sid = secrets.token_urlsafe(16)
        self.topic = topic
        self._peer = peer
        self._outbox = Outbox(backlog)
        self._task: asyncio.Task[None] | None = None

    def offer(self, text: str) -> None:
        """Queue a message. Does not block; closes the connection if the client does not read."""
        match self._outbox.offer(text):
            case Offered.FIRST:
                self._task = asyncio.create_task(self._send_all())
            case Offered.OVERFLOW:
                self._stop()
                self._task = asyncio.create_task(self._peer.close(TRY_AGAIN_LATER))

    @property
    def waiting(self) -> int:
        """The number of messages that wait behind the one that is being sent."""
        return len(self._outbox)

    def close(self) -> None:
        self._outbox.close()
        self._stop()

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _send_all(self) -> None:
        with suppress(ConnectionError):  # the task that receives from the peer raises it as well
            while (text := self._outbox.take()) is not None:
                await self._peer.send(text)


class ConnectionManager:
    """All connections, at most `limit`. Used from the event loop only."""

    def __init__(self, *, limit: int, backlog: int = BACKLOG) -> None:
        self._limit = limit
        self._backlog = backlog
        self._by_sid: dict[str, ClientConnection] = {}
        self._by_topic: dict[str, set[ClientConnection]] = {}

    def connect(self, peer: Peer, library: str, topic: str | None) -> ClientConnection:
        """Register a connection, which receives nothing until `open`. Raises TooManyConnections.

        A connection with a topic receives the broadcasts to that topic; one without receives messages to its
        sid that concern `library`, the library of its client.
        """
        if len(self._by_sid) >= self._limit:
            raise TooManyConnections("Too many WebSockets are open. Try again in a minute.")
        connection = ClientConnection(peer, library, topic, self._backlog)
        self._by_sid[connection.sid] = connection
        return connection

    def open(self, connection: ClientConnection, greeting: str) -> None:
        """Send the greeting, and from then on everything that is addressed to the connection."""
        connection.offer(greeting)
        if connection.topic is not None:
            self._by_topic.setdefault(connection.topic, set()).add(connection)

    def disconnect(self, connection: ClientConnection) -> None:
        connection.close()
        self._by_sid.pop(connection.sid, None)
        if connection.topic in self._by_topic:
            listeners = self._by_topic[connection.topic]
            listeners.discard(connection)
            if not listeners:
                del self._by_topic[connection.topic]

    def queues(self) -> list[tuple[str, list[int]]]:
        """Return the number of waiting messages of each connection, by kind of connection."""
        found: dict[str, list[int]] = {"session": [], "events": []}
        for connection in self._by_sid.values():
            found["session" if connection.topic is None else "events"].append(connection.waiting)
        return [*found.items()]

    def has(self, sid: str) -> bool:
        return sid in self._by_sid

    def send(self, message: Message) -> None:
        """Send a message to its session, unless that left or belongs to another library.

        The library is checked because a client can learn the sid of another client.
        """
        connection = self._by_sid.get(message.sid)
        if connection is not None and connection.library == message.library:
            connection.offer(message.text)

    def broadcast(self, topic: str, text: str) -> None:
        """Send a text to all connections with the topic. A slow client does not delay the others."""
        for connection in self._by_topic.get(topic, ()):
            connection.offer(text)

    def deliver(self, batch: Batch) -> None:
        """Send a batch of the change feed to the connections that it concerns."""
        for library in list(self._by_topic) if batch.resync is None else batch.resync:
            self._publish(Event(RESYNC, library))
        for change in batch.changes:
            self._publish(event_of(change))
        for message in batch.messages:
            self.send(message)

    def _publish(self, event: Event) -> None:
        if event.library in self._by_topic:
            self.broadcast(event.library, event.text())


class RemoteSessions(Protocol):
    """Sessions that are connected to other processes."""

    def send(self, message: Message) -> None:
        """Send a message to all other processes. Blocks; called in a thread."""


class Sessions:
    """The WebSocket sessions of this process and, if any, those of others. Used from the event loop only."""

    def __init__(self, connections: ConnectionManager, remote: RemoteSessions | None) -> None:
        self._connections = connections
        self._remote = remote
        self._waiting: deque[Message] = deque(maxlen=MAX_PENDING_MESSAGES)
        self._task: asyncio.Task[None] | None = None

    def send(self, message: Message, *, across_processes: bool) -> None:
        """Send a message to its session, with `across_processes` also to another process. Does not block.

        While other processes are unreachable, only the newest messages are kept.
        """
        if self._connections.has(message.sid) or not across_processes:
            self._connections.send(message)
        elif self._remote is not None:
            self._waiting.append(message)
            if self._task is None:
                self._task = asyncio.create_task(self._send_waiting(self._remote))

    async def _send_waiting(self, remote: RemoteSessions) -> None:
        try:
            while self._waiting:
                await asyncio.to_thread(remote.send, self._waiting.popleft())
        finally:  # even after an error, so that later messages start a new task
            self._task = None
