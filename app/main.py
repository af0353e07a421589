"""Where everything meets: opened here, and closed in reverse."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.types import Lifespan

from app.database import open_database
from app.events.connections import ConnectionManager
from app.library.mediatypes import media_type
from app.library.service import Library
from app.library.upkeep import Upkeep
from app.resources.admission import Admission, AdmissionMiddleware
from app.resources.cors import CORSMiddleware
from app.resources.deps import Services
from app.resources.errors import HANDLERS
from app.resources.routes import ROUTES
from app.resources.streams import StreamMiddleware
from app.settings import Settings
from app.storage.types import Change
from app.uploads.service import Uploads

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
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The program as an ASGI application. Opens nothing before its lifespan begins."""
    settings = settings or Settings()
    app = FastAPI(
        routes=ROUTES,
        title="Seekable",
        version=version("seekable"),
        description="Upload a film, play it anywhere, seek to any byte.",
        lifespan=_lifespan(settings),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # The path that a proxy puts this server below, so that the console asks there.
        root_path=urlsplit(settings.base_url or "").path,
        exception_handlers=HANDLERS,
        # Or each request asks anew whether somebody wants any.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.add_middleware(StreamMiddleware)  # the innermost: what is added last comes first
    if settings.access == "accounts":
        app.add_middleware(AccessMiddleware)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    admission = Admission.of(
        everybody=settings.access != "loopback",
        base_url=settings.base_url,
        hosts=settings.allowed_hosts,
        origins=settings.cors_origins,
    )
    app.add_middleware(AdmissionMiddleware, admission=admission)
    return app


def _lifespan(settings: Settings) -> Lifespan[FastAPI]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        loop = asyncio.get_running_loop()
        connections = ConnectionManager(limit=settings.max_sockets)

        def noticed(changes: Sequence[Change]) -> None:
            library.tell(changes)
            upkeep.hash_soon()

        def notice(changes: Sequence[Change]) -> None:
            """From any thread."""
            loop.call_soon_threadsafe(noticed, changes)

        async with open_database(
            settings, media_type=lambda name: media_type(None, name), notice=notice
        ) as stores:
            library = Library(stores.storage, connections.publish)
            quotas, people = None, None
            upkeep = Upkeep(stores.storage, settings.scan_interval)
            services = Services(
                storage=stores.storage,
                library=library,
                uploads=Uploads(
                    stores.storage, library, max_size=settings.max_upload_size, tell=connections.send
                ),
                connections=connections,
                base_url=settings.base_url,
                cache_control=settings.cache_control,
            )
            async with _running(upkeep.run()):
                yield {"services": services}

    return lifespan


@asynccontextmanager
async def _running(coroutine: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
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
    """`uvicorn app.main:app` finds the program here, made when it is asked for: importing does no I/O."""
    if name == "app":
        return _app()
    raise AttributeError(name)
