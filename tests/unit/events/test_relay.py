"""Changes made by other processes reach the listeners of this one in order, bounded, within a second."""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from app.events import feed as module
from app.events.connections import ConnectionManager
from app.events.event import Event
from app.events.feed import MOST, MOST_LIBRARIES, MOST_TEXTS, Relay, Waiting

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
        self.relay: Relay[tuple[str, int]] = Relay(self.connections, event_of)
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


def event_of(change: tuple[str, int]) -> Event:
    library, number = change
    return Event("file.created", library, {"id": str(number)})


def created(number: int) -> dict[str, str]:
    return {"type": "file.created", "id": str(number)}


RESYNC = {"type": "resync"}


def run(scenario: Scenario) -> None:
    async def main() -> None:
        await scenario(Process())

    asyncio.run(main())


def test_changes_of_other_process_reach_only_their_library_in_order() -> None:
    async def scenario(process: Process) -> None:
        for number in range(MOST):
            process.relay.changed([("mine", number)])
        assert await process.wait_for(process.mine, created(MOST - 1)) == [
            created(number) for number in range(MOST)
        ]
        for number in range(3):  # also later ones
            process.relay.changed([("other", number), ("mine", 100 + number)])
            await asyncio.sleep(0.06)
        assert await process.wait_for(process.other, created(2)) == [created(0), created(1), created(2)]
        assert process.mine.received[1 + MOST :] == [created(100), created(101), created(102)]

    run(scenario)


def test_changes_over_limit_become_resync() -> None:
    async def scenario(process: Process) -> None:
        process.relay.changed([("mine", number) for number in range(MOST + 1)])
        process.relay.changed([("mine", -1), ("other", 7)])  # the resync covers the first of these as well
        assert await process.wait_for(process.mine, RESYNC) == [RESYNC]
        assert await process.wait_for(process.other, created(7)) == [created(7)]
        process.relay.changed([("mine", 8)])
        async with asyncio.timeout(20):
            while process.mine.received[-1] != created(8):
                await asyncio.sleep(0.01)

    run(scenario)


@pytest.mark.parametrize(("libraries", "others"), [(None, [RESYNC]), (["mine"], [])])
def test_missed_changes_become_resync(libraries: list[str] | None, others: list[object]) -> None:
    async def scenario(process: Process) -> None:
        process.relay.changed([("mine", 1)])
        process.relay.missed(libraries)
        process.relay.changed([("mine", 2)])
        assert await process.wait_for(process.mine, RESYNC) == [RESYNC]
        await asyncio.sleep(0)
        assert process.other.received[1:] == others

    run(scenario)


def test_flood_from_another_thread_ends_with_resync_or_last_event() -> None:
    """The relay stays bounded, and the event loop responsive."""

    async def scenario(process: Process) -> None:
        def flood() -> None:
            for number in range(5000):
                process.relay.changed([("mine", number)])
            process.relay.changed([("other", 1)])

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
            process.relay.changed([("mine", number)])
            if number % 50 == 0:
                await asyncio.sleep(0)
                time.sleep(0.01)  # the 2,500 events arrive within half a second
        process.relay.changed([("other", 1)])
        await process.wait_for(process.other, created(1))
        async with asyncio.timeout(20):
            while process.mine.received[-1] not in (RESYNC, created(2499)):
                await asyncio.sleep(0.001)
        assert not process.mine.closed

    run(scenario)


def test_change_during_delivery_is_delivered_next() -> None:
    async def scenario(process: Process) -> None:
        take = process.relay._heard.take
        late = [created(1)]

        def take_with_late_change() -> Any:
            result = take()
            if late:
                late.pop()
                other = threading.Thread(target=process.relay.changed, args=([("mine", 1)],))
                other.start()
                other.join()
            return result

        process.relay._heard.take = take_with_late_change  # type: ignore[method-assign]
        process.relay.changed([("mine", 0)])
        assert await process.wait_for(process.mine, created(1)) == [created(0), created(1)]

    run(scenario)


