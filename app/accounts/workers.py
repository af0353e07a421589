"""Threads for what blocks: a few of them, and a bounded queue before them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from app.accounts.errors import TooManyAttempts

T = TypeVar("T")


class Workers:
    """At most `threads` calls at once, and `waiting` behind them; one more raises TooManyAttempts."""

    def __init__(self, name: str, *, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._room = threads + waiting

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """What the call returns. A cancelled call that has begun goes on to its end, and keeps its place."""
        if self._room <= 0:
            raise TooManyAttempts("The server has too much to look up; try again soon.", 1)
        self._room -= 1
        loop = asyncio.get_running_loop()
        future = self._pool.submit(call, *arguments)

        def ended(_: Future[T]) -> None:
            loop.call_soon_threadsafe(self._leave)

        future.add_done_callback(ended)
        return await asyncio.wrap_future(future)

    def _leave(self) -> None:
        self._room += 1

    def close(self) -> None:
        """Wait for what runs."""
        self._pool.shutdown(cancel_futures=True)
