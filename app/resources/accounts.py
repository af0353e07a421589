"""Signing up, logging in and out, and one's own account: forms for people, JSON for programs."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import RedirectResponse

from app.accounts.errors import AccountError, BadCredentials, NotPermitted
from app.accounts.models import Account, Destination
from app.http.errors import BodyError
from app.library.account_deletion import IN_PLACE, free_destination, usage_before_deletion
from app.resources import session_cookies
from app.resources.dependencies import (
    ManagerDep,
    People,
    PeopleDep,
    Services,
    ServicesDep,
    base_path,
    changeable,
)
from app.resources.errors import explained
from app.resources.middleware.host_guard import BASE_URL_HINT, is_from_our_page
from app.resources.pages import is_for_a_person, page
from app.resources.problems import BEARER, Problem, problems
from app.resources.request_body import client_of, fields_of, is_json, text
from app.resources.ui import elsewhere
from app.storage.types import SHARED

router = APIRouter(tags=["accounts"])


class Credentials(BaseModel):
    """Who somebody is."""

    email: str = Field(examples=["anna@example.org"])
    password: str


class NewAccount(Credentials):
    """Who somebody wants to be."""

    invite: str | None = Field(None, description="What the address to sign up at ends with, if one was sent.")


class PasswordChange(BaseModel):
    """The password, and what it is to be."""

    password: str
    new_password: str


class Deletion(BaseModel):
    """The password once more, so that nobody does it who only found an open browser."""

    password: str
    email: str | None = Field(None, description="The address of the account, if a person typed it.")
    keep_files: bool = Field(False, description="Keep the files, where GET says that it can be.")


class Leaving(BaseModel):
    """What the deletion of an account is about."""

    files: int
    size: int = Field(description="Bytes that they have together.")
    can_keep_files: bool = Field(description="Whether they can be left in the folder of the server.")


class AccountInfo(BaseModel):
    """An account, as its owner sees it."""

    id: str
    email: str
    is_admin: bool
    quota: int | None = Field(description="Bytes that all files together may have; null for no limit.")
    used: int = Field(description="Bytes that they have.")
    created_at: datetime


def body_of(model: type[BaseModel], *, form: bool = True) -> dict[str, Any]:
    """What OpenAPI says of such a body."""
    schema = {"schema": model.model_json_schema()}
    kinds = ["application/json", *(["application/x-www-form-urlencoded"] if form else [])]
    return {"requestBody": {"required": True, "content": dict.fromkeys(kinds, schema)}}


async def of_our_own(request: Request, services: ServicesDep) -> None:
    """NotPermitted, if a page of another site asks."""
    if not is_from_our_page(request.headers, services.base_url):
        raise NotPermitted(
            f"Pages of other sites may log nobody in here; they may use a token. {BASE_URL_HINT}"
        )


@router.post(
    "/sign-up",
    dependencies=[Depends(of_our_own)],
    status_code=201,
    response_model=AccountInfo,
    openapi_extra=body_of(NewAccount),
    responses={303: {"description": "To a form."}, **problems(400, 403, 409, 413, 415, 422, 429, 503)},
)
async def sign_up(request: Request, services: ServicesDep, people: PeopleDep) -> Response:
    """Make an account and log in to it. The first one of all is the administrator's."""
    if _came_by_http(request, services):
        return elsewhere(request, 403)
    shown: dict[str, str] = {}
    try:
        fields = await fields_of(request)
        shown["email"] = text(fields, "email", "")
        shown["invite"] = text(fields, "invite", "")
        account = await people.accounts.sign_up(
            text(fields, "email"),
            text(fields, "password"),
            invite=shown["invite"] or None,
            address=client_of(request),
        )
    except (AccountError, BodyError) as error:
        if is_json(request):
            raise
        return await _on_page(request, error, "sign-up.html", **({"email": "", "invite": ""} | shown))
    return await _logged_in(request, services, people, account, 201, "/")


