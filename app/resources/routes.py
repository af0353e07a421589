"""The routes, in the order in which they are looked at and documented."""

from app.resources import (
    account_pages,
    browse,
    docs,
    files,
    health,
    indexes,
    lists,
    moves,
    pages,
    playlists,
    sockets,
    streams,
)

_ROUTERS = (
    files.forms,
    streams.router,
    files.router,
    moves.router,
    indexes.router,
    lists.router,
    playlists.router,
    health.router,
    docs.router,
    browse.router,
    account_pages.router,
    sockets.router,
    pages.ASSETS.router,
)

# One list. Routers within the application would each be looked through twice for every request.
ROUTES = [route for router in _ROUTERS for route in router.routes]
