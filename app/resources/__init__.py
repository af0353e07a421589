"""Thin HTTP modules: each route parses a request, makes one call, and shapes the response."""
