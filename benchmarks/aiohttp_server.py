"""Serve a folder with aiohttp's FileResponse: `python -m benchmarks.aiohttp_server FOLDER PORT`."""

import sys
from pathlib import Path

from aiohttp import web


async def watch(request: web.Request) -> web.FileResponse:
    return web.FileResponse(Path(sys.argv[1], request.match_info["name"]))


if __name__ == "__main__":
    app = web.Application()
    app.router.add_get("/{name}", watch)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), access_log=None, print=None)
