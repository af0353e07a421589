"""Servers with accounts, and users: created in the database, except by tests of signing up."""

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

from app.accounts.models import Account, Invite, Scope, Session, Token, hash_secret, now
from app.accounts.passwords import Passwords
from app.accounts.principals import TOKEN_PREFIX
from app.accounts.store import AccountStore
from app.database import open_accounts
from app.settings import Settings
from tests.support import NewLibrary, Server, running
from tests.support.beneath import Beneath, beneath
from tests.support.mongo import free_port

PASSWORD = "korrekt Pferd: Batterie"
BOTH = frozenset(Scope)
NUMBERS = count(1)


@cache
def password_hash() -> str:
    """Return the hash of PASSWORD, computed once: hashing is by far the slowest step of a new account."""
    return Passwords().hash(PASSWORD)


def basic(email: str, password: str = PASSWORD) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{email}:{password}".encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def cookie(secret: str, port: int | None) -> dict[str, str]:
    """Return the Cookie header that a browser sends to this port of localhost."""
    return {"Cookie": f"seekable-{port}={secret}"}


@dataclass(frozen=True)
class User:
    """An account, and a browser that is logged in to it."""

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
        """The Cookie header as one line."""
        return f"Cookie: {self.headers['Cookie']}"

    def request(self, method: str, target: str, **options: Any) -> httpx.Response:
        """Send a request with the session cookie of this user."""
        headers = {**self.headers, **options.pop("headers", {})}
        return request_once(self.http, method, target, headers=headers, **options)

    def put(self, path: str, content: bytes = b"a film") -> dict[str, Any]:
        """Create a file and return its JSON."""
        response = self.request("PUT", f"/files/{quote(path)}", content=content)
        assert response.status_code == 201, response.text
        file: dict[str, Any] = response.json()
        return file

    def content(self, path: str) -> bytes | None:
        response = self.request("GET", f"/files/{quote(path)}")
        return response.content if response.status_code == 200 else None

    def paths(self) -> list[str]:
        """Return the paths of all files, in the order of the list."""
        items = self.request("GET", "/files", params={"recursive": "true", "limit": 1000}).json()["items"]
        return [item["path"] for item in items]

    def new_token(self, *scopes: Scope) -> str:
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        granted = frozenset(scopes) or BOTH
        self.store.tokens.add(Token(uuid4().hex, self.account.id, "VLC", hash_secret(secret), granted, now()))
        return secret

    def new_link(self, path: str, **more: Any) -> dict[str, Any]:
        """Create a link to a file and return its JSON."""
        response = self.request("POST", "/account/links", json={"path": path, **more})
        assert response.status_code == 201, response.text
        link: dict[str, Any] = response.json()
        return link

    def new_playlist_link(self, folder: str, kind: str = "m3u", **more: Any) -> dict[str, Any]:
        """Create a link to a playlist and return its JSON."""
        response = self.request("POST", "/account/links", json={"folder": folder, "playlist": kind, **more})
        assert response.status_code == 201, response.text
        link: dict[str, Any] = response.json()
        return link


def request_once(http: httpx.Client, method: str, target: str, **options: Any) -> httpx.Response:
    """Send a request, then clear the cookies of the client, which all tests share."""
    response = http.request(method, target, **options)
    http.cookies.clear()
    return response


class AccountServer:
    """A server with accounts, and ways to create them in its database."""

    def __init__(self, server: Server, store: AccountStore, http: httpx.Client) -> None:
        self.server, self.store, self.http = server, store, http

    def for_thread(self, stack: ExitStack) -> "AccountServer":
        """Return the same server with another client, for a thread: `request_once` clears cookies."""
        return AccountServer(self.server, self.store, stack.enter_context(self.server.client()))

    def new_account(self, email: str = "", **fields: Any) -> Account:
        number = next(NUMBERS)
        account_id = uuid4().hex
        defaults: dict[str, Any] = {
            "id": account_id,
            "email": email or f"user-{number}@example.org",
            "password": password_hash(),
            "version": 1,
            "library": account_id,
            "is_admin": False,
            "disabled": False,
            "leaving": False,
            "quota": None,
            "created_at": now(),
        }
        return self.store.add(Account(**{**defaults, **fields}))

    def new_user(self, email: str = "", **fields: Any) -> User:
        account = self.new_account(email, **fields)
        return User(account, self.new_session(account), self.store, self.http)

    def new_session(self, account: Account, age: timedelta = timedelta()) -> str:
        """Create a session that was made and last used `age` ago, and return its secret."""
        secret = secrets.token_urlsafe(32)
        at = now() - age
        assert self.store.sessions.add(
            Session(hash_secret(secret), account.id, at, at), version=account.version
        )
        return secret

    def cookie(self, secret: str) -> dict[str, str]:
        return cookie(secret, self.http.base_url.port)

    def new_invite(self, lasts: timedelta = timedelta(days=1)) -> str:
        secret = secrets.token_urlsafe(32)
        self.store.invites.add(Invite(hash_secret(secret), now(), now() + lasts))
        return secret

    def request(self, method: str, target: str, **options: Any) -> httpx.Response:
        """Send a request without credentials, unless `headers` holds some."""
        return request_once(self.http, method, target, **options)

    def open_link(self, url: str, method: str = "GET", **options: Any) -> httpx.Response:
        return self.request(method, url, **options)


