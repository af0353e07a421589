"""Fixtures that all tests share: settings for each backend, and one server over each."""

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


# One entry per backend. Tests that use `new_library` or `server` run on all of them, unless FOLDERS or
# `MEETS` say otherwise.
BACKENDS: dict[str, NewLibrary] = {
    "filesystem": filesystem,
    "postgresql": postgresql,
    "gridfs": gridfs,
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


FOLDERS = {
    # test_postgresql.py covers the faults of PostgreSQL; clients meet there what tests/http already covers.
    "faults": ("filesystem", "gridfs"),
    "live": ("filesystem", "gridfs"),
    "page": ("filesystem",),  # a browser sees no backend
}
"""The backends on which the tests of a folder run, unless their module defines `MEETS`."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize each test that needs a library with its backends.

    All tests share one fixture: pytest sets `server` up again only when the parameter of that fixture
    changes, so a second fixture of this name would leave tests with the server of another backend.
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
    """Return a function that returns the settings of one more empty library, without `files_dir`."""
    return BACKENDS[request.param]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, new_library: NewLibrary) -> Iterator[Server]:
    """Run one server for all tests; each test uses a `folder` of its own."""
    with running(tmp_path_factory.mktemp("server"), **new_library()) as server:
        yield server


NUMBERS = count(1)


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> str:
    """Return the name of a folder of the server that no other test uses."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    return f"test-{name}{next(NUMBERS)}"
