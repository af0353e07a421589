"""The routers."""

from app.resources import docs, files, health, lists, moves

ROUTERS = (files.router, moves.router, lists.router, health.router, docs.router)
