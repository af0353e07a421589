"""Uploads: request bodies and forms, staged and committed."""
