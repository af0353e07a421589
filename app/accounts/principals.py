"""Whose a request is, by what it shows."""

import asyncio
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar

from app.accounts.errors import BadCredentials, LinkRefused, WrongCredentials
from app.accounts.factories import hash_secret, new_signing_key, now
from app.accounts.links import LinkKind, LinkSigner, looks_signed
from app.accounts.login_limits import MAX_STORED, LoginLimits, RateLimiter, network
from app.accounts.models import Account, Link, Scope, Session, Token, check_email
from app.accounts.passwords import Passwords
from app.accounts.store import AccountStore

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


T = TypeVar("T")


class RunInThread(Protocol):
    """Calls a blocking function in a thread. Raises TooManyAttempts if too many calls are waiting."""

    def __call__(self, function: Callable[..., T], *arguments: object) -> Awaitable[T]: ...


FRESH_S = 2.0
"""How long it may take until what another process revoked is no longer taken here."""

PASSWORD_LASTS_S = 60.0
"""How long a password that was right is remembered: a player sends it with each of its thousand requests."""

MAX_REMEMBERED = 10_000

TOKEN_PREFIX = "skb_"
"""What tokens begin with, so that people and programs that look for leaked secrets know one."""

ALL = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class SessionCredential:
    """A browser's cookie."""

    hash: str
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class TokenCredential:
    hash: str


@dataclass(frozen=True, slots=True)
class PasswordCredential:
    version: int


@dataclass(frozen=True, slots=True)
class LinkCredential:
    link: Link


Credential = SessionCredential | TokenCredential | PasswordCredential | LinkCredential


@dataclass(frozen=True, slots=True)
class Principal:
    """On whose behalf a request is made, and what it may do there."""

    account: Account
    credential: Credential
    scopes: frozenset[Scope]

    @property
    def may_manage(self) -> bool:
        """Whether it may change the account itself: the person may, and no program that was given less."""
        return isinstance(self.credential, SessionCredential | PasswordCredential)

    @property
    def may_read(self) -> bool:
        """Whether answers may hold what it did not send itself."""
        return Scope.READ in self.scopes

    @property
    def link(self) -> Link | None:
        """The link that it came by, if it did: then it is somebody that nobody knows."""
        return self.credential.link if isinstance(self.credential, LinkCredential) else None


