"""What is said of a MongoDB that cannot be opened."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from app.database.mongo.opening import open_gridfs
from app.settings import ConfigurationError, Settings
from app.storage.errors import StorageUnavailable
from tests import mongo


def refusal(url: str) -> str:
    settings = Settings(_env_file=None, storage="gridfs", mongodb_url=url)
    began = time.monotonic()
    with ExitStack() as stack, pytest.raises((ConfigurationError, StorageUnavailable)) as refused:
        open_gridfs(settings, str, stack)
    assert time.monotonic() - began < 5
    said = str(refused.value)
    assert "\n" not in said
    assert "secret" not in said
    return said


REASONS = {
    "mongodb://me:secret@127.0.0.1:{closed}/films": "Connection refused",
    "mongodb://127.0.0.1:{open}/films?replicaSet=another": '"another"',
    "mongodb://127.0.0.1:{open}/films?tls=true": "SSL",
    "mongodb://127.0.0.1:{open}/films?tls=true&tlsCAFile=/no/file": "No such file",
    "mongodb://me:secret@127.0.0.1:{open}/films": "Authentication failed",
}


def test_the_reason_is_named() -> None:
    """All of them at once: some are tried for seconds."""
    there, closed = mongo.shared().port, mongo.free_port()
    urls = [url.format(open=there, closed=closed) for url in REASONS]
    with ThreadPoolExecutor(len(urls)) as pool:
        for said, reason in zip(pool.map(refusal, urls), REASONS.values(), strict=True):
            assert reason in said
            assert ".." not in said
