"""The routes, in the order in which they are looked at and documented."""

from starlette.routing import BaseRoute

from app.resources import (
    account_pages,
    accounts,
    browse,
    docs,
    files,
    health,
    indexes,
    invites,
    links,
    lists,
    moves,
    pages,
    playlists,
    sockets,
    streams,
    tokens,
)
from app.resources import metrics as reading

_FILES = (
    files.forms,
    streams.router,
    files.router,
    moves.router,
    indexes.router,
    lists.router,
    playlists.router,
)
_ACCOUNTS = (
    accounts.router,
    tokens.router,
    links.router,
    invites.router,
    account_pages.router,
)
_ALL_ELSE = (
    health.router,
    docs.router,
    browse.router,
    sockets.router,
    pages.ASSETS.router,
)


def routes(*, accounts: bool, metrics: str) -> list[BaseRoute]:
    """All of them in one list: routers within the application would each be looked through twice for every
    request. `metrics` is who may read them: off, local or open."""
    measured = () if metrics == "off" else (reading.router(everybody=metrics == "open"),)
    routers = (*_FILES, *(_ACCOUNTS if accounts else ()), *measured, *_ALL_ELSE)
    return [route for router in routers for route in router.routes]
