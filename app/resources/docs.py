"""The OpenAPI console at /docs, with assets that this program serves: it works with no internet."""

from importlib.metadata import version
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import Response

from app.resources.assets import Assets

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

router = APIRouter(include_in_schema=False)
router.include_router(ASSETS.router)


@router.head("/docs")
@router.get("/docs")
async def docs(request: Request) -> Response:
    """The console."""
    root = request.scope.get("root_path", "")
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
