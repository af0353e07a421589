"""Whether the server lives, and whether it can work."""

import asyncio
from importlib.metadata import version

from fastapi import APIRouter, Response

from app.resources.deps import ServicesDep
from app.resources.problems import problems
from app.resources.schemas import Health
from app.storage.errors import StorageUnavailable

READY_WITHIN_S = 2
VERSION = version("seekable")  # found once: to look takes longer than all the rest

router = APIRouter(tags=["health"])


@router.head("/health", include_in_schema=False)
@router.get("/health", response_model=Health)
@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", response_model=Health)
async def live(response: Response) -> Health:
    """The process answers."""
    response.headers["cache-control"] = "no-store"
    return Health(status="ok", version=VERSION)


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", response_model=Health, responses=problems(503))
async def ready(response: Response, services: ServicesDep) -> Health:
    """Database and storage answer; else 503 names the one that does not."""
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            await services.storage.ping()
    except TimeoutError:
        raise StorageUnavailable(f"storage: no answer within {READY_WITHIN_S} s.") from None
    response.headers["cache-control"] = "no-store"
    return Health(status="ok", version=VERSION)
