"""Invites: what an administrator sends to people who shall sign up."""

from datetime import datetime

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from app.accounts.making import INVITE_LASTS
from app.accounts.models import Invite
from app.resources.accounts import body_of
from app.resources.deps import ManagerDep, PeopleDep, ServicesDep, base_url, unstored
from app.resources.fields import fields_of
from app.resources.links import seconds
from app.resources.problems import problems

router = APIRouter(tags=["accounts"], dependencies=[Depends(unstored)])


class NewInvite(BaseModel):
    """An invite to be made."""

    expires_in: int = Field(int(INVITE_LASTS.total_seconds()), description="Seconds, up to a year.")


class InviteInfo(BaseModel):
    """An invite that nobody has used."""

    id: str
    created_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, invite: Invite) -> "InviteInfo":
        return cls(id=invite.hash, created_at=invite.created_at, expires_at=invite.expires_at)


class MadeInvite(InviteInfo):
    """An invite that was made just now."""

    url: str = Field(description="Where one person can sign up. It is not shown again.")


class InviteList(BaseModel):
    """The invites that nobody has used, the newest first."""

    items: list[InviteInfo]


@router.get("/invites", response_model=InviteList, responses=problems(401, 403, 503))
async def list_invites(people: PeopleDep, caller: ManagerDep) -> InviteList:
    """The invites; for administrators."""
    return InviteList(items=[InviteInfo.of(invite) for invite in await people.accounts.invites(caller)])


@router.post(
    "/invites",
    status_code=201,
    response_model=MadeInvite,
    openapi_extra=body_of(NewInvite, form=False),
    responses=problems(400, 401, 403, 413, 415, 422, 503),
)
async def make_invite(
    request: Request, services: ServicesDep, people: PeopleDep, caller: ManagerDep
) -> MadeInvite:
    """Invite one person; for administrators."""
    lasts = seconds(await fields_of(request), "expires_in", INVITE_LASTS)
    invite, secret = await people.accounts.invite(caller, lasts)
    url = f"{base_url(request, services.base_url)}/sign-up?invite={secret}"
    return MadeInvite(**InviteInfo.of(invite).model_dump(), url=url)


@router.delete(
    "/invites/{invite_id}", status_code=204, response_class=Response, responses=problems(401, 403, 404, 503)
)
async def revoke_invite(people: PeopleDep, caller: ManagerDep, invite_id: str) -> Response:
    """Take an invite back; for administrators."""
    await people.accounts.revoke_invite(caller, invite_id)
    return Response(status_code=204)
