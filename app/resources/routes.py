"""The routers."""

from app.resources import docs, files, health

ROUTERS = (files.router, health.router, docs.router)