def test_waiting_events_and_texts_are_bounded() -> None:
    waiting = Waiting()
    for number in range(5000):
        waiting.events([event_of((f"library {number % 40}", number))])
        waiting.text("mine", "sid", str(number))
        assert len(waiting._events) <= MOST
    for number in range(MOST_LIBRARIES + 1):
        assert len(waiting._again) <= MOST_LIBRARIES
        waiting.again([f"one more {number}"])
    events, again, texts = waiting.take()
    assert (events, again) == ([], None)
    assert texts == [("mine", "sid", str(number)) for number in range(5000 - MOST_TEXTS, 5000)]
    assert waiting.take() == ([], set(), [])


def test_relayed_changes_precede_later_local_events() -> None:
    async def scenario(process: Process) -> None:
        for number in range(3):
            process.relay.changed([("mine", number)])
            process.relay.publish(event_of(("mine", 100 + number)))
        process.relay.changed([("mine", 9)])
        expected = [created(0), created(100), created(1), created(101), created(2), created(102), created(9)]
        assert await process.wait_for(process.mine, created(9)) == expected

    run(scenario)


class OtherProcesses:
    """Other processes, reachable once `answers` is set."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str, str]] = []
        self.answers = threading.Event()

    def tell(self, library: str, sid: str, text: str) -> None:
        self.answers.wait(5)
        self.texts.append((library, sid, text))


def test_progress_goes_to_local_session_or_else_to_other_processes() -> None:
    async def scenario(process: Process) -> None:
        others = OtherProcesses()
        others.answers.set()
        process.relay.send("mine", "elsewhere", "early", elsewhere=True)  # dropped: `open` comes next
        process.relay.open(others)
        process.relay.send("mine", process.sid, '"1"', elsewhere=True)
        process.relay.send("other", process.sid, '"not for this one"', elsewhere=True)
        process.relay.send("mine", "elsewhere", "2", elsewhere=False)
        process.relay.send("mine", "elsewhere", "3", elsewhere=True)
        process.relay.progressed("mine", process.sid, '"4"')
        process.relay.progressed("other", process.sid, '"not for this one"')
        process.relay.progressed("mine", "elsewhere", '"not for this one"')
        assert await process.wait_for(process.session, "4") == ["1", "4"]
        async with asyncio.timeout(20):
            while not others.texts:
                await asyncio.sleep(0.001)
        assert others.texts == [("mine", "elsewhere", "3")]

    run(scenario)


def test_failed_text_does_not_block_later_texts() -> None:
    class Failing(OtherProcesses):
        def tell(self, library: str, sid: str, text: str) -> None:
            if text == "1":
                raise OSError("not this one")
            super().tell(library, sid, text)

    async def scenario(process: Process) -> None:
        others = Failing()
        others.answers.set()
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        process.relay.open(others)
        for number in range(1, 3):
            process.relay.send("mine", "elsewhere", str(number), elsewhere=True)
            while process.relay._telling is not None:
                await asyncio.sleep(0.001)
        assert others.texts == [("mine", "elsewhere", "2")]

    run(scenario)


def test_only_newest_progress_waits_while_other_processes_are_unreachable() -> None:
    async def scenario(process: Process) -> None:
        others = OtherProcesses()
        process.relay.open(others)
        for number in range(1000):
            process.relay.send("mine", "elsewhere", str(number), elsewhere=True)
            await asyncio.sleep(0)
        others.answers.set()
        async with asyncio.timeout(20):
            while not others.texts or others.texts[-1][2] != "999":
                await asyncio.sleep(0.001)
        assert len(others.texts) == MOST_TEXTS + 1

    run(scenario)


def test_pauses_keep_event_delay_below_one_second() -> None:
    """From the change to the socket, an event takes a second at most."""
    assert max(module.PAUSE_S, module.AGAIN_PAUSE_S) <= 0.5
