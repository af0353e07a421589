"""Thread pools for blocking calls, and cancellation that never leaves a thread behind."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import BoundedSemaphore, Lock
from typing import TypeVar

T = TypeVar("T")


async def wait_for_result(future: asyncio.Future[T]) -> T:
    """Return the future's result. A cancellation is delayed until the future is done.

    Cancelling a task does not stop its thread, which would break if its descriptor were closed or its file
    removed meanwhile.
    """
    await wait_until_done(future)
    try:
        return future.result()
    finally:
        del future  # an exception refers to this frame by its traceback: the cycle would await a collection


async def wait_until_done(future: asyncio.Future[T]) -> None:
    """Wait until the future is done, whatever its outcome; only then raise CancelledError, if cancelled."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if not future.cancelled():
        future.exception()  # retrieved, or asyncio would log it
    if cancelled is not None:
        raise cancelled


class Pool:
    def __init__(self, threads: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def start(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call the function in a thread and wait for its result, also when cancelled."""
        return await wait_for_result(self.start(function, *arguments))

    def serial_queue(self) -> "SerialQueue":
        return SerialQueue(self._executor)

    def close(self) -> None:
        """Wait for the calls in progress and cancel those in the queue."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class BoundedPool(Pool):
    """A bounded number of threads, with at most `max_waiting` calls in the queue behind them.

    One call more raises the exception that `refuse` creates. A cancelled call leaves the queue; one that has
    begun runs to its end.
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


class SerialQueue:
    """Calls that a pool makes one after the other, in the order in which they were started.

    A call begins without the event loop, which may be busy, when the one before it has ended; but it queues
    behind other users of the pool. After a failure, all later calls are skipped and raise the same error.
    Closing the pool cancels the calls that have not begun.
    """

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = executor
        self._lock = Lock()
        self._calls: deque[tuple[Future[None], Callable[[], None]]] = deque()  # the first is in progress
        self._error: BaseException | None = None

    def start(self, function: Callable[..., None], *arguments: object) -> asyncio.Future[None]:
        done: Future[None] = Future()
        with self._lock:
            self._calls.append((done, partial(function, *arguments)))
            is_first = len(self._calls) == 1
        if is_first:
            self._submit()
        return asyncio.wrap_future(done)

    def _submit(self) -> None:
        try:
            self._executor.submit(self._run_first).add_done_callback(self._cancel_all_if_cancelled)
        except RuntimeError:  # the pool is closed
            self._cancel_all()

    def _cancel_all_if_cancelled(self, work: Future[None]) -> None:
        if work.cancelled():  # the pool was closed before a thread was free
            self._cancel_all()

    def _cancel_all(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, deque()
        for done, _ in calls:
            done.cancel()

    def _run_first(self) -> None:
        done, function = self._calls[0]
        if done.set_running_or_notify_cancel():
            try:
                if self._error is not None:
                    raise self._error
                function()
            except BaseException as error:
                self._error = error
                done.set_exception(error)
            else:
                done.set_result(None)
        with self._lock:
            self._calls.popleft()
            has_more = bool(self._calls)
        if has_more:
            self._submit()
