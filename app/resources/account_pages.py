"""The pages on which people sign up, log in, and look after their account."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.resources.deps import ManagerDep, PeopleDep
from app.resources.pages import PageRoute, page

Text = Annotated[str, Query(max_length=4096)]

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.head("/login")
@router.get("/login")
async def login(request: Request, people: PeopleDep, next: Text = "") -> Response:
    """A form, which works without scripts."""
    return page(request, "login.html", message="", email="", next=next, sign_up=people.accounts.is_open)


@router.head("/sign-up")
@router.get("/sign-up")
async def sign_up(request: Request, people: PeopleDep, invite: Text = "") -> Response:
    """A form, which works without scripts."""
    return page(request, "sign-up.html", message="", email="", invite=invite)


@router.head("/settings")
@router.get("/settings")
async def settings(request: Request, caller: ManagerDep) -> Response:
    """What an account has: its password, tokens, links, invites; its script asks the JSON routes."""
    return page(request, "settings.html")
