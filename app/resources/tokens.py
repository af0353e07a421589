"""Tokens: what a person makes for programs, names, and revokes."""

from datetime import datetime

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from app.accounts.errors import BadCredentials
from app.accounts.models import Scope, Token
from app.resources.accounts import body_of
from app.resources.deps import ManagerDep, PeopleDep, unstored
from app.resources.fields import fields_of, text
from app.resources.problems import problems

router = APIRouter(tags=["accounts"], dependencies=[Depends(unstored)])


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
