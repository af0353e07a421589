"""What every database promises of leases (app/storage/leases.py), between processes: here each has opened the
same library for itself."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import make_url

from app.database import open_database
from app.settings import Settings
from app.storage.errors import StorageError
from app.storage.leases import HeldElsewhere, Leases
from tests.conftest import BACKENDS
from tests.support import postgres

pytestmark = pytest.mark.anyio

LASTS_S = 2.0

HOLDS_AND_SAYS_SO = """
import asyncio, os, sys
from app.database import open_database
from app.settings import Settings

async def hold():
    async with open_database(Settings(_env_file=None), media_type=str) as stores:
        lasts_s = float(sys.argv[1])

        async def work():
            async with stores.leases.turn("killed", lasts_s=lasts_s):
                print("held", flush=True)
                await asyncio.sleep(60)

        await stores.leases.whenever_held("killed work", work, lasts_s=lasts_s)

asyncio.run(hold())
"""


@pytest.fixture(scope="module", params=BACKENDS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Of an empty library."""
    return settings_of(request.param, tmp_path_factory.mktemp("leases"))


def settings_of(backend: str, folder: Path) -> Settings:
    return Settings(_env_file=None, files_dir=folder / "files", **BACKENDS[backend]())


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Leases]:
    async with open_database(settings, media_type=str) as stores:
        yield stores.leases


@pytest.fixture
async def one(shared: Settings, anyio_backend: str) -> AsyncIterator[Leases]:
    async with opened(shared) as leases:
        yield leases


@pytest.fixture
async def two(shared: Settings, one: Leases) -> AsyncIterator[Leases]:
    async with opened(shared) as leases:
        yield leases


async def is_free(leases: Leases, name: str = "name") -> bool:
    with suppress(HeldElsewhere):
        async with leases.turn(name, within_s=0):
            return True
    return False


async def until(condition: Callable[[], bool], within_s: float = 30) -> float:
    """How long it took."""
    began = time.monotonic()
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_of_many_who_race_one_at_a_time_has_it_and_all_in_the_end(one: Leases, two: Leases) -> None:
    inside, turns = 0, 0

    async def take(leases: Leases) -> None:
        nonlocal inside, turns
        async with leases.turn("name"):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0.001)
            inside -= 1
            turns += 1

    await asyncio.gather(*(take(leases) for leases in (one, two) * 6))
    assert turns == 12
    assert await is_free(one)


async def test_what_is_given_back_is_free_at_once_and_other_names_always(one: Leases, two: Leases) -> None:
    for leases, other in ((one, two), (two, one), (one, one)):
        async with leases.turn("name"):
            assert not await is_free(other)
            assert await is_free(other, "another name")
            assert await is_free(other, "$name")
        assert await is_free(other)
    with pytest.raises(ZeroDivisionError):
        async with one.turn("name"):
            raise ZeroDivisionError
    assert await is_free(two)


async def test_a_turn_is_waited_for_and_not_without_end(one: Leases, two: Leases) -> None:
    async with one.turn("name"):
        began = time.monotonic()
        with pytest.raises(HeldElsewhere):
            async with two.turn("name", within_s=0.2):
                pass
        assert 0.2 <= time.monotonic() - began < 10
        waiting = asyncio.create_task(is_free_within(two, 30))
        await asyncio.sleep(0.1)
    assert await waiting


async def is_free_within(leases: Leases, within_s: float) -> bool:
    async with leases.turn("name", within_s=within_s):
        return True


async def test_who_waits_and_leaves_holds_nothing(one: Leases, two: Leases) -> None:
    for pause in (0, 0.001, 0.004, 0.02, 0.05):
        waiting = asyncio.create_task(is_free_within(two, 5))
        await asyncio.sleep(pause)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert await is_free(one)


@asynccontextmanager
async def another_process(settings: Settings) -> AsyncIterator[asyncio.subprocess.Process]:
    """It holds "killed", and works for as long as that is its to do."""
    given = settings.model_dump(include={"storage", "files_dir", "database_url", "mongodb_url"})
    names = {f"SEEKABLE_{name.upper()}": str(value) for name, value in given.items() if value is not None}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDS_AND_SAYS_SO, str(LASTS_S)),
        env={**os.environ, **names},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"held\n"
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Work:
    """What is to be done by one process at a time."""

    begun = ended = 0

    async def do(self) -> None:
        self.begun += 1
        try:
            await asyncio.sleep(60)
        finally:
            self.ended += 1

    @property
    def goes_on(self) -> bool:
        return self.begun > self.ended


