"""The routes, in the order in which they are looked at and documented."""

from app.resources import (
    accounts,
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

_ROUTERS = (
    files.forms,
    streams.router,
    files.router,
    moves.router,
    indexes.router,
    lists.router,
    playlists.router,
    accounts.router,
    tokens.router,
    links.router,
    invites.router,
    health.router,
    docs.router,
    pages.router,
    sockets.router,
    pages.ASSETS.router,
)

# One list. Routers within the application would each be looked through twice for every request.
ROUTES = [route for router in _ROUTERS for route in router.routes]
