"""Sign-up, login, logout, and the account of the caller: forms for browsers, JSON for programs."""

from datetime import datetime
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, BeforeValidator, Field
from starlette.responses import RedirectResponse

from app.accounts.errors import AccountError, BadCredentials, NotPermitted
from app.accounts.models import Account, Destination
from app.http.content_negotiation import asks_for_page
from app.http.errors import BodyError
from app.library.account_deletion import IN_PLACE, free_destination, usage_before_deletion
from app.resources import session_cookies
from app.resources.dependencies import (
    AccountHolderDep,
    AccountsDep,
    AccountServices,
    Services,
    ServicesDep,
    base_path,
    require_writable,
)
from app.resources.errors import BEARER, failure_of, problems
from app.resources.middleware.host_guard import BASE_URL_HINT, is_from_our_page
from app.resources.openapi import response_headers
from app.resources.rendering import JSON, page
from app.resources.request_body import body, body_schema, client_key, is_json, read_fields, validate
from app.resources.ui import https_notice
from app.storage.types import SHARED

router = APIRouter(default_response_class=JSON)

_SESSION = {"headers": response_headers("Set-Cookie")}


_EMAIL, _PASSWORD = "anna@example.org", "correct horse battery staple"


class Credentials(BaseModel):
    """An email address and a password."""

    email: str = Field(examples=[_EMAIL])
    password: str = Field(examples=[_PASSWORD])


class LoginForm(Credentials):
    """Credentials, and the page to show after the login."""

    next: str | None = None


class NewAccount(Credentials):
    """The credentials of a new account."""

    invite: str | None = Field(None, description="The last part of the sign-up address that you received.")


class PasswordChange(BaseModel):
    """The present password and the new one."""

    password: str = Field(examples=[_PASSWORD])
    new_password: str = Field(examples=["another horse battery staple"])


def _yes_or_no(value: object) -> bool:
    """Parse a flag strictly: a misspelt wish to keep the files must not delete them."""
    if value in (None, "", "false", "off") or value is False:
        return False
    if value in ("true", "on") or value is True:
        return True
    raise ValueError("must be true or false")


class DeletionChoices(BaseModel):
    """The members of a deletion that are checked before the password."""

    email: str | None = Field(
        None, description="The address of the account, if a person typed it.", examples=[_EMAIL]
    )
    keep_files: Annotated[bool, BeforeValidator(_yes_or_no)] = Field(
        False, description="Keep the files; GET shows whether you may."
    )


class Deletion(DeletionChoices):
    """The form that deletes an account.

    It asks for the password, so that a browser left logged in is not enough.
    """

    password: str = Field(examples=[_PASSWORD])


class DeletionPreview(BaseModel):
    """The consequences of deleting an account."""

    files: int
    size: int = Field(description="Bytes of all files together.")
    can_keep_files: bool = Field(description="Whether they can stay in the folder of the server.")


class AccountInfo(BaseModel):
    """The account of the caller."""

    id: str
    email: str
    is_admin: bool
    quota: int | None = Field(description="Bytes that all files together may have; null for no limit.")
    used: int = Field(description="Bytes that they have.")
    created_at: datetime


async def require_own_page(request: Request, services: ServicesDep) -> None:
    """Dependency: refuse requests of pages of other sites. Raises NotPermitted."""
    if not is_from_our_page(request.headers, services.base_url):
        raise NotPermitted(f"Pages of other sites cannot log in here. Use a token. {BASE_URL_HINT}")


@router.post(
    "/sign-up",
    operation_id="accounts_sign_up",
    summary="Create an account",
    dependencies=[Depends(require_own_page)],
    status_code=201,
    response_model=AccountInfo,
    openapi_extra=body_schema(NewAccount),
    responses={
        201: {"description": "Signed up and logged in.", **_SESSION},
        **problems(400, 403, 409, 413, 415, 422, 429, 503),
    },
)
async def sign_up(request: Request, services: ServicesDep, accounts: AccountsDep) -> Response:
    """Create an account and log in to it. The first account is the administrator's."""
    if _is_sent_by_http(request, services):
        return https_notice(request, 403)
    shown = {"email": "", "invite": ""}
    try:
        fields = await _read_form(request, NewAccount, shown)
        account = await accounts.service.sign_up(
            fields.email, fields.password, invite=fields.invite or None, address=client_key(request)
        )
    except (AccountError, BodyError) as error:
        if is_json(request):
            raise
        return _form_again(request, error, "sign-up.html", **shown)
    return await _logged_in(request, services, accounts, account, 201, "/")


