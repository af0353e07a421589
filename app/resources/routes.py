"""The routers."""

from app.resources import docs, files, health, lists, moves, pages, playlists

ROUTERS = (
    files.router,
    moves.router,
    lists.router,
    playlists.router,
    health.router,
    docs.router,
    pages.router,
    pages.ASSETS.router,
)
