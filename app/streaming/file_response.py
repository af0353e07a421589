"""Carries a plan out: the one place where the bytes of stored files meet ASGI."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.http.ranges import Span
from app.storage.contract import OpenFile, Storage
from app.storage.errors import StorageError
from app.storage.types import Address
from app.streaming.plan import Part, plan

ZERO_COPY = "http.response.zerocopysend"
"""The ASGI extension that servers may offer. This one's raises ConnectionError when the client has left."""

SendSpan = Callable[[Span, bool], Awaitable[None]]
"""Sends a span of the file, and whether more of the answer follows."""

FIRST_BLOCK, MOST_BLOCK = 1 << 20, 8 << 20
"""Bytes that are in memory before they are sent without a copy: few while somebody waits for the first."""

_log = logging.getLogger("seekable")


class StoredFileResponse(Response):
    """The answer to a GET or HEAD of a stored file, with its ranges and conditions (RFC 9110).

    Raises NotFound, VersionMismatch, RangeNotSatisfiable and StorageUnavailable while nothing has been
    sent. A failure after that leaves the response incomplete, so that the server breaks the connection.
    """

    def __init__(
        self, storage: Storage, address: Address, *, cache_control: str, download: bool = False
    ) -> None:
        super().__init__()
        self._storage = storage
        self._address = address
        self._cache_control = cache_control
        self._download = download

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open the file, plan the answer and send it."""
        async with self._storage.open(self._address) as file:
            answer = plan(
                scope["method"],
                scope["headers"],
                file.info,
                cache_control=self._cache_control,
                boundary=partial(secrets.token_hex, 16),
                download=self._download,
                now=_date_of(scope),
            )
            await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
            if not answer.parts:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            try:
                if ZERO_COPY in scope.get("extensions", ()) and file.fileno() is not None:
                    with contextlib.suppress(ConnectionError):  # the client has left
                        await _send_parts(answer.parts, send, partial(_sendfile, file, send))
                else:
                    await _send_while_present(file, answer.parts, receive, send)
            except StorageError as error:
                _log.error("The answer for %r was broken off: %s", file.info.key.path, error)


def _date_of(scope: Scope) -> datetime:
    """Return the Date of the answer, where the server names it; else what no server's Date is before."""
    seconds = scope.get("state", {}).get("date")
    return datetime.fromtimestamp(seconds if seconds is not None else time.time() - 1, UTC)


async def _send_while_present(file: OpenFile, parts: tuple[Part, ...], receive: Receive, send: Send) -> None:
    """Send the body, and stop wherever that stands when the client leaves.

    A server's send() may well do nothing then, so receive() has to be watched.
    """
    try:
        # A timeout that only the watcher sets: it cancels this block and nothing else, and nobody
        # else's cancelling is taken for it.
        async with asyncio.timeout(None) as presence:
            watcher = asyncio.create_task(_end_when_gone(presence, receive))
            try:
                await _send_parts(parts, send, partial(_send_span, file, send))
            finally:
                watcher.cancel()
                await asyncio.gather(watcher, return_exceptions=True)
    except TimeoutError:
        if not presence.expired():
            raise


async def _end_when_gone(presence: asyncio.Timeout, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    presence.reschedule(0)


async def _send_parts(parts: tuple[Part, ...], send: Send, send_span: SendSpan) -> None:
    for number, part in enumerate(parts, 1):
        more = number < len(parts)
        if isinstance(part, Span):
            await send_span(part, more)
        else:
            await send({"type": "http.response.body", "body": part, "more_body": more})


async def _send_span(file: OpenFile, send: Send, span: Span, more: bool) -> None:
    async with contextlib.aclosing(file.read(span.start, span.stop)) as chunks:
        async for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            # Neither a buffered read nor a send() to a fast reader waits: others get their turn here.
            await asyncio.sleep(0)
    if not more:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _sendfile(file: OpenFile, send: Send, span: Span, more: bool) -> None:
    start, size = span.start, FIRST_BLOCK
    while True:
        stop = min(start + size, span.stop)
        await file.preload(start, stop)
        block = {"type": ZERO_COPY, "file": file, "offset": start, "count": stop - start}
        await send({**block, "more_body": more or stop < span.stop})
        if stop == span.stop:
            return
        start, size = stop, min(2 * size, MOST_BLOCK)
        await asyncio.sleep(0)  # a send() to a fast reader does not wait: others get their turn here
