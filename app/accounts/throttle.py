"""How often something may be tried: a leaky bucket for each who tries."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from app.accounts.errors import TooManyAttempts

MAX_KEYS = 20_000
"""Of those that tried last; whoever else has tried begins anew. Bounds the memory."""


def poured(level: float, elapsed_s: float, *, limit: int, window_s: float) -> tuple[float, float]:
    """What one more attempt makes of a bucket that holds `limit` and empties within `window_s`, and the
    seconds until there is room for it: 0 if there is now. Then only is it poured in."""
    rate = limit / window_s
    left = max(0.0, level - elapsed_s * rate)
    over = left + 1 - limit
    return (left, over / rate) if over > 0 else (left + 1, 0.0)


class Throttle:
    """`limit` attempts at once, and as many in each `window_s` seconds. Used from the event loop only."""

    def __init__(self, limit: int, window_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._window_s, self._clock = limit, window_s, clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def attempt(self, key: Hashable) -> None:
        """Count one. Raises TooManyAttempts, and then it does not count."""
        now = self._clock()
        level, then = self._buckets.get(key, (0.0, now))
        level, wait_s = poured(level, now - then, limit=self._limit, window_s=self._window_s)
        self._keep(key, level, now)
        if wait_s:
            raise TooManyAttempts("That was tried too often. Wait a while.", math.ceil(wait_s))

    def forgive(self, key: Hashable) -> None:
        """One that counted was none."""
        if key in self._buckets:
            level, then = self._buckets[key]
            self._keep(key, max(0.0, level - 1), then)

    def _keep(self, key: Hashable, level: float, now: float) -> None:
        self._buckets[key] = level, now
        self._buckets.move_to_end(key)
        if len(self._buckets) > MAX_KEYS:
            self._buckets.popitem(last=False)
