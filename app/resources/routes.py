"""The routers."""

from app.resources import docs, files, health, indexes, lists, moves

# Indexes before files: a path that ends in a slash is a folder.
ROUTERS = (indexes.router, files.router, moves.router, lists.router, health.router, docs.router)
