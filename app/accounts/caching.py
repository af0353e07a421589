"""What was looked up a moment ago."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Remembers for `lasts_s` seconds what was found, of the `size` that were asked for last. Several who ask
    for the same at once wait for one look-up. Used from the event loop only."""

    def __init__(self, lasts_s: float, size: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lasts_s, self._size, self._clock = lasts_s, size, clock
        self._found: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self._looking: dict[K, asyncio.Task[V | None]] = {}

    def known(self, key: K) -> V | None:
        """What is remembered, without a look."""
        value, until = self._found.get(key, (None, 0.0))
        return value if until > self._clock() else None

    async def get(self, key: K, look: Callable[[], Awaitable[V | None]]) -> V | None:
        """What is remembered, else what the look finds. That there is nothing is not remembered, and neither
        are errors."""
        value = self.known(key)
        if value is not None:
            return value
        task = self._looking.get(key)
        if task is None:
            task = self._looking[key] = asyncio.create_task(self._look(key, look))
        return await asyncio.shield(task)  # others wait for it too, should this one leave

    async def _look(self, key: K, look: Callable[[], Awaitable[V | None]]) -> V | None:
        task = asyncio.current_task()
        try:
            value = await look()
            if value is not None and self._looking.get(key) is task:  # nobody has said `forget` meanwhile
                self._found[key] = value, self._clock() + self._lasts_s
                self._found.move_to_end(key)
                if len(self._found) > self._size:
                    self._found.popitem(last=False)
            return value
        finally:
            if self._looking.get(key) is task:
                del self._looking[key]

    def discard(self, key: K) -> None:
        """Look this one up anew the next time."""
        self._found.pop(key, None)
        self._looking.pop(key, None)

    def forget(self) -> None:
        """All of it: something has changed."""
        self._found.clear()
        self._looking.clear()
