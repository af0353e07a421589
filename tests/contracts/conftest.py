"""A storage of every backend, opened in this process, on real engines."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from app.database import open_database
from app.settings import Settings
from app.storage.contract import Storage
from app.storage.types import SHARED, Key
from tests.support import NewLibrary

# On tmpfs nobody can tell whether a read would wait, so that there every read takes a thread.
PLACES = ["disk", *(["tmpfs"] if Path("/dev/shm").is_dir() else [])]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An empty folder."""
    if request.param == "disk":
        yield tmp_path
    else:
        with TemporaryDirectory(dir="/dev/shm") as folder:
            yield Path(folder)


@pytest.fixture
def settings(new_library: NewLibrary, place: Path) -> Settings:
    # The smallest chunks: most reads in these tests need several.
    return Settings(_env_file=None, files_dir=place / "files", read_chunk_size=4096, **new_library())


@pytest.fixture
async def storage(settings: Settings, anyio_backend: str) -> AsyncIterator[Storage]:
    async with open_database(settings, media_type=lambda name: "video/mp4") as stores:
        yield stores.storage


@pytest.fixture
def leftovers(settings: Settings) -> Callable[[], set[str]]:
    """What is stored beyond the files that a caller may see: bytes on their way in that nobody removed."""

    def filesystem() -> set[str]:
        root = settings.files_dir
        mine = {root / ".seekable" / name for name in ("id", "reserve", "staging")}
        return {
            str(path.relative_to(root))
            for path in root.glob(".seekable/**/*")
            if path not in mine and not path.name.startswith("seekable.db") and "libraries" not in path.parts
        }

    return {"filesystem": filesystem}[settings.storage]


@pytest.fixture
def big_file(settings: Settings) -> Callable[[int, bytes], Key]:
    """Puts a file of many zeros and an end, which takes next to no room, where the storage finds it."""

    def filesystem(size: int, end: bytes) -> Key:
        settings.files_dir.mkdir(exist_ok=True)
        with (settings.files_dir / "big.mkv").open("wb") as file:
            file.truncate(size - len(end))
            file.seek(0, 2)
            file.write(end)
        time.sleep(2.1)  # a file that somebody put there is taken for finished when it is still for 2 s
        return Key(SHARED, "", "big.mkv")

    return {"filesystem": filesystem}[settings.storage]
