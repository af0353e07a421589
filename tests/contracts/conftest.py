"""A storage on each backend, opened in this process, on real engines."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from app.database import open_stores
from app.database.filesystem import Limits
from app.database.filesystem.file_identity import TICK_S
from app.database.gridfs.bucket import TransferSizes
from app.settings import Settings
from app.storage.contract import Storage
from app.storage.types import SHARED, Key
from tests.conftest import BACKENDS
from tests.support.beneath import beneath
from tests.support.sqlite import begin_library
from tests.unit.database import foreign_changes

INDEPENDENT_OF_READING = {"test_ignored", "test_lists", "test_maintenance"}
"""Modules whose tests do not depend on how open files are read."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "settings" in metafunc.fixturenames:
        places = [(name, "disk") for name in BACKENDS]
        # tmpfs does not support RWF_NOWAIT, so every read there takes the path through a thread.
        if (
            Path("/dev/shm").is_dir()
            and metafunc.module.__name__.rpartition(".")[2] not in INDEPENDENT_OF_READING
        ):
            places.insert(1, ("filesystem", "tmpfs"))
        metafunc.parametrize("settings", places, ids="-".join, indirect=True)


@cache
def shared_library_settings(backend: str) -> dict[str, object]:
    """Return the settings of one library that all tests of this process share; each test finds it empty."""
    return BACKENDS[backend]()


@pytest.fixture
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Return the settings of an empty library."""
    name, place = request.param
    with ExitStack() as stack:
        root = Path(stack.enter_context(TemporaryDirectory(dir="/dev/shm"))) if place == "tmpfs" else tmp_path
        settings = Settings(
            _env_file=None, files_dir=root / "files", read_chunk_size=4096, **shared_library_settings(name)
        )
        if name == "filesystem":
            begin_library(settings.files_dir)
            yield settings
        else:
            yield settings
            with closing(beneath(settings)) as library:
                library.clear()


@pytest.fixture
def backend_options(settings: Settings, request: pytest.FixtureRequest) -> dict[str, object]:
    """Return small sizes and times for the backend.

    GridFS uses small chunks, so that most reads in these tests need several. The filesystem backend trusts
    new files, and the times of files and folders, after one tick of the clock.
    """
    if settings.storage == "gridfs":
        chunk = 32_768 if request.module.__name__.endswith("test_maintenance") else 4096  # for its long files
        return {"sizes": TransferSizes(chunk_size=chunk, min_query_size=chunk, max_query_size=2 * chunk)}
    return {"limits": Limits(stable_after_s=0, folder_tick_s=TICK_S, cache_after_s=TICK_S)}


@pytest.fixture
async def storage(
    settings: Settings, backend_options: dict[str, object], anyio_backend: str
) -> AsyncIterator[Storage]:
    """Open the library."""
    async with open_stores(settings, backend_options=backend_options) as stores:
        yield stores.storage


@pytest.fixture
def leftovers(settings: Settings) -> Callable[[], set[str]]:
    """Return a function that returns the stored data that no file refers to, such as abandoned uploads."""
    return beneath(settings).leftovers


@pytest.fixture
def big_file(settings: Settings) -> Callable[[int, bytes], Key]:
    """Return a function that adds a sparse file of zeros with an end, where a scan finds it."""

    def big_file(size: int, end: bytes) -> Key:
        beneath(settings).add_file("big.mkv", size, end)
        foreign_changes.wait_for_tick()
        return Key(SHARED, "", "big.mkv")

    return big_file
