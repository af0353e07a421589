"""Whether the server lives, and whether it can work."""

import asyncio
from collections.abc import Awaitable
from importlib.metadata import version

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.accounts.errors import AccountError
from app.resources.dependencies import Services, ServicesDep
from app.resources.middleware.host_guard import is_loopback
from app.resources.problems import problem, problems
from app.resources.request_body import client_of
from app.resources.schemas import Health, Readiness
from app.storage.errors import StorageError, StorageUnavailable

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
@router.get("/health/ready", response_model=Readiness, responses=problems(503))
async def ready(request: Request, response: Response, services: ServicesDep) -> Readiness:
    """All that it works with answers; else 503 names each that does not. Also 503 while it is stopped."""
    if getattr(request.state, "stopping", False):
        raise StorageUnavailable("The server is being stopped.")
    asked = _asked(services)
    answers = await asyncio.gather(*map(_answer, asked.values()))
    states = dict(zip(asked, answers, strict=True))
    silent = [f"{name}: {reason}" for name, reason in states.items() if reason]
    if silent:
        raise StorageUnavailable(" ".join(silent))
    response.headers["cache-control"] = "no-store"
    return Readiness(status="ok", version=VERSION, dependencies=dict.fromkeys(states, "ok"))


def _asked(services: Services) -> dict[str, Awaitable[None]]:
    """The question to each thing that the server cannot do without."""
    storage = services.storage
    questions: dict[str, Awaitable[None]] = {part: storage.ping(part) for part in storage.parts}
    if services.people is not None:
        questions["accounts"] = services.people.accounts.ping()
    return questions


async def _answer(question: Awaitable[None]) -> str:
    """Why there is none within the time; empty if there is one."""
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            await question
    except TimeoutError:
        return f"No answer within {READY_WITHIN_S} s."
    except (AccountError, StorageError) as error:
        return str(error)
    return ""


_FORWARDED = frozenset({"forwarded", "via", "x-forwarded-for", "x-real-ip"})
"""What proxies add."""


def metrics_router(*, everybody: bool) -> APIRouter:
    """The route, for everybody who asks without a proxy between, or for this machine alone."""
    router = APIRouter(include_in_schema=False)

    @router.head("/metrics")
    @router.get("/metrics")
    async def metrics(request: Request, services: ServicesDep) -> Response:
        if not _FORWARDED.isdisjoint(request.headers):
            # A proxy that shows this server to the world would show this too.
            return problem(403, "The metrics are for those who ask this server itself, not through a proxy.")
        if not everybody and not is_loopback(client_of(request)):
            return problem(
                403, "Only this machine may read the metrics, unless SEEKABLE_METRICS=open is set."
            )
        content, media_type = services.metrics.exposition(request.headers.get("accept", ""))
        headers = {"content-type": media_type, "cache-control": "no-store", "vary": "accept"}
        return Response(content, headers=headers)

    return router
