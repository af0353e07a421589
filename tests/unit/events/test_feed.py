"""Changes from other threads reach the clients of this process in order, bounded, within a second."""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from app.events.connections import ConnectionManager, RemoteSessions, Sessions
from app.events.feed import (
    BATCH_PAUSE_S,
    MAX_PENDING_CHANGES,
    MAX_PENDING_LIBRARIES,
    MAX_PENDING_MESSAGES,
    RESYNC_PAUSE_S,
    Batch,
    ChangeFeed,
    Message,
    Pending,
    listed_change,
)
from app.storage.ignored_names import IgnoredNames
from app.storage.types import SHARED, Change, ChangeKind, FileInfo, Key

Scenario = Callable[["Process"], Awaitable[None]]


class Listener:
    """A peer that takes `delay_s` seconds for each message."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self.delay_s = 0.0
        self.closed = False

    async def send(self, text: str) -> None:
        await asyncio.sleep(self.delay_s)
        self.received.append(json.loads(text))

    async def close(self, code: int) -> None:
        self.closed = True


class Process:
    """A process with one listener in each of two libraries, and one session."""

    def __init__(self) -> None:
        self.connections = ConnectionManager(limit=9)
        self.feed = ChangeFeed()
        self.feed.subscribe(self.connections.deliver)
        self.mine, self.other, self.session = Listener(), Listener(), Listener()
        for library, listener in (("mine", self.mine), ("other", self.other)):
            self.connections.open(self.connections.connect(listener, library, library), '"hello"')
        connection = self.connections.connect(self.session, "mine", None)
        self.connections.open(connection, '"hello"')
        self.sid = connection.sid

    async def wait_for(self, listener: Listener, last: object, within: float = 20) -> list[Any]:
        async with asyncio.timeout(within):
            while listener.received[-1:] != [last]:
                await asyncio.sleep(0.001)
        assert listener.received[0] == "hello"
        return listener.received[1:]


DATE = datetime(2026, 11, 22, tzinfo=UTC)


def changes(*created: tuple[str, int]) -> list[Change]:
    """Return the creations of these files, each a library and a number."""
    return [
        Change(
            ChangeKind.CREATED,
            FileInfo(str(number), Key.at(library, f"{number}"), 1, "video/mp4", "etag", None, DATE, DATE),
        )
        for library, number in created
    ]


def created(number: int) -> dict[str, str]:
    return {"type": "file.created", "id": str(number), "path": str(number), "etag": "etag"}


RESYNC = {"type": "resync"}


def run(scenario: Scenario) -> None:
    async def main() -> None:
        await scenario(Process())

    asyncio.run(main())


def test_changes_of_other_process_reach_only_their_library_in_order() -> None:
    async def scenario(process: Process) -> None:
        for number in range(MAX_PENDING_CHANGES):
            process.feed.publish_threadsafe(changes(("mine", number)))
        assert await process.wait_for(process.mine, created(MAX_PENDING_CHANGES - 1)) == [
            created(number) for number in range(MAX_PENDING_CHANGES)
        ]
        for number in range(3):  # also later ones
            process.feed.publish_threadsafe(changes(("other", number), ("mine", 100 + number)))
            await asyncio.sleep(0.06)
        assert await process.wait_for(process.other, created(2)) == [created(0), created(1), created(2)]
        assert process.mine.received[1 + MAX_PENDING_CHANGES :] == [created(100), created(101), created(102)]

    run(scenario)


def test_changes_over_limit_become_resync() -> None:
    async def scenario(process: Process) -> None:
        process.feed.publish_threadsafe(
            changes(*(("mine", number) for number in range(MAX_PENDING_CHANGES + 1)))
        )
        # The resync covers the first of these as well.
        process.feed.publish_threadsafe(changes(("mine", -1), ("other", 7)))
        assert await process.wait_for(process.mine, RESYNC) == [RESYNC]
        assert await process.wait_for(process.other, created(7)) == [created(7)]
        process.feed.publish_threadsafe(changes(("mine", 8)))
        async with asyncio.timeout(20):
            while process.mine.received[-1] != created(8):
                await asyncio.sleep(0.01)

    run(scenario)


@pytest.mark.parametrize(("libraries", "others"), [(None, [RESYNC]), (["mine"], [])])
def test_missed_changes_become_resync(libraries: list[str] | None, others: list[object]) -> None:
    async def scenario(process: Process) -> None:
        process.feed.publish_threadsafe(changes(("mine", 1)))
        process.feed.resync_threadsafe(libraries)
        process.feed.publish_threadsafe(changes(("mine", 2)))
        assert await process.wait_for(process.mine, RESYNC) == [RESYNC]
        await asyncio.sleep(0)
        assert process.other.received[1:] == others

    run(scenario)


def test_flood_from_another_thread_ends_with_resync_or_last_event() -> None:
    """The feed stays bounded, and the event loop responsive."""

    async def scenario(process: Process) -> None:
        def flood() -> None:
            for number in range(5000):
                process.feed.publish_threadsafe(changes(("mine", number)))
            process.feed.publish_threadsafe(changes(("other", 1)))

        thread = threading.Thread(target=flood)
        thread.start()
        await process.wait_for(process.other, created(1))
        thread.join()
        last = process.mine.received[-1]
        assert last in (RESYNC, created(4999))
        assert process.mine.received.count(RESYNC) < 20

    run(scenario)


def test_listener_keeps_up_with_flood_when_it_takes_1_ms_per_event() -> None:
    async def scenario(process: Process) -> None:
        process.mine.delay_s = 0.001
        for number in range(2500):
            process.feed.publish_threadsafe(changes(("mine", number)))
            if number % 50 == 0:
                await asyncio.sleep(0)
                time.sleep(0.01)  # the 2,500 events arrive within half a second
        process.feed.publish_threadsafe(changes(("other", 1)))
        await process.wait_for(process.other, created(1))
        async with asyncio.timeout(20):
            while process.mine.received[-1] not in (RESYNC, created(2499)):
                await asyncio.sleep(0.001)
        assert not process.mine.closed

    run(scenario)


def test_change_during_delivery_is_delivered_next() -> None:
    async def scenario(process: Process) -> None:
        late = [("mine", 1)]

        def publish_from_thread(_batch: Batch) -> None:
            if late:
                thread = threading.Thread(target=process.feed.publish_threadsafe, args=(changes(late.pop()),))
                thread.start()
                thread.join()

        process.feed.subscribe(publish_from_thread)
        process.feed.publish_threadsafe(changes(("mine", 0)))
        assert await process.wait_for(process.mine, created(1)) == [created(0), created(1)]

    run(scenario)


def test_pending_changes_and_messages_are_bounded() -> None:
    pending = Pending()
    for number in range(5000):
        pending.add_changes(changes((f"library {number % 40}", number)), unverified=False)
        pending.add_message(Message("mine", "sid", str(number)))
    batch = pending.take()
    assert batch.resync == {f"library {number}" for number in range(40)}
    assert batch.changes == []
    assert [message.text for message in batch.messages] == [
        str(number) for number in range(5000 - MAX_PENDING_MESSAGES, 5000)
    ]
    for number in range(MAX_PENDING_LIBRARIES + 1):
        pending.add_resync([f"one more {number}"])
    assert pending.take().resync is None
    assert pending.take().is_empty


def test_unverified_files_are_reported_without_changes() -> None:
    async def scenario(process: Process) -> None:
        batches: list[Batch] = []
        process.feed.subscribe(batches.append)
        process.feed.publish_threadsafe([], unverified=True)
        async with asyncio.timeout(20):
            while not batches:
                await asyncio.sleep(0.001)
        assert batches == [Batch([], set(), [], unverified=True)]

    run(scenario)


def test_feed_drops_news_until_first_subscription() -> None:
    async def scenario(_: Process) -> None:
        feed = ChangeFeed()
        feed.publish(changes(("mine", 1)))
        feed.publish_threadsafe(changes(("mine", 2)), unverified=True)
        feed.resync_threadsafe()
        feed.send_threadsafe(Message("mine", "session", "3"))
        batches: list[Batch] = []
        feed.subscribe(batches.append)
        later = changes(("mine", 4))
        feed.publish(later)  # delivers pending news first
        assert batches == [Batch(later)]

    run(scenario)


IGNORED = IgnoredNames(["*.part"])
A, B, PART = (Key(SHARED, "films", name) for name in ("a.mkv", "b.mkv", "a.mkv.part"))


@pytest.mark.parametrize(
    ("kind", "key", "previous", "listed"),
    [
        (ChangeKind.CREATED, A, None, ChangeKind.CREATED),
        (ChangeKind.CREATED, PART, None, None),
        (ChangeKind.REPLACED, PART, None, None),
        (ChangeKind.DELETED, PART, None, None),
        (ChangeKind.MOVED, A, B, ChangeKind.MOVED),
        (ChangeKind.MOVED, A, PART, ChangeKind.CREATED),
        (ChangeKind.MOVED, PART, A, ChangeKind.DELETED),
        (ChangeKind.MOVED, PART, Key(SHARED, "", "b.part"), None),
    ],
)
def test_listed_change_hides_ignored_files(
    kind: ChangeKind, key: Key, previous: Key | None, listed: ChangeKind | None
) -> None:
    info = FileInfo("id", key, 1, "video/mp4", "etag", None, DATE, DATE)
    change = listed_change(Change(kind, info, previous), IGNORED)
    assert (change.kind if change else None) == listed
    if change:
        assert ".part" not in repr(change), "changes must not name ignored files"


def test_pending_changes_precede_published_changes() -> None:
    async def scenario(process: Process) -> None:
        for number in range(3):
            process.feed.publish_threadsafe(changes(("mine", number)))
            process.feed.publish(changes(("mine", 100 + number)))
        process.feed.publish_threadsafe(changes(("mine", 9)))
        expected = [created(0), created(100), created(1), created(101), created(2), created(102), created(9)]
        assert await process.wait_for(process.mine, created(9)) == expected

    run(scenario)


class OtherProcesses(RemoteSessions):
    """Other processes, reachable once `answers` is set. A message "fails" raises OSError."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.answers = threading.Event()
        self.failed = threading.Event()

    def send(self, message: Message) -> None:
        self.answers.wait(5)
        if message.text == "fails":
            self.failed.set()
            raise OSError(message.text)
        self.texts.append(message.text)

    async def wait_for(self, text: str) -> None:
        async with asyncio.timeout(20):
            while self.texts[-1:] != [text]:
                await asyncio.sleep(0.001)


