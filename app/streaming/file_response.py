"""The ASGI response that carries out a plan: here the bytes of stored files are sent."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.ranges import Span
from app.storage.contract import OpenFile, ReopenableFile, Storage
from app.storage.errors import StorageError
from app.storage.types import Address
from app.streaming.plan import Part, Plan, plan

ZERO_COPY = "http.response.zerocopysend"
"""The ASGI extension of servers that can sendfile. Ours raises ConnectionError when the client has left."""

REPEAT = "seekable.repeat"
"""Our server's ASGI extension for answers that it may repeat without the application; see `_repetition`."""

REPEATABLE_S = 2.0
"""Seconds for which an answer may be repeated."""

SendSpan = Callable[[Span, bool], Awaitable[None]]
"""Sends a span of the file; the flag is set if more of the body follows."""

FIRST_BLOCK, MOST_BLOCK = 1 << 20, 8 << 20
"""Bytes to preload before a sendfile: few at first, so that the first byte leaves early."""

log = logging.getLogger(__name__)


class StoredFileResponse(Response):
    """The response to a GET or HEAD of a stored file, with ranges and preconditions (RFC 9110).

    Before the first byte is sent it raises NotFound, VersionMismatch, RangeNotSatisfiable or
    StorageUnavailable. A later failure leaves the response incomplete, and the server closes the connection.
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
        async with self._storage.open(self._address) as file:
            planned = plan(
                scope["method"],
                scope["headers"],
                file.info,
                cache_control=self._cache_control,
                boundary=partial(secrets.token_hex, 16),
                download=self._download,
                now=_date_of(scope),
            )
            start = {"type": "http.response.start", "status": planned.status, "headers": planned.headers}
            if REPEAT in scope.get("extensions", ()):
                start[REPEAT] = _repetition(scope, file, planned)
            await send(start)
            if not planned.parts:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            try:
                if ZERO_COPY in scope.get("extensions", ()) and file.fileno() is not None:
                    with contextlib.suppress(ConnectionError):  # the client has left
                        await _send_parts(planned.parts, send, partial(_sendfile, file, send))
                else:
                    await _send_while_present(file, planned.parts, receive, send)
            except StorageError as error:
                log.error("The response for %r was aborted: %s", file.info.key.path, error)


def _repetition(scope: Scope, file: OpenFile, planned: Plan) -> dict[str, Any] | None:
    """Return how the server may repeat this answer; None if it may not.

    - `file`: the `ReopenableFile` that must still be current.
    - `span`: the start and the stop of the bytes of the file that are the body; None without a body. In a 206
      the server replaces them by those that the other request selects.
    - `size`: the number of bytes of the file; 0 without a body.
    - `until`: the monotonic time at which the permission ends.
    - `rest`: a function that returns the ASGI application that sends what is left of a body after its first
      block, if the file was the last one that `file` returned.

    Middleware that decides from more than the head of the request and the addresses of the connection must
    restrict the permission, as AuthenticationMiddleware does.
    """
    reopenable = file.reopenable()
    last_modified_is_final = file.info.updated_at <= _date_of(scope)
    if reopenable is None or len(planned.parts) > 1 or not last_modified_is_final:
        return None
    until = min(time.monotonic() + REPEATABLE_S, reopenable.expires_at)
    part = next(iter(planned.parts), None)
    span = (part.start, part.stop) if isinstance(part, Span) else None
    size = file.info.size if span is not None else 0
    return {
        "file": reopenable,
        "span": span,
        "size": size,
        "until": until,
        "rest": partial(_rest, reopenable),
    }


def _rest(reopenable: ReopenableFile, start: int, stop: int) -> ASGIApp:
    """Return the application that sends these bytes of a file, whose response has begun."""
    held = reopenable.hold()

    async def send_rest(scope: Scope, receive: Receive, send: Send) -> None:
        async with held as file:
            try:
                with contextlib.suppress(ConnectionError):  # the client has left
                    await _sendfile(file, send, Span(start, stop), False)
            except StorageError as error:
                log.error("The response for %r was aborted: %s", file.info.key.path, error)

    return send_rest


def _date_of(scope: Scope) -> datetime:
    """Return the Date of the response if the server announced it, else a moment that is not later."""
    seconds = scope.get("state", {}).get("date")
    return datetime.fromtimestamp(seconds if seconds is not None else time.time() - 1, UTC)


async def _send_while_present(file: OpenFile, parts: tuple[Part, ...], receive: Receive, send: Send) -> None:
    """Send the body until the client disconnects. A task watches receive(), since send() may do nothing."""
    try:
        # Only the watcher sets this timeout: it cancels this block alone, and a cancellation from outside is
        # not mistaken for it.
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
            del chunk  # its memory can be used again once it was sent
            # Neither a buffered read nor a send() to a fast reader yields: let other tasks run.
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