@router.post(
    "/login",
    dependencies=[Depends(of_our_own)],
    response_model=AccountInfo,
    openapi_extra=body_of(Credentials),
    responses={303: {"description": "To a form."}, **problems(400, 401, 403, 413, 415, 422, 429, 503)},
)
async def login(request: Request, services: ServicesDep, people: PeopleDep) -> Response:
    """Log in: the answer sets a cookie."""
    if _came_by_http(request, services):
        return elsewhere(request, 403)
    shown: dict[str, str] = {}
    try:
        fields = await fields_of(request)
        shown["email"] = text(fields, "email", "")
        shown["next"] = text(fields, "next", "")
        caller = await people.accounts.callers.by_password(
            text(fields, "email"), text(fields, "password"), client_of(request)
        )
    except (AccountError, BodyError) as error:
        if is_json(request):
            raise
        return await _on_page(
            request,
            error,
            "login.html",
            **({"email": "", "next": ""} | shown),
            sign_up=people.accounts.is_open,
        )
    return await _logged_in(request, services, people, caller.account, 200, shown["next"])


def _came_by_http(request: Request, services: Services) -> bool:
    """Whether a form was sent from a page over http, and its cookie would be for https: the browser would
    drop it, and show the form again without end."""
    is_secure = (services.base_url or "").startswith("https://")
    return is_secure and not is_json(request) and request.headers.get("origin", "").startswith("http://")


async def _on_page(request: Request, error: Exception, template: str, **context: object) -> Response:
    """The form once more, with what was wrong."""
    told = await explained(request, error)
    problem = Problem.model_validate_json(bytes(told.body))
    kept = {name: told.headers[name] for name in ("retry-after",) if name in told.headers}
    if problem.status == 401:
        kept["www-authenticate"] = BEARER  # with Basic, the browser would ask before it shows the page
    return page(request, template, problem.status, kept, message=problem.detail, **context)


async def _logged_in(
    request: Request, services: Services, people: People, account: Account, status: int, target: str
) -> Response:
    if is_json(request):
        info = await _info(services, people, account)
        response = Response(info.model_dump_json(), status, media_type="application/json")
    else:
        response = RedirectResponse(_own(request, target), 303)
    await _begin_session(request, response, services, people, account)
    return response


async def _begin_session(
    request: Request, response: Response, services: Services, people: People, account: Account
) -> None:
    """Log in with the answer's cookie; what the browser showed before is over."""
    previous = session_cookies.secret_in(request, services.base_url)
    secret = await people.accounts.begin_session(account, previous=previous)
    session_cookies.give(response, request, secret, services.base_url, lasts_s=people.session_lasts_s)
    response.headers["cache-control"] = "no-store"


def _own(request: Request, target: str) -> str:
    """A path of this server, and of no other: `//example.org` is one of those, and so it is with a backslash
    for browsers."""
    root = base_path(request.scope)
    is_path = target.startswith("/") and target[1:2] not in ("/", "\\") and target.isprintable()
    return f"{root}{target}" if is_path else f"{root}/"


@router.post(
    "/logout",
    status_code=204,
    response_class=Response,
    responses={303: {"description": "To a form."}, **problems(401, 403, 503)},
)
async def logout(request: Request, services: ServicesDep, people: PeopleDep) -> Response:
    """Log out: what the cookie holds counts for nothing any more."""
    secret = session_cookies.secret_in(request, services.base_url)
    if secret:
        await people.accounts.end_session(secret)
    response = Response(status_code=204) if not _is_form(request) else _to_login(request)
    session_cookies.take(response, request, services.base_url)
    return response


@router.get("/account", response_model=AccountInfo, responses=problems(401, 403, 503))
async def account(services: ServicesDep, people: PeopleDep, caller: ManagerDep) -> Response:
    """The account that asks."""
    info = await _info(services, people, caller.account)
    headers = {"cache-control": "private, no-cache"}
    return Response(info.model_dump_json(), headers=headers, media_type="application/json")