def test_message_goes_to_local_session_or_else_to_other_processes() -> None:
    async def scenario(process: Process) -> None:
        others = OtherProcesses()
        others.answers.set()
        sessions = Sessions(process.connections, others)
        sessions.send(Message("mine", process.sid, '"1"'), across_processes=True)
        sessions.send(Message("other", process.sid, '"not for this one"'), across_processes=True)
        sessions.send(Message("mine", "elsewhere", "2"), across_processes=False)
        sessions.send(Message("mine", "elsewhere", "3"), across_processes=True)
        process.feed.send_threadsafe(Message("mine", process.sid, '"4"'))
        process.feed.send_threadsafe(Message("other", process.sid, '"not for this one"'))
        process.feed.send_threadsafe(Message("mine", "elsewhere", '"not for this one"'))
        assert await process.wait_for(process.session, "4") == ["1", "4"]
        await others.wait_for("3")
        assert others.texts == ["3"]

    run(scenario)


def test_message_is_dropped_when_no_other_process_can_have_its_session() -> None:
    async def scenario(process: Process) -> None:
        Sessions(process.connections, None).send(Message("mine", "elsewhere", "1"), across_processes=True)
        assert len(asyncio.all_tasks()) == 4  # this one, and one sender for each greeting

    run(scenario)


def test_failed_message_does_not_block_later_messages() -> None:
    async def scenario(process: Process) -> None:
        others = OtherProcesses()
        others.answers.set()
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        sessions = Sessions(process.connections, others)
        sessions.send(Message("mine", "elsewhere", "fails"), across_processes=True)
        await asyncio.to_thread(others.failed.wait, 20)
        await asyncio.sleep(0.01)
        sessions.send(Message("mine", "elsewhere", "2"), across_processes=True)
        await others.wait_for("2")

    run(scenario)


def test_only_newest_messages_wait_while_other_processes_are_unreachable() -> None:
    async def scenario(process: Process) -> None:
        others = OtherProcesses()
        sessions = Sessions(process.connections, others)
        for number in range(1000):
            sessions.send(Message("mine", "elsewhere", str(number)), across_processes=True)
            await asyncio.sleep(0)
        others.answers.set()
        await others.wait_for("999")
        assert len(others.texts) == MAX_PENDING_MESSAGES + 1

    run(scenario)


def test_pauses_keep_event_delay_below_one_second() -> None:
    """From the change to the socket, an event takes a second at most."""
    assert max(BATCH_PAUSE_S, RESYNC_PAUSE_S) <= 0.5
