"""What all tests share: the backends, as settings, and a server over each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Server, running

# One entry a backend: every test that takes `backend_settings` or `server` meets them all.
BACKENDS = {"filesystem": {"storage": "filesystem"}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", params=BACKENDS)
def backend_settings(request: pytest.FixtureRequest) -> dict[str, object]:
    """The settings that choose a backend, without the folder."""
    return BACKENDS[request.param]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, backend_settings: dict[str, object]) -> Iterator[Server]:
    """One server for all tests, which use a `folder` of their own in it."""
    with running(tmp_path_factory.mktemp("server"), **backend_settings) as server:
        yield server


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder of the server that no other test uses."""
    return f"test-{tmp_path.name}"