@router.post(
    "/account/password",
    status_code=204,
    response_class=Response,
    openapi_extra=body_of(PasswordChange),
    responses=problems(400, 401, 403, 413, 415, 422, 429, 503),
)
async def change_password(
    request: Request, services: ServicesDep, people: PeopleDep, caller: ManagerDep
) -> Response:
    """Change the password. All logins are over; the browser that asks gets a new one."""
    fields = await fields_of(request)
    account = await people.accounts.change_password(
        caller, text(fields, "password"), text(fields, "new_password"), address=client_of(request)
    )
    response = Response(status_code=204)
    if session_cookies.secret_in(request, services.base_url):
        await _begin_session(request, response, services, people, account)
    return response


@router.get("/account/delete", response_model=Leaving, responses=problems(401, 403, 503))
async def look_at_deletion(
    response: Response, services: ServicesDep, people: PeopleDep, caller: ManagerDep
) -> Leaving:
    """How many files would be deleted with the account, and whether they can be kept."""
    response.headers["cache-control"] = "no-store"
    usage = await usage_before_deletion(services.storage, caller.account.library)
    can_keep = _can_keep(people, caller.account)
    return Leaving(files=usage.files, size=usage.size, can_keep_files=can_keep)


@router.post(
    "/account/delete",
    dependencies=[Depends(changeable)],
    status_code=204,
    response_class=Response,
    openapi_extra=body_of(Deletion),
    responses=problems(400, 401, 403, 409, 413, 415, 422, 429, 503),
)
async def delete_account(
    request: Request, services: ServicesDep, people: PeopleDep, caller: ManagerDep
) -> Response:
    """Delete the account and all its files, or keep the files in the folder of the server. It cannot be
    undone."""
    fields = await fields_of(request)
    if text(fields, "email", caller.account.email).strip().lower() != caller.account.email:
        raise BadCredentials("That is not the address of this account.")
    keep = None
    if _is_to_keep(fields.get("keep_files")):
        keep = await _destination(services, people, caller.account)
    await people.accounts.leave(caller, text(fields, "password"), address=client_of(request), keep=keep)
    people.account_deletion.start_soon()
    response = Response(status_code=204) if not _is_form(request) else _to_login(request)
    session_cookies.take(response, request, services.base_url)
    return response


def _is_to_keep(value: object) -> bool:
    """Return a member of JSON or a field of a form as a flag. Raises BadCredentials for all that is neither
    yes nor no: a misspelt wish to keep the files must not delete them."""
    if value in (None, "", "false", "off") or value is False:
        return False
    if value in ("true", "on") or value is True:
        return True
    raise BadCredentials("keep_files is neither true nor false.")


def _can_keep(people: People, account: Account) -> bool:
    """Whether the person may leave the files in the folder of the server: whose it is, and administrators.
    Others would fill it past every quota, by one account after the other."""
    return people.has_folder and (account.library == SHARED or account.is_admin)


async def _destination(services: Services, people: People, account: Account) -> Destination:
    if not _can_keep(people, account):
        raise NotPermitted("Ask an administrator to keep the files: `seekable account remove --keep-files`.")
    if account.library == SHARED:
        return IN_PLACE
    return await free_destination(services.storage, SHARED, account.email)


async def _info(services: Services, people: People, account: Account) -> AccountInfo:
    usage = await services.storage.usage(account.library)
    return AccountInfo(
        id=account.id,
        email=account.email,
        is_admin=account.is_admin,
        quota=people.quotas.of(account),
        used=usage.size,
        created_at=account.created_at,
    )


def _is_form(request: Request) -> bool:
    return is_for_a_person(request) and not is_json(request)


def _to_login(request: Request) -> Response:
    return RedirectResponse(f"{base_path(request.scope)}/login", 303)
