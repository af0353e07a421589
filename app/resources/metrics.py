"""What the server counts, for Prometheus. No name, path or address is in it."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.resources.admission import is_loopback
from app.resources.bodies import client_of
from app.resources.deps import ServicesDep
from app.resources.problems import problem

_FORWARDED = frozenset({"forwarded", "via", "x-forwarded-for", "x-real-ip"})
"""What proxies add."""


def router(*, everybody: bool) -> APIRouter:
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
