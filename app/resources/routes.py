"""The routers."""

from app.resources import docs, files, health, sockets

ROUTERS = (files.router, health.router, docs.router, sockets.router)
