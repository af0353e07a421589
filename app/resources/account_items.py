"""Signed links: what opens one file, or one playlist, to whoever has the address."""

from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from app.accounts.errors import BadCredentials
from app.accounts.factories import INVITE_LASTS
from app.accounts.models import Invite, Link, Scope, Token
from app.accounts.service import LINK_LASTS
from app.resources.accounts import body_of
from app.resources.dependencies import ManagerDep, PeopleDep, ServicesDep, base_url, file_url, unstored
from app.resources.problems import problems
from app.resources.request_body import fields_of, text
from app.storage.types import Key, normalize_folder

router = APIRouter(tags=["accounts"], dependencies=[Depends(unstored)])

FORMATS = ("m3u", "xspf")


class NewLink(BaseModel):
    """A link to be made: to a file by its path, or to the playlist of a folder."""

    path: str | None = Field(None, examples=["films/film.mp4"])
    folder: str | None = Field(None, description="With playlist: of which folder; the top if empty.")
    playlist: Literal["m3u", "xspf"] | None = None
    recursive: bool = Field(False, description="With playlist: also of all that is in the folders inside.")
    expires_in: int = Field(int(LINK_LASTS.total_seconds()), description="Seconds, up to a year.")


class LinkInfo(BaseModel):
    """A signed link."""

    id: str
    path: str = Field(description="Of the file, or the folder.")
    is_playlist: bool
    recursive: bool
    automatic: bool = Field(description="It was made for the entries of a playlist that a player fetched.")
    created_at: datetime
    expires_at: datetime
    url: str = Field(description="What to give to others: it opens by GET and HEAD, without a password.")


class LinkList(BaseModel):
    """The links of an account that have not expired, the newest first."""

    items: list[LinkInfo]


@router.get("/account/links", response_model=LinkList, responses=problems(401, 403, 503))
async def list_links(
    request: Request, services: ServicesDep, people: PeopleDep, caller: ManagerDep
) -> LinkList:
    """The signed links of the account."""
    base = base_url(request, services.base_url)
    links = await people.accounts.links(caller)
    return LinkList(items=[_info(link, base, await people.accounts.signed(link)) for link in links])


@router.post(
    "/account/links",
    status_code=201,
    response_model=LinkInfo,
    openapi_extra=body_of(NewLink, form=False),
    responses=problems(400, 401, 403, 404, 413, 415, 422, 503),
)
async def make_link(
    request: Request, services: ServicesDep, people: PeopleDep, caller: ManagerDep
) -> LinkInfo:
    """Share a file, or the playlist of a folder, by a link that expires and can be revoked."""
    fields = await fields_of(request)
    lasts = seconds(fields, "expires_in", LINK_LASTS)
    kind = fields.get("playlist")
    if kind is None:
        key = Key.at(caller.account.library, text(fields, "path"))
        await services.storage.stat(key)
        link = await people.accounts.make_link(caller, key.path, playlist=False, recursive=False, lasts=lasts)
    elif kind in FORMATS:
        folder = normalize_folder(text(fields, "folder", ""))
        link = await people.accounts.make_link(
            caller, folder, playlist=True, recursive=fields.get("recursive") is True, lasts=lasts
        )
    else:
        raise BadCredentials("A playlist is m3u or xspf.")
    base = base_url(request, services.base_url)
    return _info(link, base, await people.accounts.signed(link), kind or "m3u")


@router.delete(
    "/account/links/{link_id}",
    status_code=204,
    response_class=Response,
    responses=problems(401, 403, 404, 503),
)
async def revoke_link(people: PeopleDep, caller: ManagerDep, link_id: str) -> Response:
    """Revoke a link. It opens nothing any more, and neither do the entries of its playlist."""
    await people.accounts.revoke_link(caller, link_id)
    return Response(status_code=204)


def seconds(fields: dict[str, Any], name: str, default: timedelta) -> timedelta:
    """A field that is a number of seconds. BadCredentials."""
    value = fields.get(name, default.total_seconds())
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise BadCredentials(f"{name} is a number of seconds.")
    return timedelta(seconds=int(value))


def _info(link: Link, base: str, signed: str, format: str = "m3u") -> LinkInfo:
    if link.is_playlist:
        query = {"folder": link.path, **({"recursive": "true"} if link.recursive else {}), "link": signed}
        url = f"{base}/playlist.{format}?{urlencode(query, quote_via=quote)}"
    else:
        url = f"{file_url(base, Key.at('', link.path))}?link={signed}"
    return LinkInfo(
        id=link.id,
        path=link.path,
        is_playlist=link.is_playlist,
        recursive=link.recursive,
        automatic=link.automatic,
        created_at=link.created_at,
        expires_at=link.expires_at,
        url=url,
    )


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


class NewToken(BaseModel):
    """A token to be made."""

    name: str = Field(examples=["backup"])
    scopes: list[Scope] = Field(description="`read` is GET and HEAD, `write` all else.", examples=[["read"]])


class TokenInfo(BaseModel):
    """A token, without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    created_at: datetime

    @classmethod
    def of(cls, token: Token) -> "TokenInfo":
        scopes = [scope for scope in Scope if scope in token.scopes]
        return cls(id=token.id, name=token.name, scopes=scopes, created_at=token.created_at)


class MadeToken(TokenInfo):
    """A token that was made just now."""

    token: str = Field(description="The secret, which is not shown again: `Authorization: Bearer …`.")


class TokenList(BaseModel):
    """The tokens of an account, the newest first."""

    items: list[TokenInfo]


@router.get("/account/tokens", response_model=TokenList, responses=problems(401, 403, 503))
async def list_tokens(people: PeopleDep, caller: ManagerDep) -> TokenList:
    """The tokens of the account."""
    return TokenList(items=[TokenInfo.of(token) for token in await people.accounts.tokens(caller)])


@router.post(
    "/account/tokens",
    status_code=201,
    response_model=MadeToken,
    openapi_extra=body_of(NewToken, form=False),
    responses=problems(400, 401, 403, 413, 415, 422, 503),
)
async def make_token(request: Request, people: PeopleDep, caller: ManagerDep) -> MadeToken:
    """Make a token for a program. Its secret is in this answer only."""
    fields = await fields_of(request)
    token, secret = await people.accounts.make_token(
        caller, text(fields, "name"), _scopes(fields.get("scopes"))
    )
    return MadeToken(**TokenInfo.of(token).model_dump(), token=secret)


def _scopes(given: object) -> frozenset[Scope]:
    try:
        return frozenset(Scope(word) for word in given) if isinstance(given, list) else frozenset()
    except ValueError:
        raise BadCredentials("The scopes of a token are read and write.") from None


@router.delete(
    "/account/tokens/{token_id}",
    status_code=204,
    response_class=Response,
    responses=problems(401, 403, 404, 503),
)
async def revoke_token(people: PeopleDep, caller: ManagerDep, token_id: str) -> Response:
    """Revoke a token. It counts for nothing at once."""
    await people.accounts.revoke_token(caller, token_id)
    return Response(status_code=204)
