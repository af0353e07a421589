"""Authentication: the principal for which a request acts, by the credential that it carries."""

import asyncio
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Generic, Protocol, TypeVar

from cachetools import TTLCache

from app.accounts.errors import BadCredentials, LinkRefused, WrongCredentials
from app.accounts.links import LinkKind, LinkSigner, looks_signed
from app.accounts.login_limits import MAX_STORED, LoginLimits, RateLimiter
from app.accounts.models import (
    Account,
    Link,
    Scope,
    Session,
    Token,
    check_email,
    hash_secret,
    new_signing_key,
    now,
)
from app.accounts.passwords import Passwords
from app.accounts.store import AccountStore

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
T = TypeVar("T")

CACHE_TTL_S = 2.0
"""Time for which a process may still accept a credential that another process revoked."""

PASSWORD_TTL_S = 60.0
"""Time for which a correct password is cached: a player sends it with each of a thousand requests."""

CACHE_SIZE = 10_000

TOKEN_PREFIX = "skb_"
"""The first characters of every token, by which people and programs find leaked ones."""

ALL_SCOPES = frozenset(Scope)

REFUSED_LINK = (
    "This link is not valid: it was altered or revoked, or has expired. Ask its sender for a new one."
)


class SingleFlightCache(Generic[K, V]):
    """A cache with a time to live, in which concurrent look-ups of a key share one call. Used from the event
    loop only."""

    def __init__(self, ttl_s: float, size: int) -> None:
        self._ttl_s = ttl_s
        self._values: TTLCache[K, tuple[V, float]] = TTLCache(size, ttl_s)  # with the time of expiry
        self._loading: dict[K, asyncio.Task[V | None]] = {}

    async def get(self, key: K, load: Callable[[], Awaitable[V | None]]) -> V | None:
        """Return the cached value, or else load it. None and errors are not cached."""
        try:  # faster than `TTLCache.get`
            return self._values[key][0]
        except KeyError:
            pass
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._load(key, load))
        return await asyncio.shield(task)  # other callers wait for it too, even if this one is cancelled

    async def _load(self, key: K, load: Callable[[], Awaitable[V | None]]) -> V | None:
        task = asyncio.current_task()
        try:
            value = await load()
            if value is not None and self._loading.get(key) is task:  # not invalidated meanwhile
                self._values[key] = value, time.monotonic() + self._ttl_s
            return value
        finally:
            if self._loading.get(key) is task:
                del self._loading[key]

    def peek(self, key: K) -> tuple[V, float] | None:
        """Return the cached value, and the monotonic time at which it expires; None if it is not cached."""
        return self._values.get(key)

    def discard(self, key: K) -> None:
        """Invalidate one key."""
        self._values.pop(key, None)
        self._loading.pop(key, None)

    def clear(self) -> None:
        """Invalidate all keys."""
        self._values.clear()
        self._loading.clear()


class RunInThread(Protocol):
    """Calls a blocking function in a thread. Raises TooManyAttempts if too many calls are waiting."""

    def __call__(self, function: Callable[..., T], *arguments: object) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class SessionCredential:
    """The cookie of a browser that has logged in."""

    hash: str
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class TokenCredential:
    """An access token."""

    hash: str


@dataclass(frozen=True, slots=True)
class PasswordCredential:
    """An email address and a password; `version` is that of the password."""

    version: int


@dataclass(frozen=True, slots=True)
class LinkCredential:
    """A signed link."""

    link: Link


Credential = SessionCredential | TokenCredential | PasswordCredential | LinkCredential


@dataclass(frozen=True, slots=True)
class Principal:
    """The account for which a request acts, and the rights that its credential gives it."""

    account: Account
    credential: Credential
    scopes: frozenset[Scope]

    @property
    def may_manage(self) -> bool:
        """Whether this principal may change the account: only if a session or a password authenticated it."""
        return isinstance(self.credential, SessionCredential | PasswordCredential)

    @property
    def may_read(self) -> bool:
        """Whether responses may contain data that it did not send itself."""
        return Scope.READ in self.scopes

    @property
    def link(self) -> Link | None:
        """The link of an anonymous viewer; None for every other credential."""
        return self.credential.link if isinstance(self.credential, LinkCredential) else None


