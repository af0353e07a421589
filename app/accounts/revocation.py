"""Looks whether those who stay connected are still let in."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, islice

from app.accounts.factories import now
from app.accounts.principals import (
    Authenticator,
    LinkCredential,
    PasswordCredential,
    Principal,
    SessionCredential,
    TokenCredential,
)
from app.accounts.store import AccountStore

EVERY_S = 2.0
AT_ONCE = 500
"""What the store is asked about in one go."""

_log = logging.getLogger("seekable")


class RevocationMonitor:
    """Ends within seconds what callers do that came in by what was revoked since. Used from the event loop
    only."""

    def __init__(self, store: AccountStore, authenticator: Authenticator) -> None:
        self._store = store
        self._authenticator = authenticator
        self._watched: dict[int, tuple[Principal, Callable[[], None]]] = {}
        self._numbers = count()

    @contextmanager
    def watch(self, principal: Principal, ended: Callable[[], None]) -> Iterator[None]:
        """Call `ended`, once, should what the caller has shown no longer count."""
        number = next(self._numbers)
        self._watched[number] = principal, ended
        try:
            yield
        finally:
            self._watched.pop(number, None)

    async def run(self) -> None:
        """Go on until cancelled. A database that does not answer ends nobody's connection."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
            except Exception as error:
                _log.error("It could not be looked who is still let in: %s", error)

    async def look(self) -> None:
        """Look at all of them once."""
        watch = iter(list(self._watched.items()))
        while some := list(islice(watch, AT_ONCE)):
            standing = await self._standing([principal for _, (principal, _) in some])
            for number, (principal, ended) in some:
                if principal not in standing and number in self._watched:
                    del self._watched[number]
                    ended()

    async def _standing(self, principals: list[Principal]) -> set[Principal]:
        accounts, sessions, tokens = await self._authenticator.ask(
            lambda: self._store.standing(
                accounts={
                    (one.account.id, one.credential.version)
                    for one in principals
                    if isinstance(one.credential, PasswordCredential)
                },
                sessions={
                    one.credential.hash for one in principals if isinstance(one.credential, SessionCredential)
                },
                tokens={
                    one.credential.hash for one in principals if isinstance(one.credential, TokenCredential)
                },
            )
        )
        links = {one.credential.link.id for one in principals if isinstance(one.credential, LinkCredential)}
        if links:
            links = await self._authenticator.ask(self._store.standing_links, links)
        at = now()

        async def stands(one: Principal) -> bool:
            match one.credential:
                case SessionCredential(hash, ends_at):
                    return (
                        hash in sessions
                        and at < ends_at
                        and await self._authenticator.is_active(one.account.id)
                    )
                case TokenCredential(hash):
                    return hash in tokens and await self._authenticator.is_active(one.account.id)
                case PasswordCredential(version):
                    return (one.account.id, version) in accounts
                case LinkCredential(link):
                    # A download that began in time goes on when the link expires, and is then swept.
                    is_active = link.id in links or at >= link.expires_at
                    return is_active and await self._authenticator.is_active(one.account.id)

        return {one for one in principals if await stands(one)}
