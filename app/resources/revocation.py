"""End the running downloads and uploads of callers that are no longer let in."""

import asyncio
import logging
from functools import partial

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.accounts.callers import Caller
from app.accounts.errors import NotSignedIn
from app.accounts.watch import Watch
from app.resources.admission import SAFE_METHODS
from app.resources.errors import explained

ENDED = "The account, or the login, password, token or link of this request, was revoked meanwhile."

_log = logging.getLogger("seekable")


async def answer_while_admitted(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, watch: Watch, caller: Caller
) -> None:
    """Let the application answer a request until its caller is revoked.

    An answer that has begun is then broken off, and a body that has not ended is refused. A change whose body
    has arrived is made.
    """
    if scope["method"] in SAFE_METHODS:
        await _send_while_admitted(app, scope, receive, send, watch, caller)
        return
    body = _Body(receive)
    with watch.watched(caller, body.end):
        await app(scope, body.receive, send)


async def _send_while_admitted(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, watch: Watch, caller: Caller
) -> None:
    started = False

    async def noted(message: Message) -> None:
        nonlocal started
        started = True
        await send(message)

    try:
        async with asyncio.timeout(None) as admitted:
            with watch.watched(caller, partial(admitted.reschedule, 0)):
                await app(scope, receive, noted)
    except TimeoutError:
        if not admitted.expired():
            raise
        if not started:
            refused = await explained(Request(scope, receive), NotSignedIn(ENDED))
            await refused(scope, receive, send)
            return
        _log.info("The answer for %r was broken off: its caller was revoked", scope["path"])


class _Body:
    """The body of one request, which may be refused at any time."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._waiting: asyncio.Timeout | None = None
        self._is_over = False

    def end(self) -> None:
        """Let the call that waits for more of it, or the next one, raise NotSignedIn."""
        self._is_over = True
        if self._waiting is not None:
            self._waiting.reschedule(0)

    async def receive(self) -> Message:
        if not self._is_over:
            try:
                async with asyncio.timeout(None) as waiting:
                    self._waiting = waiting
                    return await self._receive()
            except TimeoutError:
                if not self._is_over:
                    raise
            finally:
                self._waiting = None
        raise NotSignedIn(ENDED)
