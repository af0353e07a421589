"""The composition root: opens all parts in one lifespan, and closes them in reverse."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import cache, partial
from importlib.metadata import version
from socket import gethostname
from typing import Any
from urllib.parse import unquote, urlsplit

from fastapi import FastAPI
from starlette.types import Lifespan

from app.accounts.errors import TooManyAttempts
from app.accounts.passwords import Passwords
from app.accounts.principals import Authenticator
from app.accounts.revocation import RevocationMonitor
from app.accounts.service import AccountService, SignUp
from app.accounts.store import AccountStore
from app.database import Stores, open_stores
from app.events.connections import ConnectionManager, Sessions
from app.events.feed import ChangeFeed
from app.library.account_deletion import AccountDeletion
from app.library.maintenance_loop import MaintenanceLoop
from app.library.quotas import Quotas
from app.library.service import Library
from app.metrics.registry import Metrics
from app.metrics.request_counters import RequestCounters
from app.resources import session_cookies
from app.resources.application import Application, NoSniffMiddleware, routes
from app.resources.dependencies import AccountServices, Services
from app.resources.downloads import StreamMiddleware
from app.resources.errors import HANDLERS
from app.resources.middleware.authentication import AuthenticationMiddleware
from app.resources.middleware.host_guard import (
    CORSMiddleware,
    HostGuard,
    HostGuardMiddleware,
    names_of_machine,
)
from app.resources.upload_routes import UploadMiddleware
from app.settings import Settings, read
from app.storage.ignored_names import IgnoredNames
from app.storage.workers import BoundedPool
from app.uploads.service import Uploads

log = logging.getLogger(__name__)

HASHING = 2
"""Maximum number of passwords that are hashed at the same time; each takes 19 MiB."""

SWITCH_INTERVAL_S = 0.001
"""Seconds for which a busy thread may keep the GIL from the event loop; 0.005 in CPython. A short response
needs the GIL several times, and beside long lists it waited for most of them."""

EXPOSED_HEADERS = (
    "Accept-Ranges",
    "Content-Range",
    "Content-Length",
    "Content-Type",
    "Content-Encoding",
    "Content-Disposition",
    "ETag",
    "Last-Modified",
    "Location",
    "Link",
    "Allow",
    "Accept-Patch",
    "Retry-After",
    "Repr-Digest",
    "X-Request-ID",
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the ASGI application. Opens nothing before its lifespan begins."""
    settings = settings or read()
    has_accounts = settings.access == "accounts"
    app = Application(
        routes=routes(accounts=has_accounts, metrics=settings.metrics),
        title="Seekable",
        version=version("seekable"),
        lifespan=_lifespan(settings),
        openapi_url=None,  # openapi.router has it, and the docs
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=HANDLERS,
        # With the default, FastAPI looks for a telemetry provider on every request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    if has_accounts:
        app.session_cookie = session_cookies.name_of(settings.base_url, scheme="http", host="localhost:8000")
    app.base_path = unquote(urlsplit(settings.base_url or "").path)
    app.add_middleware(UploadMiddleware)  # the innermost: Starlette calls the last one first
    app.add_middleware(NoSniffMiddleware)
    app.add_middleware(StreamMiddleware)
    if has_accounts:
        app.add_middleware(AuthenticationMiddleware, has_open_docs=settings.api_docs == "open")
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    guard = HostGuard.of(
        any_peer=settings.access != "loopback",
        base_url=settings.base_url,
        hosts=(*settings.allowed_hosts, *names_of_machine(gethostname())),
        origins=settings.cors_origins,
    )
    app.add_middleware(HostGuardMiddleware, guard=guard)
    return app


def _lifespan(settings: Settings) -> Lifespan[FastAPI]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        feed = ChangeFeed(IgnoredNames(settings.ignore))
        connections = ConnectionManager(limit=settings.max_sockets)
        feed.subscribe(connections.deliver)
        requests = RequestCounters()  # the server reads it from the lifespan state, and counts requests in it
        metrics = Metrics(requests, connections.queues, version=version("seekable"))
        async with AsyncExitStack() as stack:
            stores = await stack.enter_async_context(open_stores(settings, feed=feed, observer=metrics))
            if stores.storage.read_only:
                log.info(
                    "%s is read-only: no file of it can be uploaded, renamed or deleted", settings.location
                )
            library = Library(stores.storage, feed)
            maintenance = MaintenanceLoop(stores.storage, settings.scan_interval)
            feed.subscribe(maintenance.receive)
            account_services = None
            chores = [maintenance.run]
            if stores.accounts is not None:
                account_services = await _open_accounts(settings, stores, stores.accounts, library, stack)
                chores.append(account_services.service.run_sweeps)
            sessions = Sessions(connections, stores.listener)
            uploads = Uploads(stores.storage, library, max_size=settings.max_upload_size, send=sessions.send)
            services = Services(
                storage=stores.storage,
                library=library,
                uploads=uploads,
                connections=connections,
                base_url=settings.base_url,
                cache_control=_cache_control(settings),
                accounts=account_services,
                metrics=metrics,
            )
            # One of the processes that serve the library runs these. Earlier releases use the same lease.
            await stack.enter_async_context(
                _running(stores.leases.run_while_held("upkeep", partial(_all_of, chores)))
            )
            yield {"services": services, "requests": requests}

    return lifespan


def _too_many_calls() -> TooManyAttempts:
    return TooManyAttempts("The server is overloaded. Try again in a second.", 1)


async def _open_accounts(
    settings: Settings, stores: Stores, store: AccountStore, library: Library, stack: AsyncExitStack
) -> AccountServices:
    """Open the services of accounts; `stack` closes them."""
    hashing = BoundedPool(HASHING, "passwords", max_waiting=100, refuse=_too_many_calls)
    stack.callback(hashing.close)
    store_calls = BoundedPool(4, "accounts", max_waiting=1000, refuse=_too_many_calls)
    stack.callback(store_calls.close)
    passwords = Passwords()
    authenticator = Authenticator(
        store,
        idle=timedelta(seconds=settings.session_idle_timeout),
        lifetime=timedelta(seconds=settings.session_lifetime),
        passwords=passwords,
        run_hash=hashing.start,
        run_call=store_calls.start,
    )
    accounts = AccountService(
        store, authenticator, sign_up=SignUp(settings.sign_up), passwords=passwords, run_hash=hashing.start
    )
    quotas = Quotas(
        stores.storage, default=settings.quota, may_store=accounts.is_active, acquire=stores.leases.acquire
    )
    deletion = AccountDeletion(
        stores.storage,
        library,
        quotas,
        leaving=accounts.leaving,
        remove=accounts.remove,
        leases=stores.leases,
        is_staying=accounts.is_staying,
    )
    revocation = RevocationMonitor(store, authenticator)
    for work in (revocation.run(), deletion.run()):
        await stack.enter_async_context(_running(work))
    return AccountServices(
        service=accounts,
        revocation=revocation,
        quotas=quotas,
        account_deletion=deletion,
        session_lasts_s=settings.session_lifetime,
        has_folder=settings.storage == "filesystem",
    )


def _cache_control(settings: Settings) -> str:
    """Return Cache-Control of stored files: private with accounts, unless the setting is set explicitly."""
    if settings.access == "accounts" and "cache_control" not in settings.model_fields_set:
        return f"private, {settings.cache_control}"
    return settings.cache_control


async def _all_of(chores: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Run all of them until one fails or this task is cancelled."""
    async with asyncio.TaskGroup() as tasks:
        for chore in chores:
            tasks.create_task(chore())


@asynccontextmanager
async def _running(coroutine: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine in a task, which is cancelled and awaited at the end of the context."""
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@cache
def _app() -> FastAPI:
    return create_app()


def __getattr__(name: str) -> FastAPI:
    """Create `app` for `uvicorn app.main:app` on first access, so that the import does no I/O."""
    if name == "app":
        return _app()
    raise AttributeError(name)
