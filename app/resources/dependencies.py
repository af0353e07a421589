"""Dependencies of the routes: the services that main opens, the caller, its library, and addresses."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Annotated, TypeVar
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from fastapi import Depends, Path, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ValidationError
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import HTTPConnection
from starlette.types import Scope

from app.accounts.errors import NotPermitted, NotSignedIn
from app.accounts.principals import Principal
from app.accounts.revocation import RevocationMonitor
from app.accounts.service import AccountService
from app.events.connections import ConnectionManager
from app.library.account_deletion import AccountDeletion
from app.library.quotas import Quotas
from app.library.service import Library
from app.metrics.registry import Metrics
from app.storage.contract import Storage
from app.storage.errors import InvalidName
from app.storage.file_text import quote_path
from app.storage.types import SHARED, Key, quoted
from app.uploads.service import Uploads

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class AccountServices:
    """The services that exist only with accounts."""

    service: AccountService
    revocation: RevocationMonitor
    quotas: Quotas
    account_deletion: AccountDeletion
    session_lasts_s: int
    has_folder: bool
    """Whether stored files are ordinary files in a folder."""


@dataclass(frozen=True)
class Services:
    """The services and values that routes use; main puts them into the state of every request."""

    storage: Storage
    library: Library
    uploads: Uploads
    connections: ConnectionManager
    base_url: str | None
    cache_control: str
    """The Cache-Control of stored files."""
    accounts: AccountServices | None
    """None without accounts."""
    metrics: Metrics
    close_sockets_within_s: float = 5
    """Seconds to wait for a WebSocket peer that does not read; the server itself has no deadline."""
    max_index_folders: int = 100_000
    """The page of links of a folder with so many folders inside is refused."""


def _flag(value: object) -> object:
    return True if value == "" else value


Flag = Annotated[bool, BeforeValidator(_flag)]
"""A boolean query parameter; without a value (`?download`, `?download=`) it is true."""


async def get_services(request: HTTPConnection) -> Services:
    services = request.state.services
    assert isinstance(services, Services)
    return services


async def get_accounts(services: "ServicesDep") -> AccountServices:
    """Dependency: the services of accounts, for routes that exist only with accounts."""
    assert services.accounts is not None
    return services.accounts


async def get_principal(request: HTTPConnection) -> Principal | None:
    """Dependency: the authenticated caller; None without accounts."""
    return getattr(request.state, "principal", None)


async def get_account_holder(principal: "PrincipalDep") -> Principal:
    """Dependency: a caller with full rights (session or password), not a token or a link."""
    if principal is None:
        raise NotSignedIn("This needs an account. Log in, or send a password or a token.")
    if not principal.may_manage:
        raise NotPermitted("A token or a link cannot do this. Log in, or use the password.")
    return principal


async def get_library(request: HTTPConnection) -> str:
    return library_of(request.scope)


FilePath = Annotated[str, Path(description="The folder and the filename.", examples=["films/film.mp4"])]


async def get_key(library: "LibraryDep", path: FilePath) -> Key:
    return Key.at(library, path)


ServicesDep = Annotated[Services, Depends(get_services)]
AccountsDep = Annotated[AccountServices, Depends(get_accounts)]
PrincipalDep = Annotated[Principal | None, Depends(get_principal)]
AccountHolderDep = Annotated[Principal, Depends(get_account_holder)]
LibraryDep = Annotated[str, Depends(get_library)]
KeyDep = Annotated[Key, Depends(get_key)]


async def require_writable(services: ServicesDep) -> None:
    """Dependency: reject changes of a read-only library before anything else is checked."""
    services.storage.check_changeable()


async def no_store(response: Response) -> None:
    """Dependency: keep the response out of caches."""
    response.headers["cache-control"] = "no-store"


def is_write_only(principal: Principal | None) -> bool:
    """Return whether a token may only write (see docs/accounts.md): responses reveal nothing stored."""
    return principal is not None and not principal.may_read


def owner_of(principal: Principal | None) -> str | None:
    """Return the owner in the JSON of files."""
    return principal.account.id if principal is not None else None


def library_of(scope: Scope, parameters: Collection[str] | None = None) -> str:
    """Return the library of a request. `parameters` defaults to the query parameters of its route.

    Raises NotSignedIn, and InvalidName if the path or one of these parameters is not valid UTF-8: the server
    and the framework replace invalid bytes, which would turn two names into one.
    """
    path, query = scope["raw_path"], scope["query_string"]
    if not _is_utf8(path):
        raise _not_utf8(path.split(b"/"))
    if query and not _is_utf8(query):
        used = _parameters(scope["route"].dependant) if parameters is None else parameters
        bad = [pair for pair in query.split(b"&") if _name_of(pair) in used and not _is_utf8(pair)]
        if bad:
            raise _not_utf8(bad)
    if scope["state"]["services"].accounts is None:
        return SHARED
    principal = scope["state"].get("principal")
    if not isinstance(principal, Principal):
        raise NotSignedIn("This needs an account. Log in, or send a password or a token.")
    return principal.account.library


def parse_query(model: type[M], query: bytes) -> M:
    """Return the parameters of a query; of a repeated one, the last. Raises RequestValidationError."""
    try:
        return model.model_validate(dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)))
    except ValidationError as error:
        faults = [{**fault, "loc": ("query", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults) from None


def _is_utf8(raw: bytes) -> bool:
    try:
        (unquote_to_bytes(raw) if b"%" in raw else raw).decode()
    except UnicodeDecodeError:
        return False
    return True


def _not_utf8(parts: Iterable[bytes]) -> InvalidName:
    part = next(part for part in parts if not _is_utf8(part)).decode("latin-1")
    return InvalidName(f"{quoted(part)} in the URL is not valid UTF-8 when its escapes are decoded.")


def _name_of(pair: bytes) -> str:
    return unquote_to_bytes(pair.partition(b"=")[0].replace(b"+", b" ")).decode(errors="replace")


def _parameters(dependant: Dependant) -> frozenset[str]:
    """Return the names of the query parameters of a route and its dependencies."""
    inner = (_parameters(one) for one in dependant.dependencies)
    return frozenset(field.alias for field in dependant.query_params).union(*inner)


class _Rest(Convertor[str]):
    """The rest of a path, `{path:rest}`; Starlette's `path` stops at a line break, and a name that contains
    one would get 404 instead of 400."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class _File(_Rest):
    """The path of a file. Paths that end in a slash are folders, except a lone slash."""

    regex = r"[\s\S]*[^/]|/"


class _Folder(_Rest):
    """A folder that is not empty: `//` is not another path of the top folder."""

    regex = r"[\s\S]+"


register_url_convertor("rest", _Rest())
register_url_convertor("file", _File())
register_url_convertor("folder", _Folder())


def route_path(scope: Scope) -> str:
    """Return the path that routes match: without the path that a proxy puts this server below."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(f"{root}/")):
        return path.removeprefix(root)
    return path


def base_path(scope: Scope) -> str:
    """Return the path that a proxy puts this server below, percent-encoded; "" without a proxy path."""
    return quote(scope.get("root_path", ""))


def base_url(request: HTTPConnection, configured: str | None) -> str:
    """Return the beginning of absolute links. The host guard has checked the Host."""
    return configured or str(request.base_url).rstrip("/")


def file_url(base: str, key: Key) -> str:
    return f"{base}/files/{quote_path(key.path)}"
