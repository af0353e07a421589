"""The ConnectionManager: which messages a connection receives, and that no slow peer delays another."""

import asyncio
import json

import pytest

from app.events.connections import ClientConnection, ConnectionManager, TooManyConnections
from app.events.feed import Event, Message


class Peer:
    """A peer that receives messages, or blocks like a full TCP connection until `reads` is set."""

    def __init__(self, *, reads: bool = True, fails: bool = False) -> None:
        self.received: list[str] = []
        self.closed: int | None = None
        self.reads = asyncio.Event()
        if reads:
            self.reads.set()
        self.fails = fails

    async def send(self, text: str) -> None:
        await self.reads.wait()
        await asyncio.sleep(0)
        if self.fails:
            raise ConnectionError
        self.received.append(text)

    async def close(self, code: int) -> None:
        self.closed = code


def connect(connections: ConnectionManager, peer: Peer, topic: str | None) -> ClientConnection:
    connection = connections.connect(peer, topic or "", topic)
    connections.open(connection, "hello")
    return connection


async def run_pending_tasks() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def test_connection_receives_greeting_then_its_own_messages_in_order() -> None:
    async def scenario() -> None:
        connections = ConnectionManager(limit=9)
        mine, other, private = Peer(), Peer(), Peer()
        connect(connections, mine, "")
        connect(connections, other, "other")
        sid = connect(connections, private, None).sid
        connections.broadcast("", "1")
        connections.broadcast("", Event("file.created", "", {"path": "é"}).text())
        connections.send(Message("", sid, "progress"))
        connections.send(Message("", "no such sid", "lost"))
        connections.send(Message("of another", sid, "not for this one"))
        await run_pending_tasks()
        assert mine.received == ["hello", "1", '{"type":"file.created","path":"é"}']
        assert other.received == ["hello"]
        assert private.received == ["hello", "progress"]

    asyncio.run(scenario())


def test_connection_receives_nothing_before_greeting() -> None:
    async def scenario() -> None:
        connections, peer = ConnectionManager(limit=9), Peer()
        connection = connections.connect(peer, "", "")
        connections.broadcast("", "early")
        connections.open(connection, "hello")
        connections.broadcast("", "late")
        await run_pending_tasks()
        assert peer.received == ["hello", "late"]

    asyncio.run(scenario())


def test_connection_that_does_not_read_is_closed_with_1013_without_delaying_others() -> None:
    async def scenario() -> None:
        connections = ConnectionManager(limit=9, backlog=8)
        blocked, reading = Peer(reads=False), Peer()
        connect(connections, blocked, "")
        connect(connections, reading, "")
        texts = [str(number) for number in range(100)]
        for text in texts:
            connections.broadcast("", text)
            await run_pending_tasks()
        assert reading.received == ["hello", *texts]
        assert reading.closed is None
        assert blocked.closed == 1013
        blocked.reads.set()
        await run_pending_tasks()
        assert blocked.received == []  # the pending message was dropped

    asyncio.run(scenario())


def test_connection_that_fails_to_send_is_disconnected() -> None:
    async def scenario() -> None:
        connections, peer = ConnectionManager(limit=9), Peer(fails=True)
        connection = connect(connections, peer, "")
        connections.broadcast("", "1")
        await run_pending_tasks()
        connections.disconnect(connection)
        connections.disconnect(connection)
        connections.broadcast("", "2")
        await run_pending_tasks()
        assert peer.received == []
        assert not connections.has(connection.sid)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())


def test_disconnect_cancels_sender_task() -> None:
    async def scenario() -> None:
        connections, peer = ConnectionManager(limit=9), Peer(reads=False)
        connection = connect(connections, peer, "")
        await run_pending_tasks()
        assert len(asyncio.all_tasks()) == 2
        connections.disconnect(connection)
        await run_pending_tasks()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())


def test_limit_counts_open_connections() -> None:
    async def scenario() -> None:
        connections = ConnectionManager(limit=2)
        first = connections.connect(Peer(), "", None)
        connections.connect(Peer(), "", "")
        with pytest.raises(TooManyConnections):
            connections.connect(Peer(), "", None)
        connections.disconnect(first)
        second = connections.connect(Peer(), "", None)
        assert connections.has(second.sid)
        assert second.sid != first.sid

    asyncio.run(scenario())


def test_event_text_has_type_and_data() -> None:
    event = Event("file.moved", "mine", {"id": "1", "path": "b", "previous_path": "a"})
    assert json.loads(event.text()) == {"type": "file.moved", "id": "1", "path": "b", "previous_path": "a"}
