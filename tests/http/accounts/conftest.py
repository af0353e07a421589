"""Servers with accounts, and people who have one: made beneath the program, unless that is what is tested."""

import base64
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from app.accounts.callers import TOKEN_PREFIX, hashed, now
from app.accounts.models import Account, Invite, Scope, Session, Token
from app.accounts.passwords import Passwords
from app.accounts.store import AccountStore
from app.database import open_accounts
from app.settings import Settings
from tests.beneath import Beneath, beneath
from tests.mongo import free_port
from tests.support import NewLibrary, Server, running

PASSWORD = "korrekt Pferd: Batterie"
BOTH = frozenset(Scope)
NUMBERS = count(1)


@cache
def password_hash() -> str:
    """Of PASSWORD. To hash one for each account would take longer than all else."""
    return Passwords().hash(PASSWORD)


def basic(email: str, password: str = PASSWORD) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{email}:{password}".encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def cookie(secret: str, port: int | None) -> dict[str, str]:
    """As a browser sends it to the port of a server on this machine."""
    return {"Cookie": f"seekable-{port}={secret}"}


@dataclass(frozen=True)
class Person:
    """Somebody who has an account, and a browser that is logged in to it."""

    account: Account
    session: str
    store: AccountStore
    http: httpx.Client

    @property
    def email(self) -> str:
        return self.account.email

    @property
    def headers(self) -> dict[str, str]:
        return cookie(self.session, self.http.base_url.port)

    @property
    def cookie(self) -> str:
        """The whole header."""
        return f"Cookie: {self.headers['Cookie']}"

    def ask(self, method: str, target: str, **options: Any) -> httpx.Response:
        """A request of this browser."""
        headers = {**self.headers, **options.pop("headers", {})}
        return asked(self.http, method, target, headers=headers, **options)

    def put(self, path: str, content: bytes = b"a film") -> dict[str, Any]:
        """The JSON of a new file."""
        answer = self.ask("PUT", f"/files/{quote(path)}", content=content)
        assert answer.status_code == 201, answer.text
        file: dict[str, Any] = answer.json()
        return file

    def content(self, path: str) -> bytes | None:
        answer = self.ask("GET", f"/files/{quote(path)}")
        return answer.content if answer.status_code == 200 else None

    def paths(self) -> list[str]:
        """All files, as the list has them."""
        items = self.ask("GET", "/files", params={"recursive": "true", "limit": 1000}).json()["items"]
        return [item["path"] for item in items]

    def token(self, *scopes: Scope) -> str:
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        given = frozenset(scopes) or BOTH
        self.store.add_token(Token(uuid4().hex, self.account.id, "VLC", hashed(secret), given, now()))
        return secret

    def link(self, path: str, **more: Any) -> dict[str, Any]:
        """The JSON of a new link to a file."""
        answer = self.ask("POST", "/account/links", json={"path": path, **more})
        assert answer.status_code == 201, answer.text
        link: dict[str, Any] = answer.json()
        return link

    def playlist(self, folder: str, kind: str = "m3u", **more: Any) -> dict[str, Any]:
        """The JSON of a new link to a playlist."""
        answer = self.ask("POST", "/account/links", json={"folder": folder, "playlist": kind, **more})
        assert answer.status_code == 201, answer.text
        link: dict[str, Any] = answer.json()
        return link


def asked(http: httpx.Client, method: str, target: str, **options: Any) -> httpx.Response:
    """A request with the cookies that it has, and no others: the client is one for all."""
    answer = http.request(method, target, **options)
    http.cookies.clear()
    return answer


