"""The routes, in the order in which they are looked at and documented."""

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
    pages,
    playlists,
    sockets,
    ui,
)

_FILES = (
    files.forms,
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
_ALL_ELSE = (
    health.router,
    docs.router,
    ui.router,
    sockets.router,
    pages.ASSETS.router,
)


def routes(*, accounts: bool, metrics: str) -> list[BaseRoute]:
    """All of them in one list: routers within the application would each be looked through twice for every
    request. `metrics` is who may read them: off, local or open."""
    measured = () if metrics == "off" else (health.metrics_router(everybody=metrics == "open"),)
    routers = (*_FILES, *(_ACCOUNTS if accounts else ()), *measured, *_ALL_ELSE)
    return [route for router in routers for route in router.routes]
