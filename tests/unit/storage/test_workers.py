"""Series of steps that the threads of a pool run one after the other."""

import asyncio
import threading

import pytest

from app.storage.workers import Pool, wait_until_done

pytestmark = pytest.mark.anyio


async def test_series_runs_steps_in_order() -> None:
    pool = Pool(4, "test")
    series, done = pool.serial_queue(), []
    await asyncio.gather(*(series.start(done.append, number) for number in range(200)))
    assert done == list(range(200))
    pool.close()


async def test_series_fails_later_steps_when_one_fails() -> None:
    pool = Pool(2, "test")
    series, begin, done = pool.serial_queue(), threading.Event(), []

    def fail() -> None:
        begin.wait(5)
        raise OSError("full")

    steps = [series.start(done.append, 1), series.start(fail), series.start(done.append, 2)]
    begin.set()
    await wait_until_done(asyncio.gather(*steps, return_exceptions=True))
    steps.append(series.start(done.append, 3))
    with pytest.raises(OSError, match="full"):
        await steps[3]
    assert [str(step.exception()) for step in steps] == ["None", "full", "full", "full"]
    assert done == [1]
    pool.close()


@pytest.mark.parametrize("threads", [1, 2])
async def test_closed_pool_cancels_waiting_steps(threads: int) -> None:
    pool = Pool(threads, "test")
    series, other = pool.serial_queue(), pool.serial_queue()
    begun, end = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        end.wait(5)

    steps = [series.start(wait), series.start(wait), other.start(end.wait, 5), other.start(wait)]
    await asyncio.to_thread(begun.wait, 5)
    closing = asyncio.create_task(asyncio.to_thread(pool.close))
    await asyncio.sleep(0.1)
    end.set()
    await closing
    steps += [series.start(wait), other.start(wait)]
    async with asyncio.timeout(5):
        await wait_until_done(asyncio.gather(*steps, return_exceptions=True))
    assert [step.cancelled() for step in steps] == [False, True, threads == 1, True, True, True]
