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


# One entry a backend. A test of `new_library` or `server` meets all of them, but for FOLDERS and MEETS.
BACKENDS: dict[str, NewLibrary] = {
    "filesystem": filesystem,
    "postgresql": postgresql,
    "gridfs": gridfs,
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


FOLDERS = {
    # Faults of PostgreSQL are in test_postgresql; clients meet what tests/http has shown of it.
    "faults": ("filesystem", "gridfs"),
    "live": ("filesystem", "gridfs"),
    "page": ("filesystem",),  # a browser sees no backend
}
"""The backends that the tests of a folder meet, if their module has no `MEETS`."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let each test that needs a library meet its backends.

    All do so through one fixture: a `server` is made anew only when the parameter of that one changes, so a
    second fixture of this name would leave tests with the server of another backend.
    """
    if "new_library" not in metafunc.fixturenames:
        return
    if any("new_library" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")):
        return
    meets = FOLDERS.get(metafunc.definition.path.parent.name, tuple(BACKENDS))
    meets = getattr(metafunc.module, "MEETS", meets)
    metafunc.parametrize("new_library", meets, indirect=True, scope="session")


@pytest.fixture(scope="session")
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
