"""How often something may be tried: a leaky bucket for each who tries."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any, Protocol

from app.accounts.attempts import AttemptStore, Bucket
from app.accounts.errors import TooManyAttempts

MAX_KEYS = 20_000
"""Of whom it is known here that they have to wait. Bounds the memory."""

MAX_STORED = 100_000
"""Buckets in the database. Beyond that those go that are nearly empty."""

SWEEP_AFTER = 1_000
"""Attempts after which it is looked whether there are more."""


def poured(level: float, elapsed_s: float, *, limit: int, window_s: float) -> tuple[float, float]:
    """What one more attempt makes of a bucket that holds `limit` and empties within `window_s`, and the
    seconds until there is room for it: 0 if there is now. Then only is it poured in."""
    rate = limit / window_s
    left = max(0.0, level - elapsed_s * rate)
    over = left + 1 - limit
    return (left, over / rate) if over > 0 else (left + 1, 0.0)


class Ask(Protocol):
    async def __call__(self, call: Callable[..., Any], *arguments: object) -> Any: ...


class Throttle:
    """Asks the store, by `ask` in a thread, and remembers who has to wait: of those who go on trying it hears
    no more than once. Used from the event loop only."""

    def __init__(self, store: AttemptStore, ask: Ask, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._ask, self._clock = store, ask, clock
        self._waiting: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._attempts = 0

    async def attempt(self, *buckets: Bucket) -> None:
        """Count one in each. Raises TooManyAttempts, and then it counts in none: who waits behind one bucket
        does not fill another."""
        now = self._clock()
        if (wait_s := max(self._waiting.get(_who(bucket), 0.0) - now for bucket in buckets)) > 0:
            raise _too_many(wait_s)
        refused = await self._ask(self._store.attempt, buckets)
        if refused is not None:
            bucket, wait_s = refused
            self._remember(_who(bucket), now + wait_s)
            raise _too_many(wait_s)
        self._attempts += 1
        if self._attempts % SWEEP_AFTER == 0:
            await self._ask(self._store.sweep_attempts, MAX_STORED)

    async def forgive(self, buckets: Collection[Bucket], *, note: str, for_s: float) -> None:
        """One that counted was none."""
        await self._ask(lambda: self._store.forgive(buckets, note=note, for_s=for_s))
        for bucket in buckets:
            self._waiting.pop(_who(bucket), None)

    def _remember(self, who: tuple[str, str], until: float) -> None:
        self._waiting[who] = until
        self._waiting.move_to_end(who)
        if len(self._waiting) > MAX_KEYS:
            self._waiting.popitem(last=False)


def _who(bucket: Bucket) -> tuple[str, str]:
    """Whom a full bucket keeps waiting. Whom it does not, only the store knows."""
    return bucket.key, bucket.unless


def _too_many(wait_s: float) -> TooManyAttempts:
    return TooManyAttempts("That was tried too often. Wait a while.", max(1, math.ceil(wait_s)))
