"""A WebSocket on a server whose `send` blocks for ever when the client does not read, as uvicorn's does."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.events.connections import BACKLOG
from app.main import create_app
from app.settings import Settings
from tests.support import NewLibrary


def test_socket_route_ends_when_close_blocks(tmp_path: Path, new_library: NewLibrary) -> None:
    sent: list[str] = []

    async def run_socket() -> None:
        app = create_app(Settings(files_dir=tmp_path, **new_library()))
        incoming = asyncio.Queue[dict[str, str]]()
        incoming.put_nowait({"type": "websocket.connect"})
        sending = asyncio.Event()

        async def send(message: Any) -> None:
            sent.append(message["type"])
            if message["type"] != "websocket.accept":
                sending.set()
                await asyncio.Event().wait()

        async with app.router.lifespan_context(app) as lifespan_state:
            state = dict(lifespan_state or {})
            state["services"] = replace(state["services"], close_sockets_within_s=0.1)
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
                "state": state,
            }
            route = asyncio.create_task(app(scope, incoming.get, send))
            await asyncio.wait_for(sending.wait(), 10)
            connections = state["services"].connections
            for number in range(BACKLOG + 1):
                connections.broadcast("", str(number))
            await asyncio.wait_for(route, 10)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run_socket())
    assert sent == ["websocket.accept", "websocket.send", "websocket.close"]