class Authenticator:
    """Knows accounts by what they show. What was found is remembered for some seconds: see `forget`.

    Raises WrongCredentials, TooManyAttempts, LinkRefused, and the database's StorageUnavailable.
    """

    def __init__(
        self,
        store: AccountStore,
        *,
        idle: timedelta,
        lifetime: timedelta,
        passwords: Passwords,
        hashing: RunInThread,
        asking: RunInThread,
    ) -> None:
        self._store = store
        self._idle, self._lifetime = idle, lifetime
        self._passwords, self._hashing, self._asking = passwords, hashing, asking
        self._login_limits = LoginLimits(RateLimiter(store.login_limits, self.ask))
        self._key = secrets.token_bytes(32)
        self._right: Cache[bytes, tuple[str, int]] = Cache(PASSWORD_LASTS_S, MAX_REMEMBERED)
        self._accounts: Cache[str, Account] = Cache(FRESH_S, MAX_REMEMBERED)
        self._sessions: Cache[str, Session] = Cache(FRESH_S, MAX_REMEMBERED)
        self._tokens: Cache[str, Token] = Cache(FRESH_S, MAX_REMEMBERED)
        self._links: Cache[str, Link] = Cache(FRESH_S, MAX_REMEMBERED)
        self._signers: Cache[None, LinkSigner] = Cache(FRESH_S, 1)

    @property
    def login_limits(self) -> LoginLimits:
        return self._login_limits

    def forget(self) -> None:
        """Look everything up anew but passwords, which are held against the account's version anyway."""
        for cache in (self._accounts, self._sessions, self._tokens, self._links, self._signers):
            cache.forget()

    async def by_password(self, email: str, password: str, address: str) -> Principal:
        """The account with this email address and password. It takes as long to say that there is none."""
        # By address, or who guesses elsewhere could do so without end while a player is let in here.
        said = f"{network(address)}\n{email}\n{password}"
        shown = hmac.digest(self._key, said.encode(errors="surrogatepass"), "sha256")
        for _ in range(2):
            right = await self._right.get(shown, lambda: self._verified(email, password, address))
            account = await self._active(right[0]) if right else None
            if right is None or account is None:
                break
            if account.version == right[1]:
                return Principal(account, PasswordCredential(account.version), ALL)
            # One of them was remembered while the password changed, perhaps to what it had been before.
            self._right.discard(shown)
            self._accounts.discard(account.id)
        raise WrongCredentials("The email address or the password is wrong.")

    async def _verified(self, email: str, password: str, address: str) -> tuple[str, int] | None:
        try:
            email = check_email(email)
        except BadCredentials:
            email = ""
        await self._login_limits.count_attempt(email, address)
        account = await self.ask(self._store.account_of, email)
        known = account.password if account else None
        if not await self._hashing(self._passwords.match, known, password) or account is None:
            return None
        await self._login_limits.record_success(email, address)
        return account.id, account.version

    async def by_session(self, secret: str) -> Principal:
        """The account that logged in with this cookie."""
        key = hash_secret(secret)
        session = await self._sessions.get(key, lambda: self.ask(self._store.session, key))
        account = await self._active(session.account_id) if session else None
        if session is None or account is None:
            raise WrongCredentials("This login is over.")
        at = now()
        ends_at = session.created_at + self._lifetime
        if at >= min(ends_at, session.seen_at + self._idle):
            raise WrongCredentials("This login has expired.")
        if at - session.seen_at >= min(self._idle / 20, timedelta(hours=1)):
            await self.ask(self._store.see_session, key, at)
            self._sessions.discard(key)
        return Principal(account, SessionCredential(key, ends_at), ALL)

    async def by_token(self, secret: str) -> Principal:
        """The account that made this token."""
        key = hash_secret(secret)
        token = await self._tokens.get(key, lambda: self.ask(self._store.token, key))
        account = await self._active(token.account_id) if token else None
        if token is None or account is None:
            raise WrongCredentials("There is no such token, or it was revoked.")
        return Principal(account, TokenCredential(key), token.scopes)

    async def by_link(self, signed: str, kind: LinkKind, path: str, *, recursive: bool = False) -> Principal:
        """The account that shares this file, or the playlist of this folder, by a link. LinkRefused."""
        link_id = (await self.link_signer()).check(signed, kind, path)
        if link_id is None and looks_signed(signed):
            # Another process may just have begun to sign with a new key.
            self._signers.forget()
            link_id = (await self.link_signer()).check(signed, kind, path)
        link = await self._link(link_id) if link_id else None
        if link is None:
            raise LinkRefused("This link is not valid, or not any longer.")
        account = await self._active(link.account_id)
        if account is None or now() >= link.expires_at or (recursive and not link.recursive):
            raise LinkRefused("This link is not valid, or not any longer.")
        return Principal(account, LinkCredential(link), frozenset({Scope.READ}))

    async def _link(self, link_id: str) -> Link | None:
        return await self._links.get(link_id, lambda: self.ask(self._store.link, link_id))

    async def link_signer(self) -> LinkSigner:
        """What links are signed with now. The first key is made when it is needed."""

        async def look() -> LinkSigner:
            keys = await self.ask(self._store.signing_keys)
            if not keys:
                await self.ask(self._store.add_first_signing_key, new_signing_key())
                keys = await self.ask(self._store.signing_keys)
            return LinkSigner(keys)

        found = await self._signers.get(None, look)
        assert found is not None
        return found

    async def sweep(self) -> None:
        """Forget links, invites, logins and attempts that are over."""
        at = now()
        await self.ask(
            lambda: self._store.sweep(now=at, seen_before=at - self._idle, created_before=at - self._lifetime)
        )
        await self.ask(self._store.login_limits.sweep, MAX_STORED)

    async def is_active(self, account_id: str) -> bool:
        """Whether the account is there and neither disabled nor leaving."""
        return await self._active(account_id) is not None

    async def _active(self, account_id: str) -> Account | None:
        account = await self._accounts.get(account_id, lambda: self.ask(self._store.account, account_id))
        return account if account and not account.disabled and not account.leaving else None

    async def ask(self, call: Callable[..., T], *arguments: object) -> T:
        """What the store says, asked in a thread."""
        return await self._asking(call, *arguments)
