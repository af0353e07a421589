"""The pages on which people sign up, log in, and look after their account."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette._utils import get_route_path
from starlette.responses import Response

from app.resources import cookies
from app.resources.deps import ManagerDep, PeopleDep, Services, ServicesDep
from app.resources.pages import PageRoute, page

Text = Annotated[str, Query(max_length=4096)]
Here = Annotated[bool, Query(description="Show the form, though the browser may drop its cookie.")]

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.head("/login")
@router.get("/login")
async def login(
    request: Request, services: ServicesDep, people: PeopleDep, next: Text = "", here: Here = False
) -> Response:
    """A form, which works without scripts."""
    if not here and _is_lost(request, services):
        return elsewhere(request)
    return page(request, "login.html", message="", email="", next=next, sign_up=people.accounts.is_open)


@router.head("/sign-up")
@router.get("/sign-up")
async def sign_up(request: Request, services: ServicesDep, invite: Text = "", here: Here = False) -> Response:
    """A form, which works without scripts."""
    if not here and _is_lost(request, services):
        return elsewhere(request)
    return page(request, "sign-up.html", message="", email="", invite=invite)


@router.head("/settings")
@router.get("/settings")
async def settings(request: Request, caller: ManagerDep) -> Response:
    """What an account has: its password, tokens, links, invites; its script asks the JSON routes."""
    return page(request, "settings.html")


def elsewhere(request: Request, status: int = 200) -> Response:
    """Explain that the browser keeps no login here, and link to the same page at the base URL."""
    query = f"?{request.url.query}" if request.url.query else ""
    return page(
        request,
        "elsewhere.html",
        status,
        path=get_route_path(request.scope),
        query=query,
        may_be_wrong=cookies.may_be_secure(request.headers) and request.method != "POST",
        message="",
    )


def _is_lost(request: Request, services: Services) -> bool:
    return cookies.is_lost(request.headers, scheme=request.scope["scheme"], base_url=services.base_url)
