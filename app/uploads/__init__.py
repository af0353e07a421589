"""Uploads: forms read as they arrive, declared digests, and the way into the storage."""
