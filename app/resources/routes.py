"""The routers."""

from app.resources import docs, files, health, indexes, lists, moves, pages, playlists, sockets

ROUTERS = (
    indexes.router,  # before files: a path that ends in a slash is a folder
    files.router,
    moves.router,
    lists.router,
    playlists.router,
    health.router,
    docs.router,
    pages.router,
    sockets.router,
    pages.ASSETS.router,
)
