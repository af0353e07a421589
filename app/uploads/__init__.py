"""Uploads: request bodies and forms, into staging and committed."""
