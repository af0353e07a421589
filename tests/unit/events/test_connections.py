"""Who is told what, and that nobody waits for anybody."""

import asyncio
import json

import pytest

from app.events.connections import Connection, ConnectionManager, TooManyConnections
from app.events.event import Event


class Reader:
    """A peer that takes everything, as long as it reads; and hangs, as TCP does, when it does not."""

    def __init__(self, *, reads: bool = True, leaves: bool = False) -> None:
        self.got: list[str] = []
        self.closed: int | None = None
        self.reads = asyncio.Event()
        if reads:
            self.reads.set()
        self.leaves = leaves

    async def send(self, text: str) -> None:
        await self.reads.wait()
        await asyncio.sleep(0)
        if self.leaves:
            raise ConnectionError
        self.got.append(text)

    async def close(self, code: int) -> None:
        self.closed = code


def opened(connections: ConnectionManager, peer: Reader, topic: str | None) -> Connection:
    connection = connections.connect(peer, topic or "", topic)
    connections.open(connection, "hello")
    return connection


async def settled() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def test_each_hears_its_own_after_the_greeting_and_in_order() -> None:
    async def scene() -> None:
        connections = ConnectionManager(limit=9)
        mine, other, private = Reader(), Reader(), Reader()
        opened(connections, mine, "")
        opened(connections, other, "other")
        sid = opened(connections, private, None).sid
        connections.broadcast("", "1")
        connections.publish(Event("file.created", "", {"path": "é"}))
        connections.send("", sid, "progress")
        connections.send("", "no such sid", "lost")
        connections.send("of another", sid, "not for this one")
        await settled()
        assert mine.got == ["hello", "1", '{"type":"file.created","path":"é"}']
        assert other.got == ["hello"]
        assert private.got == ["hello", "progress"]

    asyncio.run(scene())


def test_one_that_is_not_open_yet_hears_nothing_before_its_greeting() -> None:
    async def scene() -> None:
        connections, peer = ConnectionManager(limit=9), Reader()
        connection = connections.connect(peer, "", "")
        connections.broadcast("", "early")
        connections.open(connection, "hello")
        connections.broadcast("", "late")
        await settled()
        assert peer.got == ["hello", "late"]

    asyncio.run(scene())


def test_one_that_does_not_read_is_closed_with_1013_and_the_others_get_all() -> None:
    async def scene() -> None:
        connections = ConnectionManager(limit=9, backlog=8)
        stuck, fine = Reader(reads=False), Reader()
        opened(connections, stuck, "")
        opened(connections, fine, "")
        texts = [str(number) for number in range(100)]
        for text in texts:
            connections.broadcast("", text)
            await settled()
        assert fine.got == ["hello", *texts]
        assert fine.closed is None
        assert stuck.closed == 1013
        stuck.reads.set()
        await settled()
        assert stuck.got == []  # the one on its way was given up

    asyncio.run(scene())


def test_one_that_left_is_no_error() -> None:
    async def scene() -> None:
        connections, peer = ConnectionManager(limit=9), Reader(leaves=True)
        connection = opened(connections, peer, "")
        connections.broadcast("", "1")
        await settled()
        connections.disconnect(connection)
        connections.disconnect(connection)
        connections.broadcast("", "2")
        await settled()
        assert peer.got == []
        assert connections.find(connection.sid) is None
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scene())


def test_disconnecting_ends_the_task_that_sends() -> None:
    async def scene() -> None:
        connections, peer = ConnectionManager(limit=9), Reader(reads=False)
        connection = opened(connections, peer, "")
        await settled()
        assert len(asyncio.all_tasks()) == 2
        connections.disconnect(connection)
        await settled()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scene())


def test_the_limit_counts_those_that_are_there() -> None:
    async def scene() -> None:
        connections = ConnectionManager(limit=2)
        first = connections.connect(Reader(), "", None)
        connections.connect(Reader(), "", "")
        with pytest.raises(TooManyConnections):
            connections.connect(Reader(), "", None)
        connections.disconnect(first)
        second = connections.connect(Reader(), "", None)
        assert connections.find(second.sid) is second
        assert second.sid != first.sid

    asyncio.run(scene())


def test_the_text_of_an_event_has_its_type_and_data() -> None:
    event = Event("file.moved", "mine", {"id": "1", "path": "b", "previous_path": "a"})
    assert json.loads(event.text()) == {"type": "file.moved", "id": "1", "path": "b", "previous_path": "a"}
