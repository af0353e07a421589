"""What other processes did, as those hear of it who listen here: bounded, in order, and never slower than a
second."""

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

Scene = Callable[["Here"], Awaitable[None]]


class Listener:
    """A peer that reads, and takes so many seconds for each message."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.takes = 0.0
        self.closed = False

    async def send(self, text: str) -> None:
        await asyncio.sleep(self.takes)
        self.got.append(json.loads(text))

    async def close(self, code: int) -> None:
        self.closed = True


class Here:
    """One process, in which two libraries are listened to."""

    def __init__(self) -> None:
        self.connections = ConnectionManager(limit=9)
        self.relay: Relay[tuple[str, int]] = Relay(self.connections, event_of)
        self.mine, self.other, self.session = Listener(), Listener(), Listener()
        for library, listener in (("mine", self.mine), ("other", self.other)):
            self.connections.open(self.connections.connect(listener, library, library), '"hello"')
        connection = self.connections.connect(self.session, "mine", None)
        self.connections.open(connection, '"hello"')
        self.sid = connection.sid

    async def until(self, listener: Listener, last: object, within: float = 20) -> list[Any]:
        async with asyncio.timeout(within):
            while listener.got[-1:] != [last]:
                await asyncio.sleep(0.001)
        assert listener.got[0] == "hello"
        return listener.got[1:]


def event_of(change: tuple[str, int]) -> Event:
    library, number = change
    return Event("file.created", library, {"id": str(number)})


def told(number: int) -> dict[str, str]:
    return {"type": "file.created", "id": str(number)}


AGAIN = {"type": "resync"}


def run(scene: Scene) -> None:
    async def main() -> None:
        await scene(Here())

    asyncio.run(main())


def test_others_changes_are_told_in_order_and_to_their_library_only() -> None:
    async def scene(here: Here) -> None:
        for number in range(MOST):
            here.relay.changed([("mine", number)])
        assert await here.until(here.mine, told(MOST - 1)) == [told(number) for number in range(MOST)]
        for number in range(3):  # what comes later, too
            here.relay.changed([("other", number), ("mine", 100 + number)])
            await asyncio.sleep(0.06)
        assert await here.until(here.other, told(2)) == [told(0), told(1), told(2)]
        assert here.mine.got[1 + MOST :] == [told(100), told(101), told(102)]

    run(scene)


def test_of_more_at_once_the_library_hears_that_it_should_list_again() -> None:
    async def scene(here: Here) -> None:
        here.relay.changed([("mine", number) for number in range(MOST + 1)])
        here.relay.changed([("mine", -1), ("other", 7)])  # the list will have the first, too
        assert await here.until(here.mine, AGAIN) == [AGAIN]
        assert await here.until(here.other, told(7)) == [told(7)]
        here.relay.changed([("mine", 8)])
        async with asyncio.timeout(20):
            while here.mine.got[-1] != told(8):
                await asyncio.sleep(0.01)

    run(scene)


@pytest.mark.parametrize(("libraries", "others"), [(None, [AGAIN]), (["mine"], [])])
def test_what_may_have_been_missed_is_listed_again(libraries: list[str] | None, others: list[object]) -> None:
    async def scene(here: Here) -> None:
        here.relay.changed([("mine", 1)])
        here.relay.missed(libraries)
        here.relay.changed([("mine", 2)])
        assert await here.until(here.mine, AGAIN) == [AGAIN]
        await asyncio.sleep(0)
        assert here.other.got[1:] == others

    run(scene)


def test_a_flood_from_another_thread_ends_with_a_list() -> None:
    """It never holds more than a few, and the loop goes on meanwhile."""

    async def scene(here: Here) -> None:
        def flood() -> None:
            for number in range(5000):
                here.relay.changed([("mine", number)])
            here.relay.changed([("other", 1)])

        thread = threading.Thread(target=flood)
        thread.start()
        await here.until(here.other, told(1))
        thread.join()
        last = here.mine.got[-1]
        assert last in (AGAIN, told(4999))
        assert here.mine.got.count(AGAIN) < 20

    run(scene)


def test_who_takes_a_millisecond_for_each_keeps_up_with_a_flood() -> None:
    async def scene(here: Here) -> None:
        here.mine.takes = 0.001
        for number in range(2500):
            here.relay.changed([("mine", number)])
            if number % 50 == 0:
                await asyncio.sleep(0)
                time.sleep(0.01)  # so many come in half a second
        here.relay.changed([("other", 1)])
        await here.until(here.other, told(1))
        async with asyncio.timeout(20):
            while here.mine.got[-1] not in (AGAIN, told(2499)):
                await asyncio.sleep(0.001)
        assert not here.mine.closed

    run(scene)


def test_what_comes_while_the_rest_is_told_is_told_next() -> None:
    async def scene(here: Here) -> None:
        take = here.relay._heard.take
        late = [told(1)]

        def taken() -> Any:
            result = take()
            if late:
                late.pop()
                other = threading.Thread(target=here.relay.changed, args=([("mine", 1)],))
                other.start()
                other.join()
            return result

        here.relay._heard.take = taken  # type: ignore[method-assign]
        here.relay.changed([("mine", 0)])
        assert await here.until(here.mine, told(1)) == [told(0), told(1)]

    run(scene)


def test_what_waits_is_bounded() -> None:
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


def test_what_was_heard_before_is_told_before_what_happens_here() -> None:
    async def scene(here: Here) -> None:
        for number in range(3):
            here.relay.changed([("mine", number)])
            here.relay.publish(event_of(("mine", 100 + number)))
        here.relay.changed([("mine", 9)])
        expected = [told(0), told(100), told(1), told(101), told(2), told(102), told(9)]
        assert await here.until(here.mine, told(9)) == expected

    run(scene)


class Others:
    """Other processes, whose database answers when it may."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []
        self.answers = threading.Event()

    def tell(self, library: str, sid: str, text: str) -> None:
        self.answers.wait(5)
        self.told.append((library, sid, text))


