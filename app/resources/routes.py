"""The routers."""

from app.resources import docs, files, health, pages, playlists

ROUTERS = (files.router, playlists.router, health.router, docs.router, pages.router, pages.ASSETS.router)