@router.post(
    "/login",
    operation_id="accounts_log_in",
    summary="Log in",
    dependencies=[Depends(require_own_page)],
    response_model=AccountInfo,
    openapi_extra=body_schema(Credentials),
    responses={
        200: {"description": "Logged in.", **_SESSION},
        **problems(400, 401, 403, 413, 415, 422, 429, 503),
    },
)
async def login(request: Request, services: ServicesDep, accounts: AccountsDep) -> Response:
    """Log in: the response sets a cookie."""
    if _is_sent_by_http(request, services):
        return https_notice(request, 403)
    shown = {"email": "", "next": ""}
    try:
        fields = await _read_form(request, LoginForm, shown)
        principal = await accounts.service.authenticator.by_password(
            fields.email, fields.password, client_key(request)
        )
    except (AccountError, BodyError) as error:
        if is_json(request):
            raise
        return _form_again(request, error, "login.html", **shown, sign_up=accounts.service.is_open)
    return await _logged_in(request, services, accounts, principal.account, 200, fields.next or "")


F = TypeVar("F", bound=Credentials)


async def _read_form(request: Request, model: type[F], shown: dict[str, str]) -> F:
    """Return the body, and keep its fields in `shown` for the form after an error. Raises BodyError."""
    fields = await read_fields(request)
    shown.update({name: fields[name] for name in shown if isinstance(fields.get(name), str)})
    return validate(model, fields)


def _is_sent_by_http(request: Request, services: Services) -> bool:
    """Return whether the form came by http: the browser would drop an https cookie and show it again."""
    is_secure = (services.base_url or "").startswith("https://")
    return is_secure and not is_json(request) and request.headers.get("origin", "").startswith("http://")


def _form_again(request: Request, error: Exception, template: str, **context: object) -> Response:
    failure = failure_of(request, error)
    kept = {name: value for name, value in failure.headers.items() if name == "retry-after"}
    if failure.status == 401:
        # With Basic, the browser would show its own login dialog before this page.
        kept["www-authenticate"] = BEARER
    return page(request, template, failure.status, kept, message=failure.detail, **context)


async def _logged_in(
    request: Request,
    services: Services,
    accounts: AccountServices,
    account: Account,
    status: int,
    target: str,
) -> Response:
    response: Response
    if is_json(request):
        info = await _info(services, accounts, account)
        response = JSON(info, status)
    else:
        response = RedirectResponse(_local_target(request, target), 303)
    await _begin_session(request, response, services, accounts, account)
    return response


async def _begin_session(
    request: Request, response: Response, services: Services, accounts: AccountServices, account: Account
) -> None:
    """Begin a session in place of the browser's previous one, and set its cookie."""
    previous = session_cookies.read(request, services.base_url)
    secret = await accounts.service.start_session(account, previous=previous)
    session_cookies.store(response, request, secret, services.base_url, lasts_s=accounts.session_lasts_s)
    response.headers["cache-control"] = "no-store"


def _local_target(request: Request, target: str) -> str:
    """Return a path of this server: `//example.org` is another host, and for browsers `/\\` is the same."""
    root = base_path(request.scope)
    is_path = target.startswith("/") and target[1:2] not in ("/", "\\") and target.isprintable()
    return f"{root}{target}" if is_path else f"{root}/"


@router.post(
    "/logout",
    operation_id="accounts_log_out",
    summary="Log out",
    status_code=204,
    response_class=Response,
    responses={
        204: {"description": "Logged out.", **_SESSION},
        303: {
            "description": "Logged out, to a browser.",
            "headers": response_headers("Location", "Set-Cookie"),
        },
        **problems(401, 403, 503),
    },
)
async def logout(request: Request, services: ServicesDep, accounts: AccountsDep) -> Response:
    """Log out: the session of the cookie ends."""
    secret = session_cookies.read(request, services.base_url)
    if secret:
        await accounts.service.end_session(secret)
    return _logged_out(request, services)


