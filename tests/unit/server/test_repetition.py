"""Answers that the application permits to repeat, and how many of them are kept."""

import asyncio
import sys
import time
from typing import Any

import pytest

from app.server.exchange import REPEAT
from app.server.fast_path import FIELD_OVERHEAD, MAX_KEPT_BYTES
from tests.unit.server.test_connection import serving

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        sys.platform != "linux", reason="answers are repeated where files are sent by sendfile"
    ),
]


class Current:
    """A file that never changes, and of which no byte is sent."""

    def descriptor(self, start: int, stop: int, now: float) -> int:
        return 0  # any that is not negative


class Application:
    """Answers each request with 304, for ever."""

    def __init__(self) -> None:
        self.requests = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests += 1
        until = time.monotonic() + 60
        permission = {"file": Current(), "span": None, "size": 0, "until": until, "rest": None}
        await send({"type": "http.response.start", "status": 304, "headers": [], REPEAT: permission})
        await send({"type": "http.response.body"})


async def test_kept_answers_are_bounded_in_memory() -> None:
    """Many short fields take much more memory than their text."""
    fields = 500
    bound = MAX_KEPT_BYTES // (fields * FIELD_OVERHEAD)
    heads = [
        b"GET /%d HTTP/1.1\r\nHost: a\r\n%b\r\n" % (number, b"a:b\r\n" * fields)
        for number in range(2 * bound)
    ]
    app = Application()
    async with serving(app, sendfile=True, fast_path=True) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        async with asyncio.timeout(30):
            for head in [*heads, *reversed(heads)]:
                writer.write(head)
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 304")
        writer.close()
    repeated = 2 * len(heads) - app.requests
    assert bound // 2 < repeated <= bound
