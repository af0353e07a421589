"""Looks whether those who stay connected are still let in."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, islice

from app.accounts.factories import now
from app.accounts.principals import ByLink, ByPassword, BySession, ByToken, Caller, Callers
from app.accounts.store import AccountStore

EVERY_S = 2.0
AT_ONCE = 500
"""What the store is asked about in one go."""

_log = logging.getLogger("seekable")


class Watch:
    """Ends within seconds what callers do that came in by what was revoked since. Used from the event loop
    only."""

    def __init__(self, store: AccountStore, callers: Callers) -> None:
        self._store = store
        self._callers = callers
        self._watched: dict[int, tuple[Caller, Callable[[], None]]] = {}
        self._numbers = count()

    @contextmanager
    def watched(self, caller: Caller, ended: Callable[[], None]) -> Iterator[None]:
        """Call `ended`, once, should what the caller has shown no longer count."""
        number = next(self._numbers)
        self._watched[number] = caller, ended
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
        watched = iter(list(self._watched.items()))
        while some := list(islice(watched, AT_ONCE)):
            standing = await self._standing([caller for _, (caller, _) in some])
            for number, (caller, ended) in some:
                if caller not in standing and number in self._watched:
                    del self._watched[number]
                    ended()

    async def _standing(self, callers: list[Caller]) -> set[Caller]:
        accounts, sessions, tokens = await self._callers.ask(
            lambda: self._store.standing(
                accounts={
                    (one.account.id, one.proof.version)
                    for one in callers
                    if isinstance(one.proof, ByPassword)
                },
                sessions={one.proof.hash for one in callers if isinstance(one.proof, BySession)},
                tokens={one.proof.hash for one in callers if isinstance(one.proof, ByToken)},
            )
        )
        links = {one.proof.link.id for one in callers if isinstance(one.proof, ByLink)}
        if links:
            links = await self._callers.ask(self._store.standing_links, links)
        at = now()

        async def stands(one: Caller) -> bool:
            match one.proof:
                case BySession(hash, ends_at):
                    return hash in sessions and at < ends_at and await self._callers.is_active(one.account.id)
                case ByToken(hash):
                    return hash in tokens and await self._callers.is_active(one.account.id)
                case ByPassword(version):
                    return (one.account.id, version) in accounts
                case ByLink(link):
                    # A download that began in time goes on when the link expires, and is then swept.
                    is_there = link.id in links or at >= link.expires_at
                    return is_there and await self._callers.is_active(one.account.id)

        return {one for one in callers if await stands(one)}
