"""Uploads as they arrive: multipart forms and declared digests, read without I/O."""
