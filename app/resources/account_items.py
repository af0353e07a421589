"""Signed links, invites and tokens of an account."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from app.accounts.models import INVITE_LASTS, Invite, Link, Scope, Token
from app.accounts.service import LINK_LASTS
from app.resources.dependencies import (
    AccountHolderDep,
    AccountsDep,
    ServicesDep,
    base_url,
    file_url,
    no_store,
)
from app.resources.errors import problems
from app.resources.rendering import JSON
from app.resources.request_body import InvalidFields, body, body_schema
from app.storage.types import Key, normalize_folder

router = APIRouter(dependencies=[Depends(no_store)], default_response_class=JSON)


def _whole_seconds(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise ValueError("must be a number of seconds")
    return int(value)


Seconds = Annotated[int, BeforeValidator(_whole_seconds)]


class NewLink(BaseModel):
    """A link to create: to a file by its path, or to the playlist of a folder."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"path": "films/film.mp4"}]})

    path: str | None = Field(None, examples=["films/film.mp4"])
    folder: str | None = Field(None, description="With playlist: its folder; the top if empty.")
    playlist: Literal["m3u", "xspf"] | None = None
    recursive: Annotated[bool, BeforeValidator(lambda value: value is True)] = Field(
        False, description="With playlist: include the folders inside."
    )
    expires_in: Seconds = Field(int(LINK_LASTS.total_seconds()), description="Seconds, up to a year.")

    @model_validator(mode="before")
    @classmethod
    def _without_unused_member(cls, fields: dict[str, Any]) -> dict[str, Any]:
        unused = "folder" if fields.get("playlist") is None else "path"
        return {name: value for name, value in fields.items() if name != unused}


class LinkInfo(BaseModel):
    """A signed link."""

    id: str
    path: str = Field(description="Of the file, or the folder.")
    is_playlist: bool
    recursive: bool
    automatic: bool = Field(description="Created for the entries of a playlist that a player requested.")
    created_at: datetime
    expires_at: datetime
    url: str = Field(description="The address to share: it opens by GET and HEAD, without a password.")


class LinkList(BaseModel):
    """The links of an account that have not expired, the newest first."""

    items: list[LinkInfo]


@router.get(
    "/account/links",
    operation_id="links_list",
    summary="List your links",
    response_model=LinkList,
    responses=problems(401, 403, 503),
)
async def list_links(
    request: Request, services: ServicesDep, accounts: AccountsDep, principal: AccountHolderDep
) -> LinkList:
    """The signed links of the account."""
    base = base_url(request, services.base_url)
    links = await accounts.service.links(principal)
    return LinkList(items=[_info(link, base, await accounts.service.sign(link)) for link in links])


@router.post(
    "/account/links",
    operation_id="links_create",
    summary="Create a link to a file or a playlist",
    status_code=201,
    response_model=LinkInfo,
    openapi_extra=body_schema(NewLink),
    responses=problems(400, 401, 403, 404, 413, 415, 422, 503),
)
async def make_link(
    request: Request,
    services: ServicesDep,
    accounts: AccountsDep,
    principal: AccountHolderDep,
    new: Annotated[NewLink, body(NewLink)],
) -> LinkInfo:
    """Share a file, or the playlist of a folder, by a link that expires and can be revoked."""
    if new.playlist is None:
        if new.path is None:
            raise InvalidFields("path is missing.")
        key = Key.at(principal.account.library, new.path)
        await services.storage.stat(key)
        path = key.path
    else:
        path = normalize_folder(new.folder or "")
    link = await accounts.service.create_link(
        principal,
        path,
        playlist=new.playlist is not None,
        recursive=new.recursive and new.playlist is not None,
        lasts=timedelta(seconds=new.expires_in),
    )
    base = base_url(request, services.base_url)
    return _info(link, base, await accounts.service.sign(link), new.playlist or "m3u")


@router.delete(
    "/account/links/{link_id}",
    operation_id="links_revoke",
    summary="Revoke a link",
    status_code=204,
    response_class=Response,
    responses=problems(401, 403, 404, 503),
)
async def revoke_link(accounts: AccountsDep, principal: AccountHolderDep, link_id: str) -> Response:
    """Revoke a link, and with it the entries of its playlist."""
    await accounts.service.revoke_link(principal, link_id)
    return Response(status_code=204)


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
    """An invite to create."""

    expires_in: Seconds = Field(int(INVITE_LASTS.total_seconds()), description="Seconds, up to a year.")


