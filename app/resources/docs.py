"""The API docs at /docs. This server also serves their assets."""

from importlib.metadata import version
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, Response

from app.resources import rendering
from app.resources.dependencies import base_path
from app.resources.rendering import JSON, StaticAssets

ASSETS = StaticAssets(f"docs-{version('fastapi-offline')}", str(files("fastapi_offline") / "static"))

_HEADERS = {
    # Swagger UI has an inline script and images in its styles. It may call this server only, and no other
    # site may frame it.
    "content-security-policy": "default-src 'none'; connect-src 'self'; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}

PUBLIC_PATHS = (
    "/favicon.ico",
    "/help",
    "/login",
    "/sign-up",
    "/health",
    "/health/live",
    "/health/ready",
    "/metrics",
)
"""The paths that need no login."""

API_DOCS_PATHS = ("/docs", "/openapi.json")
"""The paths that need none unless SEEKABLE_API_DOCS=login: they contain nothing of an account."""

router = APIRouter(include_in_schema=False)
router.include_router(ASSETS.router)


@router.head("/openapi.json")
@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """The OpenAPI document, whose operations lie below the path that a proxy puts this server below."""
    document, root = request.app.openapi(), request.scope.get("root_path", "")
    if root:
        document = {**document, "servers": [{"url": root}]}
    return JSON(document, headers={"cache-control": "no-cache"})


@router.head("/docs")
@router.get("/docs")
async def docs(request: Request) -> Response:
    """The API docs."""
    root = base_path(request.scope)
    assets = f"{root}{ASSETS.path}"
    response = get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title="Seekable",
        swagger_js_url=f"{assets}/swagger-ui-bundle.js",
        swagger_css_url=f"{assets}/swagger-ui.css",
        swagger_favicon_url=f"{assets}/favicon.png",
        swagger_ui_parameters={"tryItOutEnabled": True},
    )
    html = bytes(response.body).decode().replace("<html>", '<html lang="en">')
    ours = f"{root}{rendering.ASSETS.path}"
    head = (
        '<meta name="color-scheme" content="light dark">\n'
        f'<link rel="stylesheet" href="{ours}/docs.css">\n'
        f'<script src="{ours}/docs.js"></script>\n'
        "</head>"
    )
    return HTMLResponse(html.replace("</head>", head), headers=_HEADERS)
