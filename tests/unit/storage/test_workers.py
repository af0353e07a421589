"""Serial queues of a pool, and the limit of a bounded pool."""

import asyncio
import gc
import threading
import weakref

import pytest

from app.storage.workers import BoundedPool, Pool, wait_until_done

pytestmark = pytest.mark.anyio


async def test_serial_queue_runs_calls_in_order() -> None:
    pool = Pool(4, "test")
    queue, done = pool.serial_queue(), []
    await asyncio.gather(*(queue.start(done.append, number) for number in range(200)))
    assert done == list(range(200))
    pool.close()


async def test_failed_call_is_freed_without_garbage_collection() -> None:
    pool = Pool(1, "test")

    class Failure(Exception):
        pass

    async def fail() -> weakref.ref[Failure]:
        def call() -> None:
            raise Failure

        try:
            await pool.run(call)
        except Failure as failure:
            return weakref.ref(failure)
        raise AssertionError

    gc.disable()
    try:
        failure = await fail()
        pool.close()
        assert failure() is None
    finally:
        gc.enable()


async def test_serial_queue_fails_later_calls_when_one_fails() -> None:
    pool = Pool(2, "test")
    queue, begin, done = pool.serial_queue(), threading.Event(), []

    def fail() -> None:
        begin.wait(5)
        raise OSError("full")

    calls = [queue.start(done.append, 1), queue.start(fail), queue.start(done.append, 2)]
    begin.set()
    await wait_until_done(asyncio.gather(*calls, return_exceptions=True))
    calls.append(queue.start(done.append, 3))
    with pytest.raises(OSError, match="full"):
        await calls[3]
    assert [str(call.exception()) for call in calls] == ["None", "full", "full", "full"]
    assert done == [1]
    pool.close()


@pytest.mark.parametrize("threads", [1, 2])
async def test_closed_pool_cancels_waiting_calls(threads: int) -> None:
    pool = Pool(threads, "test")
    queue, other = pool.serial_queue(), pool.serial_queue()
    begun, end = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        end.wait(5)

    calls = [queue.start(wait), queue.start(wait), other.start(end.wait, 5), other.start(wait)]
    await asyncio.to_thread(begun.wait, 5)
    closing = asyncio.create_task(asyncio.to_thread(pool.close))
    await asyncio.sleep(0.1)
    end.set()
    await closing
    calls += [queue.start(wait), other.start(wait)]
    async with asyncio.timeout(5):
        await wait_until_done(asyncio.gather(*calls, return_exceptions=True))
    assert [call.cancelled() for call in calls] == [False, True, threads == 1, True, True, True]


class Overloaded(Exception):
    pass


async def test_bounded_pool_refuses_calls_beyond_its_queue() -> None:
    pool, end = BoundedPool(1, "test", max_waiting=2, refuse=Overloaded), threading.Event()
    calls = [pool.start(end.wait, 5) for _ in range(3)]
    with pytest.raises(Overloaded):
        pool.start(end.wait, 5)
    calls[2].cancel()  # it leaves the queue, and another call may enter
    await asyncio.sleep(0)
    calls[2] = pool.start(end.wait, 5)
    with pytest.raises(Overloaded):
        pool.start(end.wait, 5)
    end.set()
    assert await asyncio.gather(*calls) == [True, True, True]
    assert await pool.start(end.is_set)
    pool.close()


async def test_bounded_pool_counts_cancelled_call_until_its_thread_ends() -> None:
    pool, begun, end = (
        BoundedPool(1, "test", max_waiting=0, refuse=Overloaded),
        threading.Event(),
        threading.Event(),
    )

    def block() -> None:
        begun.set()
        end.wait(5)

    call = pool.start(block)
    begun.wait(5)
    call.cancel()
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        pool.start(block)
    end.set()
    await asyncio.to_thread(pool.close)