def _logged_out(request: Request, services: Services) -> Response:
    response = Response(status_code=204)
    if asks_for_page(request.scope["headers"]) and not is_json(request):
        response = RedirectResponse(f"{base_path(request.scope)}/login", 303)
    session_cookies.delete(response, request, services.base_url)
    return response


@router.get(
    "/account",
    operation_id="accounts_get",
    summary="Get your account",
    response_model=AccountInfo,
    responses=problems(401, 403, 503),
)
async def account(services: ServicesDep, accounts: AccountsDep, principal: AccountHolderDep) -> Response:
    """The account of the caller."""
    info = await _info(services, accounts, principal.account)
    headers = {"cache-control": "private, no-cache"}
    return JSON(info, headers=headers)


@router.post(
    "/account/password",
    operation_id="accounts_change_password",
    summary="Change your password",
    status_code=204,
    response_class=Response,
    openapi_extra=body_schema(PasswordChange),
    responses=problems(400, 401, 403, 413, 415, 422, 429, 503),
)
async def change_password(
    request: Request,
    services: ServicesDep,
    accounts: AccountsDep,
    principal: AccountHolderDep,
    change: Annotated[PasswordChange, body(PasswordChange)],
) -> Response:
    """Change the password. All sessions end; the browser that sends this gets a new one."""
    account = await accounts.service.change_password(
        principal, change.password, change.new_password, address=client_key(request)
    )
    response = Response(status_code=204)
    if session_cookies.read(request, services.base_url):
        await _begin_session(request, response, services, accounts, account)
    return response


@router.get(
    "/account/delete",
    operation_id="accounts_preview_deletion",
    summary="Preview the deletion of your account",
    response_model=DeletionPreview,
    responses=problems(401, 403, 503),
)
async def preview_deletion(
    response: Response, services: ServicesDep, accounts: AccountsDep, principal: AccountHolderDep
) -> DeletionPreview:
    """The number of files that would be deleted with the account, and whether you can keep them."""
    response.headers["cache-control"] = "no-store"
    usage = await usage_before_deletion(services.storage, principal.account.library)
    can_keep = _can_keep(accounts, principal.account)
    return DeletionPreview(files=usage.files, size=usage.size, can_keep_files=can_keep)


@router.post(
    "/account/delete",
    operation_id="accounts_delete",
    summary="Delete your account",
    dependencies=[Depends(require_writable)],
    status_code=204,
    response_class=Response,
    openapi_extra=body_schema(Deletion),
    responses=problems(400, 401, 403, 409, 413, 415, 422, 429, 503),
)
async def delete_account(
    request: Request, services: ServicesDep, accounts: AccountsDep, principal: AccountHolderDep
) -> Response:
    """Delete the account and all its files, or keep the files in the folder of the server. This cannot be
    undone."""
    fields = await read_fields(request)
    choices = validate(DeletionChoices, fields)
    if choices.email is not None and choices.email.strip().lower() != principal.account.email:
        raise BadCredentials("This is not the address of your account. Type the one that you log in with.")
    # Before the password: a client that may not keep the files gets 403 whatever else its body contains.
    keep = await _destination(services, accounts, principal.account) if choices.keep_files else None
    password = validate(Deletion, fields).password
    await accounts.service.delete_account(principal, password, address=client_key(request), keep=keep)
    accounts.account_deletion.start_soon()
    return _logged_out(request, services)


def _can_keep(accounts: AccountServices, account: Account) -> bool:
    """Return whether the files may stay in the folder of the server: for the account whose folder it is, and
    for administrators. Others could fill it past every quota, one account after the other."""
    return accounts.has_folder and (account.library == SHARED or account.is_admin)


async def _destination(services: Services, accounts: AccountServices, account: Account) -> Destination:
    if not _can_keep(accounts, account):
        raise NotPermitted(
            "Only an administrator can keep the files. Ask for `seekable account remove --keep-files`."
        )
    if account.library == SHARED:
        return IN_PLACE
    return await free_destination(services.storage, SHARED, account.email)


async def _info(services: Services, accounts: AccountServices, account: Account) -> AccountInfo:
    usage = await services.storage.usage(account.library)
    return AccountInfo(
        id=account.id,
        email=account.email,
        is_admin=account.is_admin,
        quota=accounts.quotas.of(account),
        used=usage.size,
        created_at=account.created_at,
    )