@asynccontextmanager
async def doing(leases: Leases, name: str = "work") -> AsyncIterator[Work]:
    work = Work()
    task = asyncio.create_task(leases.whenever_held(name, work.do, lasts_s=LASTS_S))
    try:
        yield work
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_takes_time_with_every_database(
    tmp_path: Path, anyio_backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All of it at once."""
    async with AsyncExitStack() as stack:
        under_way = []
        for backend in BACKENDS:
            settings = settings_of(backend, tmp_path / backend)
            one, two = [await stack.enter_async_context(opened(settings)) for _ in range(2)]
            under_way += [
                it_is_held_for_as_long_as_that_takes(one, two),
                what_a_process_held_is_free_when_it_was_killed(one, settings),
                one_works_and_another_goes_on_when_it_stops(one, two),
                work_that_fails_is_begun_anew(one, backend, caplog),
            ]
        settings = settings_of("postgresql", tmp_path / "cannot renew")
        leases = await stack.enter_async_context(opened(settings))
        under_way.append(who_cannot_renew_stops_before_others_may_begin(leases, settings))
        async with asyncio.TaskGroup() as group:
            for each in under_way:
                group.create_task(each)


async def it_is_held_for_as_long_as_that_takes(one: Leases, two: Leases) -> None:
    async with one.turn("long", lasts_s=LASTS_S):
        ends = time.monotonic() + 2 * LASTS_S
        while time.monotonic() < ends:
            assert not await is_free(two, "long")
            await asyncio.sleep(0.1)
    assert await is_free(two, "long")


async def what_a_process_held_is_free_when_it_was_killed(one: Leases, settings: Settings) -> None:
    async with another_process(settings) as process, doing(one, "killed work") as work:
        ends = time.monotonic() + 1.5 * LASTS_S
        while time.monotonic() < ends:
            assert not await is_free(one, "killed")
            assert not work.begun
            await asyncio.sleep(0.1)
        process.kill()
        killed = time.monotonic()
        async with one.turn("killed", within_s=30):
            assert time.monotonic() - killed < LASTS_S + 5
        await until(lambda: work.goes_on)
        assert time.monotonic() - killed < 1.4 * LASTS_S + 5


async def one_works_and_another_goes_on_when_it_stops(one: Leases, two: Leases) -> None:
    async with doing(two) as later:
        async with doing(one) as first:
            await until(lambda: first.goes_on or later.goes_on)
            for _ in range(20):
                assert first.goes_on != later.goes_on
                await asyncio.sleep(LASTS_S / 10)
            assert first.begun + later.begun == 1
        assert not first.goes_on
        assert await until(lambda: later.goes_on) < LASTS_S
    assert not later.goes_on
    assert await is_free(one, "work")


async def work_that_fails_is_begun_anew(one: Leases, backend: str, caplog: pytest.LogCaptureFixture) -> None:
    begun = 0

    async def fail() -> None:
        nonlocal begun
        begun += 1
        raise OSError(f"not today, {backend}")

    task = asyncio.create_task(one.whenever_held("what fails", fail, lasts_s=LASTS_S))
    await until(lambda: begun == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert f"not today, {backend}" in str([record.exc_info for record in caplog.records])


async def who_cannot_renew_stops_before_others_may_begin(leases: Leases, settings: Settings) -> None:
    """Its database is gone, here: nobody may connect, and who is connected is thrown out."""
    assert settings.database_url is not None
    name = make_url(settings.database_url).database

    def let_in(allowed: bool) -> None:
        with postgres.shared().connected() as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}")  # type: ignore[arg-type]
            if not allowed:
                leave = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
                connection.execute(leave, (name,))

    async with doing(leases) as work:
        await until(lambda: work.goes_on)
        await asyncio.sleep(LASTS_S / 2)
        assert work.goes_on
        let_in(False)
        try:
            assert await until(lambda: not work.goes_on) < LASTS_S
            with pytest.raises(StorageError):
                await is_free(leases)
        finally:
            let_in(True)
        await until(lambda: work.goes_on)
    assert work.begun == work.ended == 2
