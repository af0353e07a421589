"""The OpenAPI console at /docs, with assets that this program serves: it works with no internet."""

from importlib.metadata import version
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

RELEASE = f"docs-{version('fastapi-offline')}"
_STATIC = StaticFiles(directory=str(files("fastapi_offline") / "static"), check_dir=False)

router = APIRouter(include_in_schema=False)


@router.head("/docs")
@router.get("/docs")
async def docs(request: Request) -> Response:
    """The console."""
    root = request.scope.get("root_path", "")
    assets = f"{root}/assets/{RELEASE}"
    return get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title="Seekable",
        swagger_js_url=f"{assets}/swagger-ui-bundle.js",
        swagger_css_url=f"{assets}/swagger-ui.css",
        swagger_favicon_url=f"{assets}/favicon.png",
        swagger_ui_parameters={"tryItOutEnabled": True},
    )


@router.head(f"/assets/{RELEASE}/{{name}}")
@router.get(f"/assets/{RELEASE}/{{name}}")
async def asset(request: Request, name: str) -> Response:
    """What the console is made of. It never changes under its name, which holds the release."""
    response = await _STATIC.get_response(name, request.scope)
    response.headers["cache-control"] = "public, max-age=31536000, immutable"
    return response
