"""Revocation of running requests: a periodic check whether their credentials are still valid."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice

from app.accounts.models import now
from app.accounts.principals import (
    Authenticator,
    LinkCredential,
    PasswordCredential,
    Principal,
    SessionCredential,
    TokenCredential,
)
from app.accounts.store import MAX_KEYS_PER_QUERY, AccountStore

CHECK_EVERY_S = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Valid:
    """The keys of the credentials of one batch that are still in the database."""

    accounts: set[tuple[str, int]]
    sessions: set[str]
    tokens: set[str]
    links: set[str]


class RevocationMonitor:
    """Ends running responses and sockets within seconds of the revocation of their credentials. Used from the
    event loop only."""

    def __init__(self, store: AccountStore, authenticator: Authenticator) -> None:
        self._store = store
        self._authenticator = authenticator
        self._watched: dict[int, tuple[Principal, Callable[[], None]]] = {}
        self._numbers = count()

    @contextmanager
    def watch(self, principal: Principal, on_revoked: Callable[[], None]) -> Iterator[None]:
        """Call `on_revoked` once if the credential of the principal is revoked within the context."""
        number = next(self._numbers)
        self._watched[number] = principal, on_revoked
        try:
            yield
        finally:
            self._watched.pop(number, None)

    async def run(self) -> None:
        """Check until cancelled. While the database does not respond, connections continue."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            try:
                await self.check()
            except Exception as error:
                log.error("The credentials of open connections could not be checked: %s", error)

    async def check(self) -> None:
        """Check all watched principals once."""
        watched = iter(list(self._watched.items()))
        while batch := list(islice(watched, MAX_KEYS_PER_QUERY)):
            valid = await self._authenticator.call(self._query, [principal for _, (principal, _) in batch])
            for number, (principal, on_revoked) in batch:
                if not await self._is_valid(principal, valid) and number in self._watched:
                    del self._watched[number]
                    on_revoked()

    def _query(self, principals: Sequence[Principal]) -> _Valid:
        versions, sessions, tokens, links = set(), set(), set(), set()
        for principal in principals:
            match principal.credential:
                case PasswordCredential(version):
                    versions.add((principal.account.id, version))
                case SessionCredential(secret_hash):
                    sessions.add(secret_hash)
                case TokenCredential(secret_hash):
                    tokens.add(secret_hash)
                case LinkCredential(link):
                    links.add(link.id)
        store = self._store
        return _Valid(
            store.active(versions) if versions else set(),
            store.sessions.existing(sessions) if sessions else set(),
            store.tokens.existing(tokens) if tokens else set(),
            store.links.existing(links) if links else set(),
        )

    async def _is_valid(self, principal: Principal, valid: _Valid) -> bool:
        match principal.credential:
            case PasswordCredential(version):
                return (principal.account.id, version) in valid.accounts
            case SessionCredential(secret_hash, ends_at):
                is_valid = secret_hash in valid.sessions and now() < ends_at
            case TokenCredential(secret_hash):
                is_valid = secret_hash in valid.tokens
            case LinkCredential(link):
                # A download that began in time continues when the link expires and is swept.
                is_valid = link.id in valid.links or now() >= link.expires_at
        return is_valid and await self._authenticator.is_active(principal.account.id)