class InviteInfo(BaseModel):
    """An unused invite."""

    id: str
    created_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, invite: Invite) -> "InviteInfo":
        return cls(id=invite.hash, created_at=invite.created_at, expires_at=invite.expires_at)


class MadeInvite(InviteInfo):
    """A new invite."""

    url: str = Field(description="The address at which one person can sign up. It is not shown again.")


class InviteList(BaseModel):
    """The unused invites, the newest first."""

    items: list[InviteInfo]


@router.get(
    "/invites",
    operation_id="invites_list",
    summary="List all invites",
    response_model=InviteList,
    responses=problems(401, 403, 503),
)
async def list_invites(accounts: AccountsDep, principal: AccountHolderDep) -> InviteList:
    """The invites; for administrators."""
    return InviteList(items=[InviteInfo.of(invite) for invite in await accounts.service.invites(principal)])


@router.post(
    "/invites",
    operation_id="invites_create",
    summary="Create an invite",
    status_code=201,
    response_model=MadeInvite,
    openapi_extra=body_schema(NewInvite),
    responses=problems(400, 401, 403, 413, 415, 422, 503),
)
async def make_invite(
    request: Request,
    services: ServicesDep,
    accounts: AccountsDep,
    principal: AccountHolderDep,
    new: Annotated[NewInvite, body(NewInvite)],
) -> MadeInvite:
    """Invite one person; for administrators."""
    invite, secret = await accounts.service.create_invite(principal, timedelta(seconds=new.expires_in))
    url = f"{base_url(request, services.base_url)}/sign-up?invite={secret}"
    return MadeInvite(**InviteInfo.of(invite).model_dump(), url=url)


@router.delete(
    "/invites/{invite_id}",
    operation_id="invites_revoke",
    summary="Revoke an invite",
    status_code=204,
    response_class=Response,
    responses=problems(401, 403, 404, 503),
)
async def revoke_invite(accounts: AccountsDep, principal: AccountHolderDep, invite_id: str) -> Response:
    """Revoke an invite; for administrators."""
    await accounts.service.revoke_invite(principal, invite_id)
    return Response(status_code=204)


class NewToken(BaseModel):
    """A token to create."""

    name: str = Field(examples=["backup"])
    scopes: list[Scope] = Field(
        description="`read` is GET and HEAD, `write` all other methods.", examples=[["read"]]
    )


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
    """A new token."""

    token: str = Field(description="The secret, which is not shown again: `Authorization: Bearer …`.")


class TokenList(BaseModel):
    """The tokens of an account, the newest first."""

    items: list[TokenInfo]


@router.get(
    "/account/tokens",
    operation_id="tokens_list",
    summary="List your tokens",
    response_model=TokenList,
    responses=problems(401, 403, 503),
)
async def list_tokens(accounts: AccountsDep, principal: AccountHolderDep) -> TokenList:
    """The tokens of the account."""
    return TokenList(items=[TokenInfo.of(token) for token in await accounts.service.tokens(principal)])


@router.post(
    "/account/tokens",
    operation_id="tokens_create",
    summary="Create a token",
    status_code=201,
    response_model=MadeToken,
    openapi_extra=body_schema(NewToken),
    responses=problems(400, 401, 403, 413, 415, 422, 503),
)
async def make_token(
    accounts: AccountsDep, principal: AccountHolderDep, new: Annotated[NewToken, body(NewToken)]
) -> MadeToken:
    """Create a token for a program. Only this response contains its secret."""
    token, secret = await accounts.service.create_token(principal, new.name, frozenset(new.scopes))
    return MadeToken(**TokenInfo.of(token).model_dump(), token=secret)


@router.delete(
    "/account/tokens/{token_id}",
    operation_id="tokens_revoke",
    summary="Revoke a token",
    status_code=204,
    response_class=Response,
    responses=problems(401, 403, 404, 503),
)
async def revoke_token(accounts: AccountsDep, principal: AccountHolderDep, token_id: str) -> Response:
    """Revoke a token at once."""
    await accounts.service.revoke_token(principal, token_id)
    return Response(status_code=204)