def test_progress_goes_to_who_is_here_and_else_to_the_others() -> None:
    async def scene(here: Here) -> None:
        others = Others()
        others.answers.set()
        here.relay.send("mine", "elsewhere", "early", elsewhere=True)  # nobody is there yet
        here.relay.open(others)
        here.relay.send("mine", here.sid, '"1"', elsewhere=True)
        here.relay.send("other", here.sid, '"not for this one"', elsewhere=True)
        here.relay.send("mine", "elsewhere", "2", elsewhere=False)
        here.relay.send("mine", "elsewhere", "3", elsewhere=True)
        here.relay.progressed("mine", here.sid, '"4"')
        here.relay.progressed("other", here.sid, '"not for this one"')
        here.relay.progressed("mine", "elsewhere", '"not for this one"')
        assert await here.until(here.session, "4") == ["1", "4"]
        async with asyncio.timeout(20):
            while not others.told:
                await asyncio.sleep(0.001)
        assert others.told == [("mine", "elsewhere", "3")]

    run(scene)


def test_a_text_that_could_not_be_told_does_not_keep_back_those_after_it() -> None:
    class Failing(Others):
        def tell(self, library: str, sid: str, text: str) -> None:
            if text == "1":
                raise OSError("not this one")
            super().tell(library, sid, text)

    async def scene(here: Here) -> None:
        others = Failing()
        others.answers.set()
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        here.relay.open(others)
        for number in range(1, 3):
            here.relay.send("mine", "elsewhere", str(number), elsewhere=True)
            while here.relay._telling is not None:
                await asyncio.sleep(0.001)
        assert others.told == [("mine", "elsewhere", "2")]

    run(scene)


def test_of_progress_that_cannot_be_told_only_the_newest_waits() -> None:
    async def scene(here: Here) -> None:
        others = Others()
        here.relay.open(others)
        for number in range(1000):
            here.relay.send("mine", "elsewhere", str(number), elsewhere=True)
            await asyncio.sleep(0)
        others.answers.set()
        async with asyncio.timeout(20):
            while not others.told or others.told[-1][2] != "999":
                await asyncio.sleep(0.001)
        assert len(others.told) == MOST_TEXTS + 1

    run(scene)


def test_no_event_waits_for_long() -> None:
    """Whatever came before: a second is promised from the change to the socket."""
    assert max(module.PAUSE_S, module.AGAIN_PAUSE_S) <= 0.5
