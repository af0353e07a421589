"""All routes, in the order in which they are matched and documented."""

from starlette.routing import BaseRoute

from app.resources import (
    account_items,
    accounts,
    autoindex,
    docs,
    downloads,
    files,
    health,
    listing,
    playlists,
    sockets,
    ui,
)

_FILES = (
    files.uploads,
    downloads.router,
    files.router,
    autoindex.router,
    listing.router,
    playlists.router,
)
_ACCOUNTS = (
    accounts.router,
    account_items.router,
    ui.account_pages,
)
_OTHERS = (
    health.router,
    docs.router,
    ui.router,
    sockets.router,
    ui.ASSETS.router,
)


def routes(*, accounts: bool, metrics: str) -> list[BaseRoute]:
    """Return the routes as one flat list: nested routers would each be searched twice per request.

    `metrics` is off, local or open.
    """
    metrics_routers = () if metrics == "off" else (health.metrics_router(any_peer=metrics == "open"),)
    routers = (*_FILES, *(_ACCOUNTS if accounts else ()), *metrics_routers, *_OTHERS)
    return [route for router in routers for route in router.routes]
