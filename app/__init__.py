"""Seekable: a small, fast, self-hosted media server."""
