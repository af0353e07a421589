"""What routes work with, put there by the lifespan in main."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote, unquote_to_bytes

from fastapi import Depends, Request, Response
from fastapi.dependencies.models import Dependant
from pydantic import BeforeValidator
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import HTTPConnection
from starlette.types import Scope

from app.accounts.errors import NotPermitted, NotSignedIn
from app.accounts.principals import Caller
from app.accounts.revocation import Watch
from app.accounts.service import Accounts
from app.events.connections import ConnectionManager
from app.library.account_deletion import AccountDeletion
from app.library.quotas import Quotas
from app.library.service import Library
from app.metrics.registry import Metrics
from app.storage.contract import Storage
from app.storage.errors import InvalidName
from app.storage.types import MAX_SHOWN, SHARED, Key
from app.uploads.service import Uploads


@dataclass(frozen=True)
class Services:
    """All that a route may call, and the plain values that answers need."""

    storage: Storage
    library: Library
    uploads: Uploads
    connections: ConnectionManager
    base_url: str | None
    cache_control: str
    people: "People | None"
    """None where there are no accounts."""
    metrics: Metrics


@dataclass(frozen=True)
class People:
    """What there is with accounts."""

    accounts: Accounts
    watch: Watch
    quotas: Quotas
    account_deletion: AccountDeletion
    session_lasts_s: int
    has_folder: bool
    """Whether stored files are ordinary files in a folder."""


def _flag(value: object) -> object:
    """A flag that is there without a value is set: `?download`, `?download=`."""
    return True if value == "" else value


Flag = Annotated[bool, BeforeValidator(_flag)]
"""A query parameter that is true or false."""


async def services(request: HTTPConnection) -> Services:
    """The services of this program."""
    found = request.state.services
    assert isinstance(found, Services)
    return found


async def changeable(services: "ServicesDep") -> None:
    """Refuse a change of a read-only library before anything else of the request counts."""
    services.storage.check_changeable()


async def library(request: HTTPConnection) -> str:
    """The library that this request works in."""
    return library_of(request.scope)


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
    people = scope["state"]["services"].people
    if people is None:
        return SHARED
    caller = scope["state"].get("caller")
    if not isinstance(caller, Caller):
        raise NotSignedIn("This takes an account.")
    return caller.account.library


def _is_utf8(raw: bytes) -> bool:
    try:
        (unquote_to_bytes(raw) if b"%" in raw else raw).decode()
    except UnicodeDecodeError:
        return False
    return True


def _not_utf8(parts: Iterable[bytes]) -> InvalidName:
    part = next(part for part in parts if not _is_utf8(part)).decode("latin-1")
    return InvalidName(f"“{part[:MAX_SHOWN]}” in the URL is not valid UTF-8 when its escapes are decoded.")


def _name_of(pair: bytes) -> str:
    return unquote_to_bytes(pair.partition(b"=")[0].replace(b"+", b" ")).decode(errors="replace")


def _parameters(dependant: Dependant) -> frozenset[str]:
    """The names of the query parameters of a route."""
    inner = (_parameters(one) for one in dependant.dependencies)
    return frozenset(field.alias for field in dependant.query_params).union(*inner)


async def people(services: "ServicesDep") -> People:
    """For the routes that are there only with accounts."""
    assert services.people is not None
    return services.people


async def caller(request: HTTPConnection) -> Caller | None:
    """On whose behalf the request is made; None where there are no accounts."""
    return getattr(request.state, "caller", None)


async def manager(people: "PeopleDep", caller: "CallerDep") -> Caller:
    """The person whose account it is, and no program that was given less."""
    if caller is None:
        raise NotSignedIn("This takes an account.")
    if not caller.may_manage:
        raise NotPermitted("A token or a link may not do that: log in, or use the password.")
    return caller


async def unstored(response: Response) -> None:
    """Let no cache keep what the route answers."""
    response.headers["cache-control"] = "no-store"


def owner_of(caller: Caller | None) -> str | None:
    """What the JSON of files names as their owner."""
    return caller.account.id if caller is not None else None


PeopleDep = Annotated[People, Depends(people)]
CallerDep = Annotated[Caller | None, Depends(caller)]
ManagerDep = Annotated[Caller, Depends(manager)]
ServicesDep = Annotated[Services, Depends(services)]
LibraryDep = Annotated[str, Depends(library)]


class _Rest(Convertor[str]):
    """All that is left of a path: `{path:rest}`. Starlette's own `path` stops at a line break, and a name
    that holds one would be 404 instead of refused."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class _File(_Rest):
    """All that is left of a path, unless it names a folder: that ends in a slash, and is more than one."""

    regex = r"[\s\S]*[^/]|/"


register_url_convertor("rest", _Rest())
register_url_convertor("file", _File())


async def key(library: LibraryDep, path: str) -> Key:
    """The key that the path of the URL names."""
    return Key.at(library, path)


KeyDep = Annotated[Key, Depends(key)]


def route_path(scope: Scope) -> str:
    """Return the path that routes match: without the path that a proxy puts this server below."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(f"{root}/")):
        return path.removeprefix(root)
    return path


def base_path(scope: Scope) -> str:
    """Return the path that a proxy puts this server below, as URLs have it; else nothing."""
    return quote(scope.get("root_path", ""))


def base_url(request: Request, configured: str | None) -> str:
    """What absolute links begin with. The Host is one of ours: admission saw to it."""
    return configured or str(request.base_url).rstrip("/")


def file_url(base: str, key: Key) -> str:
    """Where a file is, as links say it: percent-encoded, so that every name survives."""
    return f"{base}/files/{quote(key.path)}"
