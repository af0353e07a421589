"""The OpenAPI console at /docs, with assets that this program serves: it works with no internet."""

import os
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from app.resources.dependencies import base_path
from app.resources.problems import problems


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


ASSETS = Assets(f"docs-{version('fastapi-offline')}", str(files("fastapi_offline") / "static"))

HEADERS = {
    # The console comes with a script in its page, and pictures in its style. It may ask this server alone,
    # and no page of another site may lay itself over its buttons.
    "content-security-policy": "default-src 'none'; connect-src 'self'; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}

FOR_EVERYBODY = ("/favicon.ico", "/login", "/sign-up", "/health", "/health/live", "/health/ready", "/metrics")

SCHEMES = {
    "password": {"type": "http", "scheme": "basic", "description": "Email address and password."},
    "token": {"type": "http", "scheme": "bearer", "description": "A token of POST /account/tokens."},
}


class Application(FastAPI):
    """Also documents who may ask for what, where there are accounts."""

    has_accounts = False
    base_path = ""
    """The path that a proxy puts this server below, decoded: the console and all links lead there."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # FastAPI's own parameter is deprecated, and the server's is not set under `uvicorn app.main:app`.
        if self.base_path:
            scope["root_path"] = self.base_path
        await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None and self.has_accounts:
            secure(super().openapi())
        return super().openapi()


def secure(document: dict[str, Any]) -> None:
    """Add to a document of the API that its operations take an account."""
    document.setdefault("components", {})["securitySchemes"] = SCHEMES
    document["security"] = [{name: []} for name in SCHEMES]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path in FOR_EVERYBODY:
                operation["security"] = []
            else:
                operation["responses"] |= {str(k): v for k, v in problems(401, 403, 429).items()}


router = APIRouter(include_in_schema=False)
router.include_router(ASSETS.router)


@router.head("/docs")
@router.get("/docs")
async def docs(request: Request) -> Response:
    """The console."""
    root = base_path(request.scope)
    assets = f"{root}{ASSETS.path}"
    console = get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title="Seekable",
        swagger_js_url=f"{assets}/swagger-ui-bundle.js",
        swagger_css_url=f"{assets}/swagger-ui.css",
        swagger_favicon_url=f"{assets}/favicon.png",
        swagger_ui_parameters={"tryItOutEnabled": True},
    )
    console.headers.update(HEADERS)
    return console