class Generation:
    """The time between two invalidations of the caches, in which a credential keeps its principal."""

    __slots__ = ("ended",)

    def __init__(self) -> None:
        self.ended = False


class Authenticator:
    """Finds the principal of a credential. Accounts and credentials are cached for seconds; see `invalidate`.

    Raises WrongCredentials, TooManyAttempts, LinkRefused, and the database's StorageUnavailable.
    """

    def __init__(
        self,
        store: AccountStore,
        *,
        idle: timedelta,
        lifetime: timedelta,
        passwords: Passwords,
        run_hash: RunInThread,
        run_call: RunInThread,
    ) -> None:
        self._store = store
        self._idle, self._lifetime = idle, lifetime
        self._touch_every = min(idle / 20, timedelta(hours=1))
        self._passwords, self._run_hash, self._run_call = passwords, run_hash, run_call
        self.login_limits = LoginLimits(RateLimiter(store.login_limits, self.call))
        self._key = secrets.token_bytes(32)
        self._correct: SingleFlightCache[bytes, tuple[str, int]] = SingleFlightCache(
            PASSWORD_TTL_S, CACHE_SIZE
        )
        self._accounts: SingleFlightCache[str, Account] = SingleFlightCache(CACHE_TTL_S, CACHE_SIZE)
        self._sessions: SingleFlightCache[str, Session] = SingleFlightCache(CACHE_TTL_S, CACHE_SIZE)
        self._tokens: SingleFlightCache[str, Token] = SingleFlightCache(CACHE_TTL_S, CACHE_SIZE)
        self._links: SingleFlightCache[str, Link] = SingleFlightCache(CACHE_TTL_S, CACHE_SIZE)
        self._signers: SingleFlightCache[None, LinkSigner] = SingleFlightCache(CACHE_TTL_S, 1)
        self.generation = Generation()
        """The present generation. A principal that was found in one that has ended may be outdated."""

    def _end_generation(self) -> None:
        self.generation.ended = True
        self.generation = Generation()

    def invalidate(self) -> None:
        """Clear all caches but that of passwords, whose entries are compared with the account's version."""
        self._end_generation()
        for cache in (self._accounts, self._sessions, self._tokens, self._links, self._signers):
            cache.clear()

    async def by_password(self, email: str, password: str, address: str) -> Principal:
        """Return the principal of an email address and a password.

        Takes as long for an unknown account as for a wrong password, so that timing reveals no accounts.
        """
        # Without the address, one that has reached its limit could go on guessing until it hits the cache.
        message = f"{address}\n{email}\n{password}"
        digest = hmac.digest(self._key, message.encode(errors="surrogatepass"), "sha256")
        for _ in range(2):
            correct = await self._correct.get(digest, lambda: self._verify(email, password, address))
            account = await self._active(correct[0]) if correct else None
            if correct is None or account is None:
                break
            if account.version == correct[1]:
                return Principal(account, PasswordCredential(account.version), ALL_SCOPES)
            # One of the caches is outdated: the password was changed, perhaps back to a former one.
            self._end_generation()
            self._correct.discard(digest)
            self._accounts.discard(account.id)
        raise WrongCredentials("The email address or the password is wrong.")

    async def _verify(self, email: str, password: str, address: str) -> tuple[str, int] | None:
        try:
            email = check_email(email)
        except BadCredentials:
            email = ""
        await self.login_limits.count_attempt(email, address)
        account = await self.call(self._store.by_email, email)
        known = account.password if account else None
        if not await self._run_hash(self._passwords.match, known, password) or account is None:
            return None
        await self.login_limits.record_success(email, address)
        return account.id, account.version

    async def by_session(self, secret: str) -> Principal:
        """Return the principal of a session cookie, and record that the session is in use."""
        key = hash_secret(secret)
        session = await self._sessions.get(key, lambda: self.call(self._store.sessions.get, key))
        account = await self._active(session.account_id) if session else None
        if session is None or account is None:
            raise WrongCredentials("You are logged out. Log in again.")
        at = now()
        ends_at = session.created_at + self._lifetime
        if at >= min(ends_at, session.seen_at + self._idle):
            raise WrongCredentials("Your login has expired. Log in again.")
        if at - session.seen_at >= self._touch_every:
            await self.call(self._store.sessions.touch, key, at)
            self._sessions.discard(key)
        return Principal(account, SessionCredential(key, ends_at), ALL_SCOPES)

    async def by_token(self, secret: str) -> Principal:
        """Return the principal of an access token."""
        key = hash_secret(secret)
        token = await self._tokens.get(key, lambda: self.call(self._store.tokens.get, key))
        account = await self._active(token.account_id) if token else None
        if token is None or account is None:
            raise WrongCredentials("This token does not exist, or was revoked. Create a new one.")
        return Principal(account, TokenCredential(key), token.scopes)

    async def by_link(self, signed: str, kind: LinkKind, path: str, *, recursive: bool = False) -> Principal:
        """Return the principal of a link to this file, or to the playlist of this folder.

        Raises LinkRefused.
        """
        link_id = (await self.link_signer()).check(signed, kind, path)
        if link_id is None and looks_signed(signed):
            # Another process may have begun to sign with a new key.
            self._signers.clear()
            link_id = (await self.link_signer()).check(signed, kind, path)
        link = await self._link(link_id) if link_id else None
        if link is None:
            raise LinkRefused(REFUSED_LINK)
        account = await self._active(link.account_id)
        if account is None or now() >= link.expires_at or (recursive and not link.recursive):
            raise LinkRefused(REFUSED_LINK)
        return Principal(account, LinkCredential(link), frozenset({Scope.READ}))

    async def _link(self, link_id: str) -> Link | None:
        return await self._links.get(link_id, lambda: self.call(self._store.links.get, link_id))

    async def link_signer(self) -> LinkSigner:
        """Return the signer of links. Stores the first key when a signature is first needed."""

        async def load() -> LinkSigner:
            keys = await self.call(self._store.signing_keys.list)
            if not keys:
                await self.call(self._store.signing_keys.add_first, new_signing_key())
                keys = await self.call(self._store.signing_keys.list)
            return LinkSigner(keys)

        found = await self._signers.get(None, load)
        assert found is not None
        return found

    def known_until(self, principal: Principal) -> float:
        """Return the monotonic time until which the principal is authenticated without the database.

        Holds within a generation, and only if the principal was found in it.
        """
        account = self._accounts.peek(principal.account.id)
        match principal.credential:
            case PasswordCredential():
                return _first_expiry(account)
            case TokenCredential(key):
                return _first_expiry(account, self._tokens.peek(key))
            case LinkCredential(link):
                known = _first_expiry(account, self._links.peek(link.id), self._signers.peek(None))
                return min(known, _monotonic(link.expires_at))
            case SessionCredential(key, ends_at):
                session = self._sessions.peek(key)
                if session is None:
                    return 0.0
                touched_at = session[0].seen_at + self._touch_every
                return min(_first_expiry(account, session), _monotonic(min(ends_at, touched_at)))

    async def sweep(self) -> None:
        """Remove expired links, invites, sessions and login attempts from the database."""
        at = now()
        await self.call(
            lambda: self._store.sweep(now=at, seen_before=at - self._idle, created_before=at - self._lifetime)
        )
        await self.call(self._store.login_limits.sweep, MAX_STORED)

    async def is_active(self, account_id: str) -> bool:
        """Return whether an account exists and is neither disabled nor leaving; cached."""
        return await self._active(account_id) is not None

    async def _active(self, account_id: str) -> Account | None:
        account = await self._accounts.get(account_id, lambda: self.call(self._store.get, account_id))
        return account if account and not account.disabled and not account.leaving else None

    async def call(self, call: Callable[..., T], *arguments: object) -> T:
        """Call a method of the store in a worker thread."""
        return await self._run_call(call, *arguments)


def _first_expiry(*cached: tuple[object, float] | None) -> float:
    """Return the time at which the first of these cached values expires; 0 if one is not cached."""
    return min(0.0 if one is None else one[1] for one in cached)


def _monotonic(at: datetime) -> float:
    """Return the monotonic time of a moment."""
    return time.monotonic() + (at - datetime.now(UTC)).total_seconds()
