"""How often something may be tried: a leaky bucket for each who tries."""

import hashlib
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app.accounts.errors import TooManyAttempts


@dataclass(frozen=True, slots=True)
class Bucket:
    """`limit` attempts at once, and as many in each `window_s` seconds. See `throttle.poured`."""

    key: str
    """Of up to 64 characters in ASCII."""
    limit: int
    window_s: float
    unless: str = ""
    """Where this was noted, it is not asked."""


class LoginLimitStore(Protocol):
    """What was attempted lately, by the clock of the database. Plain blocking calls, from any thread; each
    may raise the database's StorageUnavailable or OutOfSpace. What a power cut takes away is no harm."""

    def attempt(self, buckets: Sequence[Bucket]) -> tuple[Bucket, float] | None:
        """Pour one into each, or into none: then which of them has no room, and the seconds until it has."""
        ...

    def forgive(self, buckets: Collection[Bucket], *, note: str, for_s: float) -> None:
        """Take one out of each again, and note this for so long."""
        ...

    def sweep(self, most: int) -> None:
        """Forget what is over, and beyond so many what will be over first."""
        ...


MAX_KEYS = 20_000
"""Of whom it is known here that they have to wait. Bounds the memory."""

MAX_STORED = 100_000
"""Buckets in the database. Beyond that those go that are nearly empty."""

SWEEP_AFTER = 1_000
"""Attempts after which it is looked whether there are more."""


def pour(level: float, elapsed_s: float, *, limit: int, window_s: float) -> tuple[float, float]:
    """What one more attempt makes of a bucket that holds `limit` and empties within `window_s`, and the
    seconds until there is room for it: 0 if there is now. Then only is it poured in."""
    rate = limit / window_s
    left = max(0.0, level - elapsed_s * rate)
    over = left + 1 - limit
    return (left, over / rate) if over > 0 else (left + 1, 0.0)


class Ask(Protocol):
    async def __call__(self, call: Callable[..., Any], *arguments: object) -> Any: ...


class RateLimiter:
    """Asks the store, by `ask` in a thread, and remembers who has to wait: of those who go on trying it hears
    no more than once. Used from the event loop only."""

    def __init__(
        self, store: LoginLimitStore, ask: Ask, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
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
            await self._ask(self._store.sweep, MAX_STORED)

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


WINDOW_S = 15 * 60
PER_PAIR = 10
"""Wrong passwords for one account from one address, within the window."""
PER_ADDRESS = 50
PER_ACCOUNT = 100
"""From all addresses together, but those from which somebody has logged in to it: whoever has many addresses
can keep people out of their account at most where they have never been."""

SIGN_UP_WINDOW_S = 60 * 60
SIGN_UPS = 20
"""Accounts that one address may try to make within that."""


RIGHT_LASTS_S = 30 * 86400
"""How long it is known from where somebody has logged in."""


class LoginLimits:
    """Counts before a password is looked at, so that a thousand at once are not looked at all; in whichever
    process they try. Raises TooManyAttempts, and the database's StorageUnavailable."""

    def __init__(self, throttle: RateLimiter) -> None:
        self._limiter = throttle

    async def count_attempt(self, email: str, address: str) -> None:
        """Somebody tries a password for this account."""
        await self._limiter.attempt(*_concerned(email, address))

    async def record_success(self, email: str, address: str) -> None:
        """So it was no guess."""
        buckets = _concerned(email, address)
        await self._limiter.forgive(buckets, note=buckets[-1].unless, for_s=RIGHT_LASTS_S)

    async def sign_up(self, address: str) -> None:
        """Somebody tries to make an account."""
        await self._limiter.attempt(Bucket(_key("sign-up", network(address)), SIGN_UPS, SIGN_UP_WINDOW_S))


def _concerned(email: str, address: str) -> tuple[Bucket, ...]:
    site = network(address)
    return (
        Bucket(_key("address", site), PER_ADDRESS, WINDOW_S),
        Bucket(_key("pair", email, site), PER_PAIR, WINDOW_S),
        Bucket(_key("account", email), PER_ACCOUNT, WINDOW_S, unless=_key("right", email, site)),
    )


def _key(*words: str) -> str:
    """Nobody need read in a database who was where; and names have any length."""
    return hashlib.sha256("\n".join(words).encode(errors="surrogatepass")).hexdigest()


def network(address: str) -> str:
    """What one client has of the addresses: of IPv6 all that begin with the same 64 bits (RFC 4291 2.5.4)."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        mapped = ip.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
