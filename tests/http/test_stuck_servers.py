"""A socket under a server that waits for ever for a client that does not read, as uvicorn does by itself."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.events.connections import BACKLOG
from app.main import create_app
from app.resources import sockets
from app.settings import Settings
from tests.support import NewLibrary


def test_a_route_ends_even_where_a_close_does_not(
    tmp_path: Path, new_library: NewLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "CLOSE_WITHIN_S", 0.1)
    sent: list[str] = []

    async def scene() -> None:
        app = create_app(Settings(files_dir=tmp_path, **new_library()))
        arrivals = asyncio.Queue[dict[str, str]]()
        arrivals.put_nowait({"type": "websocket.connect"})

        async def send(message: Any) -> None:
            sent.append(message["type"])
            if message["type"] != "websocket.accept":
                await asyncio.Event().wait()

        async with app.router.lifespan_context(app) as state:
            scope = {
                "type": "websocket",
                "http_version": "1.1",
                "scheme": "ws",
                "path": "/events",
                "raw_path": b"/events",
                "query_string": b"",
                "headers": [(b"host", b"localhost")],
                "client": ("127.0.0.1", 1),
                "server": ("127.0.0.1", 2),
                "subprotocols": [],
                "state": dict(state or {}),
            }
            route = asyncio.create_task(app(scope, arrivals.get, send))
            await asyncio.sleep(0.2)
            connections = scope["state"]["services"].connections
            for number in range(BACKLOG + 1):
                connections.broadcast("", str(number))
            await asyncio.wait_for(route, 10)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scene())
    assert sent == ["websocket.accept", "websocket.send", "websocket.close"]
