"""Fixtures that all tests share: settings for each backend, and one server over each."""

import gc
import re
from collections.abc import Iterator
from itertools import count

import pytest

from tests.support import NewLibrary, Server, postgres, running
from tests.support.mongo import gridfs


def filesystem() -> dict[str, object]:
    return {"storage": "filesystem"}


def postgresql() -> dict[str, object]:
    return {"storage": "filesystem", "database_url": postgres.shared().new_library()}


BACKENDS: dict[str, NewLibrary] = {
    "filesystem": filesystem,
    "postgresql": postgresql,
    "gridfs": gridfs,
}


_ON_OTHERS = re.compile("gridfs|mongo|postgresql|tmpfs", re.IGNORECASE)
"""Matches the ids of tests of another database, and of those that repeat tests of the disk on tmpfs."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--on-sqlite", action="store_true", help="leave out the tests of other databases")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--on-sqlite"):
        others = [item for item in items if _ON_OTHERS.search(item.nodeid)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if not _ON_OTHERS.search(item.nodeid)]


def pytest_collection_finish() -> None:
    """Collect less often: a full collection would pass over half a million objects of pytest each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that needs a library on SQLite, or on the backends that its `backends` mark names.

    Most rules are decided above the backends, which have contract tests of their own. All tests share one
    fixture: pytest sets `server` up again only when the parameter of that fixture changes, so a second
    fixture of this name would leave tests with the server of another backend.
    """
    if "new_library" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("backends")
        names = ("filesystem",) if mark is None else mark.args
        metafunc.parametrize("new_library", names, indirect=True, scope="session")


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
