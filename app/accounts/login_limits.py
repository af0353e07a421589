"""Limits on attempts to log in and sign up: leaky buckets, which all processes share through the database."""

import hashlib
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cachetools import LRUCache

from app.accounts.errors import TooManyAttempts

MAX_WAITING = 20_000
"""Full buckets that a process remembers; bounds the memory."""

MAX_STORED = 100_000
"""Buckets in the database; beyond that, a sweep removes those that are nearly empty."""

SWEEP_AFTER = 1_000
"""Attempts of one process between two sweeps."""

WINDOW_S = 15 * 60
PER_PAIR = 10
"""Wrong passwords for one account from one address, within the window."""

PER_ADDRESS = 50
PER_ACCOUNT = 100
"""Wrong passwords from all addresses together, except those with a successful login to the account. So an
attacker with many addresses cannot lock the owner out of places where the owner has logged in before."""

SIGN_UP_WINDOW_S = 60 * 60
SIGN_UPS = 20
"""Sign-ups that one address may attempt within that window."""

SUCCESS_LASTS_S = 30 * 86400
"""Time for which an address with a successful login is remembered."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A leaky bucket: room for `limit` attempts at once, and for as many more in each `window_s` seconds."""

    key: str
    """At most 64 ASCII characters."""
    limit: int
    window_s: float
    unless: str = ""
    """The key of a note; while the note is stored, the bucket does not apply."""


def pour(level: float, elapsed_s: float, *, limit: int, window_s: float) -> tuple[float, float]:
    """Add one attempt to a bucket that had this level `elapsed_s` seconds ago.

    Returns the new level, and the seconds until there is room: 0 if the attempt was added.
    """
    rate = limit / window_s
    left = max(0.0, level - elapsed_s * rate)
    excess = left + 1 - limit
    return (left, excess / rate) if excess > 0 else (left + 1, 0.0)


class LoginLimitStore(Protocol):
    """Buckets in the database, by its clock. Blocking; thread-safe.

    Each call may raise the database's StorageUnavailable or OutOfSpace. A power cut may undo recent calls.
    """

    def attempt(self, buckets: Sequence[Bucket]) -> tuple[Bucket, float] | None:
        """Add an attempt to every bucket. If one has no room, add it to none, and return that bucket and the
        seconds until it has."""

    def forgive(self, buckets: Collection[Bucket], *, note: str, for_s: float) -> None:
        """Take one attempt out of each bucket, and store a note for this time."""

    def sweep(self, most: int) -> None:
        """Remove expired rows, then those that expire first until at most `most` remain."""


class CallStore(Protocol):
    """Calls a method of a store in a worker thread."""

    async def __call__(self, call: Callable[..., Any], *arguments: object) -> Any: ...


class RateLimiter:
    """Leaky buckets in a store, and a memory of the full ones: a client that keeps trying causes no further
    query. Used from the event loop only."""

    def __init__(self, store: LoginLimitStore, call: CallStore, *, max_waiting: int = MAX_WAITING) -> None:
        self._store, self._call = store, call
        self._full_until: LRUCache[tuple[str, str], float] = LRUCache(max_waiting)
        self._attempts = 0

    async def attempt(self, *buckets: Bucket) -> None:
        """Add an attempt to every bucket.

        Raises TooManyAttempts if one is full, and adds the attempt to none: a client that waits for one
        bucket does not fill another.
        """
        now = time.monotonic()
        if (wait_s := max(self._full_until.get(_id(bucket), 0.0) - now for bucket in buckets)) > 0:
            raise _too_many(wait_s)
        refused = await self._call(self._store.attempt, buckets)
        if refused is not None:
            bucket, wait_s = refused
            self._full_until[_id(bucket)] = now + wait_s
            raise _too_many(wait_s)
        self._attempts += 1
        if self._attempts % SWEEP_AFTER == 0:
            await self._call(self._store.sweep, MAX_STORED)

    async def forgive(self, buckets: Collection[Bucket], *, note: str, for_s: float) -> None:
        """Take one attempt out of each bucket, and store a note for this time."""
        await self._call(lambda: self._store.forgive(buckets, note=note, for_s=for_s))
        for bucket in buckets:
            self._full_until.pop(_id(bucket), None)


def _id(bucket: Bucket) -> tuple[str, str]:
    """Return the key of a full bucket. Only the store knows whether the note of `unless` exists."""
    return bucket.key, bucket.unless


def _too_many(wait_s: float) -> TooManyAttempts:
    retry_after = max(1, math.ceil(wait_s))
    return TooManyAttempts(f"Too many attempts. Try again in {_duration(retry_after)}.", retry_after)


def _duration(seconds: int) -> str:
    if seconds < 60:
        return "1 second" if seconds == 1 else f"{seconds} seconds"
    minutes = math.ceil(seconds / 60)
    return "1 minute" if minutes == 1 else f"{minutes} minutes"


class LoginLimits:
    """Limits on passwords and sign-ups, which all processes share.

    An attempt is counted before its password is checked, so that concurrent attempts beyond the limit are not
    checked at all. `address` identifies the client: an IPv4 address, or a network of IPv6 addresses, because
    one client has many of these. Raises TooManyAttempts, and the database's StorageUnavailable.
    """

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter

    async def count_attempt(self, email: str, address: str) -> None:
        """Count an attempt to log in to an account from an address."""
        await self._limiter.attempt(*_buckets(email, address))

    async def record_success(self, email: str, address: str) -> None:
        """Take back the count of an attempt whose password was correct."""
        buckets = _buckets(email, address)
        await self._limiter.forgive(buckets, note=buckets[-1].unless, for_s=SUCCESS_LASTS_S)

    async def count_sign_up(self, address: str) -> None:
        """Count an attempt to sign up from an address."""
        await self._limiter.attempt(Bucket(_key("sign-up", address), SIGN_UPS, SIGN_UP_WINDOW_S))


def _buckets(email: str, address: str) -> tuple[Bucket, ...]:
    return (
        Bucket(_key("address", address), PER_ADDRESS, WINDOW_S),
        Bucket(_key("pair", email, address), PER_PAIR, WINDOW_S),
        Bucket(_key("account", email), PER_ACCOUNT, WINDOW_S, unless=_key("right", email, address)),
    )


def _key(*words: str) -> str:
    """Return a hash of fixed length, so that the database does not reveal who logged in from where."""
    return hashlib.sha256("\n".join(words).encode(errors="surrogatepass")).hexdigest()
