"""Routes that StreamMiddleware would hide: it matches the stream routes before all others."""

import re
import subprocess
import sys
from collections.abc import Iterable

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route

from app.resources import downloads
from app.resources.application import routes

STREAM_ROUTES = [route for route in downloads.router.routes if isinstance(route, APIRoute)]


def hidden_paths(application_routes: Iterable[BaseRoute]) -> list[str]:
    """Return the paths of GET and HEAD routes that StreamMiddleware takes for those of stored files."""
    return [
        route.path
        for route in application_routes
        if isinstance(route, Route) and route not in STREAM_ROUTES
        if {"GET", "HEAD"} & (route.methods or set())
        if any(stream.path_regex.match(example(route)) for stream in STREAM_ROUTES)
    ]


def example(route: Route) -> str:
    """Return a path of the route, with `x` for each parameter."""
    return re.sub(r"\{[^}]*\}", "x", route.path)


def test_stream_middleware_hides_no_route() -> None:
    assert hidden_paths(routes(accounts=True, metrics="open")) == []


@pytest.mark.parametrize("path", ["/files/count", "/files/{path:rest}/tags", "/stream/newest"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_check_detects_hidden_route(path: str, method: str) -> None:
    planted = APIRouter()
    planted.add_api_route(path, lambda: None, methods=[method])
    planted.add_api_route(path, lambda: None, methods=["POST"])
    everything = [*routes(accounts=True, metrics="open"), *planted.routes]
    assert hidden_paths(everything) == [path]


def test_application_starts_without_libraries_of_pages_and_without_schemas() -> None:
    code = (
        "import sys, app.main\n"
        "from fastapi.openapi.models import OpenAPI\n"
        "print({'jinja2', 'markdown_it'} & sys.modules.keys(), OpenAPI.__pydantic_complete__)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set() False\n"
