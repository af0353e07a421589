"""What all tests share: the backends, as settings, and a server over each."""

import re
from collections.abc import Iterator
from itertools import count

import pytest

from tests import postgres
from tests.mongo import gridfs
from tests.support import NewLibrary, Server, running


def filesystem() -> dict[str, object]:
    return {"storage": "filesystem"}


def postgresql() -> dict[str, object]:
    return {"storage": "filesystem", "database_url": postgres.shared().new_library()}


# One entry a backend: every test that takes `new_library` or `server` meets them all.
BACKENDS: dict[str, NewLibrary] = {
    "filesystem": filesystem,
    "postgresql": postgresql,
    "gridfs": gridfs,
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", params=BACKENDS)
def new_library(request: pytest.FixtureRequest) -> NewLibrary:
    """Call it for the settings of one more empty library, without the folder."""
    return BACKENDS[request.param]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary) -> Iterator[Server]:
    """One server for all tests, which use a `folder` of their own in it."""
    with running(tmp_path_factory.mktemp("server"), **new_library()) as server:
        yield server


NUMBERS = count(1)


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> str:
    """A folder of the server that no other test uses."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    return f"test-{name}{next(NUMBERS)}"
