"""Answers that are written while the storage is read, so that they may be of any length."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping

from fastapi import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from app.storage.contract import Storage
from app.storage.errors import StorageError
from app.storage.types import MAX_FOLDERS, Listing, Page

PAGE_SIZE = 200
"""Files that are looked up at once, and are in memory at a time. Nothing else runs while they are written."""

_log = logging.getLogger("seekable")


async def pages_response(
    request: Request, first: Page, pieces: AsyncIterator[str], headers: Mapping[str, str]
) -> Response:
    """Return the answer that these pieces make, of a listing whose first page is known.

    Where that page is all, the answer has a Content-Length, also to HEAD: some players read one chunk only.
    """
    if first.next_cursor is None and len(first.folders) < MAX_FOLDERS:
        return Response("".join([piece async for piece in pieces]), headers=dict(headers))
    return PiecewiseResponse(request, pieces, headers)


class PiecewiseResponse(StreamingResponse):
    """The pieces to a GET, and the headers alone to a HEAD, for which nothing is looked up.

    A storage that fails in the middle breaks the answer off, so that nothing short looks whole.
    """

    def __init__(self, request: Request, pieces: AsyncIterator[str], headers: Mapping[str, str]) -> None:
        super().__init__(() if request.method == "HEAD" else _in_turns(pieces), headers=headers)
        self._path = request.url.path

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        except StorageError as error:
            # Left without its end, so that the server breaks the connection.
            _log.error("The response for %r was aborted: %s", self._path, error)


async def pages_from(first: Page, storage: Storage, listing: Listing) -> AsyncIterator[Page]:
    """The first page of a listing, and then all after it."""
    page = first
    yield page
    while page.next_cursor is not None:
        page = await storage.page(listing, cursor=page.next_cursor, limit=PAGE_SIZE)
        yield page


async def _in_turns(pieces: AsyncIterator[str]) -> AsyncIterator[str]:
    async for piece in pieces:
        yield piece
        await asyncio.sleep(0)  # a send() to a fast reader does not wait: others get their turn here
