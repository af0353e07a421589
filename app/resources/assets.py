"""The static files of this program, which are never uploads."""

import os

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles


class Assets:
    """The files of one folder under a path that holds their release: what is cached for good never changes.

    `release` has to change whenever a file does.
    """

    def __init__(self, release: str, folder: str | os.PathLike[str]) -> None:
        self.path = f"/assets/{release}"
        self.router = APIRouter(include_in_schema=False)
        self.router.add_api_route(f"{self.path}/{{name}}", self._asset, methods=["GET", "HEAD"])
        self._files = StaticFiles(directory=folder, check_dir=False)

    async def unreleased(self, request: Request, name: str) -> Response:
        """One of the files at an address that does not hold the release."""
        response = await self._files.get_response(name, request.scope)
        response.headers["cache-control"] = "public, max-age=86400"
        response.headers["x-content-type-options"] = "nosniff"
        return response

    async def _asset(self, request: Request, name: str) -> Response:
        response = await self._files.get_response(name, request.scope)
        response.headers["cache-control"] = "public, max-age=31536000, immutable"
        response.headers["x-content-type-options"] = "nosniff"
        return response
