"""The routers."""

from app.resources import docs, files, health, indexes

# Before the files: a path that ends in a slash is a folder.
ROUTERS = (indexes.router, files.router, health.router, docs.router)