@contextmanager
def run_account_server(folder: Path, library: dict[str, Any], **settings: object) -> Iterator[AccountServer]:
    """Run a server that has no account yet."""
    if "mongodb_url" in library:  # the databases of all test libraries share one MongoDB server
        library = {**library, "users_url": library["mongodb_url"].replace("library", "users")}
    with ExitStack() as stack:
        options = {"access": "accounts", "sign_up": "open", **library, **settings}
        port = free_port()
        server = stack.enter_context(running(folder, "--port", str(port), **options))
        server.url = f"http://127.0.0.1:{port}"  # not its base URL
        store = stack.enter_context(open_account_store(server))
        yield AccountServer(server, store, stack.enter_context(server.client()))


@contextmanager
def open_account_store(server: Server) -> Iterator[AccountStore]:
    """Open the account store of a server, as another process would."""
    with open_accounts(Settings(_env_file=None, **server.settings), create=False) as store:
        yield store


@pytest.fixture(scope="session")
def account_server(
    tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary
) -> Iterator[AccountServer]:
    """A server of the session where anyone may sign up; `admin` is its administrator."""
    with run_account_server(tmp_path_factory.mktemp("private"), new_library()) as account_server:
        account_server.new_user("admin@example.org")
        yield account_server


@pytest.fixture(scope="session")
def https_server(
    tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary
) -> Iterator[AccountServer]:
    """A server behind HTTPS that requires an invite to sign up and lets one other site use it (CORS)."""
    settings = {
        "sign_up": "invite",
        "base_url": "https://media.example.org",
        "cors_origins": "https://app.example.org",
    }
    with run_account_server(tmp_path_factory.mktemp("guarded"), new_library(), **settings) as https_server:
        https_server.new_user("admin@example.org")
        yield https_server


@pytest.fixture(scope="session")
def admin(account_server: AccountServer) -> User:
    account = account_server.store.by_email("admin@example.org")
    assert account is not None
    assert account.is_admin
    return User(account, account_server.new_session(account), account_server.store, account_server.http)


@pytest.fixture
def user(account_server: AccountServer) -> User:
    return account_server.new_user()


@pytest.fixture
def other_user(account_server: AccountServer) -> User:
    return account_server.new_user()


# These override the fixtures of tests/http with `account_server`. Session fixtures that need `server` are
# overridden too: pytest would cache the one of whichever folder requested it first.


@pytest.fixture(scope="session")
def server(account_server: AccountServer) -> Server:
    return account_server.server


@pytest.fixture(scope="session")
def http(account_server: AccountServer) -> httpx.Client:
    return account_server.http


@pytest.fixture(scope="session")
def raw_storage(server: Server) -> Iterator[Beneath]:
    with closing(beneath(server, connected=True)) as raw_storage:
        yield raw_storage


@pytest.fixture
def new_browser(account_server: AccountServer) -> Iterator[Callable[[], httpx.Client]]:
    """Return a function that opens a browser at an unused address: the server limits logins by address."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(browser(account_server.server))


def browser(server: Server) -> httpx.Client:
    """Return a client with cookies at an unused loopback address."""
    number = next(NUMBERS)
    address = f"127.1.{number // 250}.{number % 250 + 1}"
    return server.client(transport=httpx.HTTPTransport(local_address=address, verify=False))


@pytest.fixture
def send_raw(send_request: Callable[..., httpx.Response]) -> Callable[..., httpx.Response]:
    """Return a function that sends one request on a new connection, its headers byte for byte."""

    def send_raw(
        method: str, target: str, headers: dict[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        return send_request(
            method, target, *(f"{name}: {value}" for name, value in (headers or {}).items()), **options
        )

    return send_raw