class Private:
    """A server with accounts, and a way to make them."""

    def __init__(self, server: Server, store: AccountStore, http: httpx.Client) -> None:
        self.server, self.store, self.http = server, store, http

    def beside(self, stack: ExitStack) -> "Private":
        """The same for another thread, with a client of its own: `asked` clears the cookies of one."""
        return Private(self.server, self.store, stack.enter_context(self.server.client()))

    def account(self, email: str = "", **fields: Any) -> Account:
        number = next(NUMBERS)
        account_id = uuid4().hex
        given: dict[str, Any] = {
            "id": account_id,
            "email": email or f"person-{number}@example.org",
            "password": password_hash(),
            "version": 1,
            "library": account_id,
            "is_admin": False,
            "disabled": False,
            "leaving": False,
            "quota": None,
            "created_at": now(),
        }
        return self.store.add(Account(**{**given, **fields}))

    def person(self, email: str = "", **fields: Any) -> Person:
        account = self.account(email, **fields)
        return Person(account, self.session(account), self.store, self.http)

    def session(self, account: Account, age: timedelta = timedelta()) -> str:
        """The secret of a login, made and last used so long ago."""
        secret = secrets.token_urlsafe(32)
        at = now() - age
        assert self.store.add_session(Session(hashed(secret), account.id, at, at), version=account.version)
        return secret

    def cookie(self, secret: str) -> dict[str, str]:
        return cookie(secret, self.http.base_url.port)

    def invite(self, lasts: timedelta = timedelta(days=1)) -> str:
        secret = secrets.token_urlsafe(32)
        self.store.add_invite(Invite(hashed(secret), now(), now() + lasts))
        return secret

    def ask(self, method: str, target: str, **options: Any) -> httpx.Response:
        """A request of nobody, unless its headers say more."""
        return asked(self.http, method, target, **options)

    def open_link(self, url: str, method: str = "GET", **options: Any) -> httpx.Response:
        return self.ask(method, url, **options)


@contextmanager
def private_server(folder: Path, library: dict[str, Any], **settings: object) -> Iterator[Private]:
    """One that is up, without accounts."""
    if "mongodb_url" in library:  # one server has the databases of all libraries, and `users` but once
        library = {**library, "users_url": library["mongodb_url"].replace("library", "users")}
    with ExitStack() as stack:
        options = {"access": "accounts", "sign_up": "open", **library, **settings}
        port = free_port()
        server = stack.enter_context(running(folder, "--port", str(port), **options))
        server.url = f"http://127.0.0.1:{port}"  # whatever its base URL is
        store = stack.enter_context(opened(server))
        yield Private(server, store, stack.enter_context(server.client()))


@contextmanager
def opened(server: Server) -> Iterator[AccountStore]:
    """The accounts of a server, as another process sees them."""
    with open_accounts(Settings(_env_file=None, **server.settings), create=False) as store:
        yield store


@pytest.fixture(scope="session")
def private(tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary) -> Iterator[Private]:
    """One server for all tests, where everybody may sign up; `admin` is its administrator."""
    with private_server(tmp_path_factory.mktemp("private"), new_library()) as private:
        private.person("admin@example.org")
        yield private


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary) -> Iterator[Private]:
    """One behind https, where only who was invited may sign up, and which pages of another site may use."""
    settings = {
        "sign_up": "invite",
        "base_url": "https://media.example.org",
        "cors_origins": "https://app.example.org",
    }
    with private_server(tmp_path_factory.mktemp("guarded"), new_library(), **settings) as guarded:
        guarded.person("admin@example.org")
        yield guarded


@pytest.fixture(scope="session")
def admin(private: Private) -> Person:
    account = private.store.account_of("admin@example.org")
    assert account is not None
    assert account.is_admin
    return Person(account, private.session(account), private.store, private.http)


@pytest.fixture
def person(private: Private) -> Person:
    return private.person()


@pytest.fixture
def other(private: Private) -> Person:
    return private.person()


# For what the fixtures of all tests over HTTP do with one. What is made of a server and kept for the session,
# has to be here too: pytest would keep that of whoever asks first, for all.


@pytest.fixture(scope="session")
def server(private: Private) -> Server:
    return private.server


@pytest.fixture(scope="session")
def http(private: Private) -> httpx.Client:
    return private.http


@pytest.fixture(scope="session")
def below(server: Server) -> Iterator[Beneath]:
    with closing(beneath(server, connected=True)) as below:
        yield below


@pytest.fixture
def elsewhere(private: Private) -> Iterator[Callable[[], httpx.Client]]:
    """Browsers, each at an address where nobody was before: what was tried there is counted by address."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(browser(private.server))


def browser(server: Server) -> httpx.Client:
    """With cookies, at an address of its own."""
    number = next(NUMBERS)
    address = f"127.1.{number // 250}.{number % 250 + 1}"
    return server.client(transport=httpx.HTTPTransport(local_address=address, verify=False))


@pytest.fixture
def raw(ask: Callable[..., httpx.Response]) -> Callable[..., httpx.Response]:
    """One request on a connection of its own, its headers exactly as in the mapping."""

    def raw(
        method: str, target: str, headers: dict[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        return ask(
            method, target, *(f"{name}: {value}" for name, value in (headers or {}).items()), **options
        )

    return raw
