"""The pages on which people sign up, log in, and look after their account."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.resources.deps import ServicesDep
from app.resources.pages import PageRoute, page
from app.storage.errors import NotFound

Text = Annotated[str, Query(max_length=4096)]

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.head("/login")
@router.get("/login")
async def login(request: Request, services: ServicesDep, next: Text = "") -> Response:
    """A form, which works without scripts."""
    _need_accounts(services)
    return page(request, "login.html", message="", email="", next=next, sign_up=True)


@router.head("/sign-up")
@router.get("/sign-up")
async def sign_up(request: Request, services: ServicesDep, invite: Text = "") -> Response:
    """A form, which works without scripts."""
    _need_accounts(services)
    return page(request, "sign-up.html", message="", email="", invite=invite)


@router.head("/settings")
@router.get("/settings")
async def settings(request: Request, services: ServicesDep) -> Response:
    """What an account has: its password, tokens, links, invites; its script asks the JSON routes."""
    _need_accounts(services)
    return page(request, "settings.html")


def _need_accounts(services: object) -> None:
    if getattr(services, "accounts", None) is None:
        raise NotFound("There are no accounts here.")
