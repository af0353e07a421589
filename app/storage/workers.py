"""Threads for what blocks, and waiting for them without leaving any behind."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import BoundedSemaphore, Lock
from typing import TypeVar

T = TypeVar("T")


async def ended(future: asyncio.Future[T]) -> T:
    """The future's result. When cancelled, the cancellation goes on only after the future has ended.

    Cancelling a task does not stop its thread: whoever closed a descriptor or removed a file while the
    thread still used it would break it.
    """
    await settled(future)
    return future.result()


async def settled(future: asyncio.Future[T]) -> None:
    """Return when the future has ended, however it ended; then let a cancellation go on."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if not future.cancelled():
        future.exception()  # seen, so that it is not reported as never retrieved
    if cancelled is not None:
        raise cancelled


class Pool:
    """A bounded number of threads."""

    def __init__(self, threads: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def start(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        return await ended(self.start(function, *arguments))

    def series(self) -> "Series":
        return Series(self._executor)

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


class BoundedPool(Pool):
    """A bounded number of threads, with at most `max_waiting` calls in the queue behind them.

    A call too many raises the exception that `refuse` creates. A cancelled call leaves the queue; one that
    has begun runs to its end.
    """

    def __init__(self, threads: int, name: str, *, max_waiting: int, refuse: Callable[[], Exception]) -> None:
        super().__init__(threads, name)
        self._places = BoundedSemaphore(threads + max_waiting)
        self._refuse = refuse

    def start(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        if not self._places.acquire(blocking=False):
            raise self._refuse()
        future = self._executor.submit(function, *arguments)
        future.add_done_callback(lambda _: self._places.release())
        return asyncio.wrap_future(future)


class Series:
    """What the threads of a pool do one after the other, in the order in which it was started.

    The next begins when the one before it has ended, without the event loop, which may be busy; but after
    others who wait for a thread. When one has failed, those that come after it are not done, and fail as it
    did; when the pool is closed, those that have not begun are cancelled.
    """

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = executor
        self._lock = Lock()
        self._steps: deque[tuple[Future[None], Callable[[], None]]] = deque()  # the first is being done
        self._failed: BaseException | None = None

    def start(self, function: Callable[..., None], *arguments: object) -> asyncio.Future[None]:
        done: Future[None] = Future()
        with self._lock:
            self._steps.append((done, partial(function, *arguments)))
            is_first = len(self._steps) == 1
        if is_first:
            self._submit()
        return asyncio.wrap_future(done)

    def _submit(self) -> None:
        try:
            self._executor.submit(self._do).add_done_callback(self._ended)
        except RuntimeError:  # the pool is closed
            self._give_up()

    def _ended(self, work: Future[None]) -> None:
        if work.cancelled():  # the pool was closed before a thread was free
            self._give_up()

    def _give_up(self) -> None:
        with self._lock:
            steps, self._steps = self._steps, deque()
        for done, _ in steps:
            done.cancel()

    def _do(self) -> None:
        done, function = self._steps[0]
        if done.set_running_or_notify_cancel():
            try:
                if self._failed is not None:
                    raise self._failed
                function()
            except BaseException as error:
                self._failed = error
                done.set_exception(error)
            else:
                done.set_result(None)
        with self._lock:
            self._steps.popleft()
            more = bool(self._steps)
        if more:
            self._submit()
