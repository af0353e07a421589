"""The contract of leases (app/storage/leases.py) between processes; most tests open the same library
twice."""

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

from app.database import open_stores
from app.settings import Settings
from app.storage.errors import StorageError
from app.storage.leases import HeldElsewhere, Leases
from tests.conftest import BACKENDS
from tests.support import postgres

pytestmark = pytest.mark.anyio

LASTS_S = 2.0

HOLDER_PROGRAM = """
import asyncio, os, sys
from app.database import open_stores
from app.settings import Settings

async def hold():
    async with open_stores(Settings(_env_file=None)) as stores:
        lasts_s = float(sys.argv[1])

        async def work():
            async with stores.leases.acquire("killed", lease_s=lasts_s):
                print("held", flush=True)
                await asyncio.sleep(60)

        await stores.leases.run_while_held("killed work", work, lease_s=lasts_s)

asyncio.run(hold())
"""


@pytest.fixture(scope="module", params=BACKENDS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Return the settings of an empty library."""
    return settings_of(request.param, tmp_path_factory.mktemp("leases"))


def settings_of(backend: str, folder: Path) -> Settings:
    return Settings(_env_file=None, files_dir=folder / "files", **BACKENDS[backend]())


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Leases]:
    async with open_stores(settings) as stores:
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
        async with leases.acquire(name, timeout_s=0):
            return True
    return False


async def until(condition: Callable[[], bool], timeout_s: float = 30) -> float:
    """Block until the condition is true and return the seconds that it took."""
    began = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_turn_is_exclusive_and_reaches_every_waiter(one: Leases, two: Leases) -> None:
    inside, turns = 0, 0

    async def run_turn(leases: Leases) -> None:
        nonlocal inside, turns
        async with leases.acquire("name"):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0.001)
            inside -= 1
            turns += 1

    await asyncio.gather(*(run_turn(leases) for leases in (one, two) * 6))
    assert turns == 12
    assert await is_free(one)


async def test_released_turn_is_free_at_once_and_names_are_independent(one: Leases, two: Leases) -> None:
    for leases, other in ((one, two), (two, one), (one, one)):
        async with leases.acquire("name"):
            assert not await is_free(other)
            assert await is_free(other, "another name")
            assert await is_free(other, "$name")
        assert await is_free(other)
    with pytest.raises(ZeroDivisionError):
        async with one.acquire("name"):
            raise ZeroDivisionError
    assert await is_free(two)


async def test_turn_blocks_until_released_or_timeout(one: Leases, two: Leases) -> None:
    async with one.acquire("name"):
        began = time.monotonic()
        with pytest.raises(HeldElsewhere):
            async with two.acquire("name", timeout_s=0.2):
                pass
        assert 0.2 <= time.monotonic() - began < 10
        waiting = asyncio.create_task(is_free_within(two, 30))
        await asyncio.sleep(0.1)
    assert await waiting


async def is_free_within(leases: Leases, timeout_s: float) -> bool:
    async with leases.acquire("name", timeout_s=timeout_s):
        return True


async def test_cancelled_waiter_holds_nothing(one: Leases, two: Leases) -> None:
    for pause in (0, 0.001, 0.004, 0.02, 0.05):
        waiting = asyncio.create_task(is_free_within(two, 5))
        await asyncio.sleep(pause)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert await is_free(one)


@asynccontextmanager
async def another_process(settings: Settings) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a process that holds the turn "killed" and works while it holds the lease "killed work"."""
    chosen = settings.model_dump(include={"storage", "files_dir", "database_url", "mongodb_url"})
    names = {f"SEEKABLE_{name.upper()}": str(value) for name, value in chosen.items() if value is not None}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDER_PROGRAM, str(LASTS_S)),
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
    """Work that only one process at a time may do."""

    started = ended = 0

    async def do(self) -> None:
        self.started += 1
        try:
            await asyncio.sleep(60)
        finally:
            self.ended += 1

    @property
    def is_running(self) -> bool:
        return self.started > self.ended


