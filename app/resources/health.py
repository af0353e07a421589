"""Probes of orchestrators (liveness, readiness), and the metrics of Prometheus."""

import asyncio
from collections.abc import Awaitable
from importlib.metadata import version

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.accounts.errors import AccountError, NotPermitted
from app.http.addresses import is_loopback
from app.resources.dependencies import Services, ServicesDep
from app.resources.errors import problems
from app.resources.middleware.host_guard import PROXY_HEADERS
from app.resources.rendering import JSON
from app.resources.request_body import client_address
from app.storage.errors import StorageError, StorageUnavailable

READY_WITHIN_S = 2
VERSION = version("seekable")  # read once: it would take longer than the rest of the probe

router = APIRouter(default_response_class=JSON)


class Health(BaseModel):
    """The state of the server."""

    status: str
    version: str


class Readiness(Health):
    """The state of the server and its dependencies."""

    dependencies: dict[str, str] = Field(description="The state of each, by its name.")


@router.head("/health", include_in_schema=False)
@router.get(
    "/health", operation_id="health_get", summary="Check that the server responds", response_model=Health
)
@router.head("/health/live", include_in_schema=False)
@router.get(
    "/health/live",
    operation_id="health_get_live",
    summary="Check that the process is alive",
    response_model=Health,
)
async def live(response: Response) -> Health:
    """The process responds."""
    response.headers["cache-control"] = "no-store"
    return Health(status="ok", version=VERSION)


@router.head("/health/ready", include_in_schema=False)
@router.get(
    "/health/ready",
    operation_id="health_get_ready",
    summary="Check that the server is ready",
    response_model=Readiness,
    responses=problems(503),
)
async def ready(request: Request, response: Response, services: ServicesDep) -> Readiness:
    """Storage and databases respond; otherwise 503 names those that do not. 503 during shutdown, too."""
    if getattr(request.state, "stopping", False):
        raise StorageUnavailable("The server is being stopped.")
    pings = _pings(services)
    failures = dict(zip(pings, await asyncio.gather(*map(_failure, pings.values())), strict=True))
    if any(failures.values()):
        raise StorageUnavailable(" ".join(f"{name}: {why}" for name, why in failures.items() if why))
    response.headers["cache-control"] = "no-store"
    return Readiness(status="ok", version=VERSION, dependencies=dict.fromkeys(failures, "ok"))


def _pings(services: Services) -> dict[str, Awaitable[None]]:
    storage = services.storage
    pings: dict[str, Awaitable[None]] = {part: storage.ping(part) for part in storage.parts}
    if services.accounts is not None:
        pings["accounts"] = services.accounts.service.ping()
    return pings


async def _failure(ping: Awaitable[None]) -> str:
    """Return the reason why a ping failed; "" if it succeeded."""
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            await ping
    except TimeoutError:
        return f"No answer within {READY_WITHIN_S} s."
    except (AccountError, StorageError) as error:
        return str(error)
    return ""


def metrics_router(*, any_peer: bool) -> APIRouter:
    """Return the route of the metrics, for every direct client or for this machine only."""
    router = APIRouter(include_in_schema=False)

    @router.head("/metrics")
    @router.get("/metrics")
    async def metrics(request: Request, services: ServicesDep) -> Response:
        if not PROXY_HEADERS.isdisjoint(request.headers):
            # A proxy that publishes this server would publish the metrics too.
            raise NotPermitted("Metrics are not available through a proxy. Connect directly.")
        if not any_peer and not is_loopback(client_address(request)):
            raise NotPermitted(
                "Only this machine may read the metrics. To admit others, set SEEKABLE_METRICS=open."
            )
        content, media_type = services.metrics.exposition(request.headers.get("accept", ""))
        headers = {"content-type": media_type, "cache-control": "no-store", "vary": "accept"}
        return Response(content, headers=headers)

    return router