@asynccontextmanager
async def running_work(leases: Leases, name: str = "work") -> AsyncIterator[Work]:
    work = Work()
    task = asyncio.create_task(leases.run_while_held(name, work.do, lease_s=LASTS_S))
    try:
        yield work
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_leases_on_sqlite_postgresql_and_gridfs(
    tmp_path: Path, anyio_backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Run all slow checks at the same time, on every database."""
    async with AsyncExitStack() as stack:
        checks = []
        for backend in BACKENDS:
            settings = settings_of(backend, tmp_path / backend)
            one, two = [await stack.enter_async_context(opened(settings)) for _ in range(2)]
            checks += [
                check_turn_is_renewed_while_held(one, two),
                check_turn_is_free_after_holder_is_killed(one, settings),
                check_work_passes_to_other_process(one, two),
                check_failed_work_is_restarted(one, backend, caplog),
            ]
        settings = settings_of("postgresql", tmp_path / "cannot renew")
        leases = await stack.enter_async_context(opened(settings))
        checks.append(check_work_stops_before_lease_expires_when_renewal_fails(leases, settings))
        async with asyncio.TaskGroup() as group:
            for each in checks:
                group.create_task(each)


async def check_turn_is_renewed_while_held(one: Leases, two: Leases) -> None:
    async with one.acquire("long", lease_s=LASTS_S):
        ends = time.monotonic() + 2 * LASTS_S
        while time.monotonic() < ends:
            assert not await is_free(two, "long")
            await asyncio.sleep(0.1)
    assert await is_free(two, "long")


async def check_turn_is_free_after_holder_is_killed(one: Leases, settings: Settings) -> None:
    async with another_process(settings) as process, running_work(one, "killed work") as work:
        ends = time.monotonic() + 1.5 * LASTS_S
        while time.monotonic() < ends:
            assert not await is_free(one, "killed")
            assert not work.started
            await asyncio.sleep(0.1)
        process.kill()
        killed = time.monotonic()
        async with one.acquire("killed", timeout_s=30):
            assert time.monotonic() - killed < LASTS_S + 5
        await until(lambda: work.is_running)
        assert time.monotonic() - killed < 1.4 * LASTS_S + 5


async def check_work_passes_to_other_process(one: Leases, two: Leases) -> None:
    async with running_work(two) as later:
        async with running_work(one) as first:
            await until(lambda: first.is_running or later.is_running)
            for _ in range(20):
                assert first.is_running != later.is_running
                await asyncio.sleep(LASTS_S / 10)
            assert first.started + later.started == 1
        assert not first.is_running
        assert await until(lambda: later.is_running) < LASTS_S
    assert not later.is_running
    assert await is_free(one, "work")


async def check_failed_work_is_restarted(one: Leases, backend: str, caplog: pytest.LogCaptureFixture) -> None:
    started = 0

    async def fail() -> None:
        nonlocal started
        started += 1
        raise OSError(f"not today, {backend}")

    task = asyncio.create_task(one.run_while_held("what fails", fail, lease_s=LASTS_S))
    await until(lambda: started == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert f"not today, {backend}" in str([record.exc_info for record in caplog.records])


async def check_work_stops_before_lease_expires_when_renewal_fails(
    leases: Leases, settings: Settings
) -> None:
    """Check it while PostgreSQL refuses new connections and has terminated those that existed."""
    assert settings.database_url is not None
    name = make_url(settings.database_url).database

    def allow_connections(allowed: bool) -> None:
        with postgres.shared().connected() as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}")  # type: ignore[arg-type]
            if not allowed:
                terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
                connection.execute(terminate, (name,))

    async with running_work(leases) as work:
        await until(lambda: work.is_running)
        await asyncio.sleep(LASTS_S / 2)
        assert work.is_running
        allow_connections(False)
        try:
            assert await until(lambda: not work.is_running) < LASTS_S
            with pytest.raises(StorageError):
                await is_free(leases)
        finally:
            allow_connections(True)
        await until(lambda: work.is_running)
    assert work.started == work.ended == 2
