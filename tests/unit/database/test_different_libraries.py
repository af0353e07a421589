"""Detection of settings that name the same library, before it is opened."""

from pathlib import Path

import pytest

from app.database import check_different_libraries
from app.settings import ConfigurationError, Settings


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a folder of films and a link to it; return their parent."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("films")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"")
    return tmp_path


def are_different(one: Settings, other: Settings) -> bool:
    try:
        check_different_libraries(one, other)
    except ConfigurationError:
        return False
    return True


@pytest.mark.parametrize(
    ("folder", "different"),
    [
        ("films", False),
        ("films/../films/", False),
        ("link", False),
        ("link/deep", False),
        ("films/new/folder", False),
        ("link/new", False),
        (".", False),
        ("..", False),
        ("/", False),
        ("new", True),
        ("films2", True),
        ("new/films", True),
        ("loop", True),
        ("file/films", True),
    ],
)
def test_folders_are_compared_by_their_real_paths(folder: str, different: bool, working_folder: Path) -> None:
    films = Settings(_env_file=None, files_dir=working_folder / "films")
    for path in (Path(folder), working_folder / folder):
        assert are_different(films, Settings(_env_file=None, files_dir=path)) is different
        assert are_different(Settings(_env_file=None, files_dir=path), films) is different


FILMS = "mongodb://user:secret@one:27017,two/films?replicaSet=a"


@pytest.mark.parametrize(
    ("url", "different"),
    [
        (FILMS, False),
        ("mongodb://TWO:27017/films", False),
        ("mongodb://one/films?w=1", False),
        ("mongodb://one/series", True),
        ("mongodb://three/films", True),
        ("mongodb://one:27018/films", True),
        ("mongodb+srv://one/films", True),
        ("nonsense", True),
        ("mongodb://", True),
    ],
)
def test_databases_are_compared_by_host_and_name(url: str, different: bool) -> None:
    one, other = (Settings(_env_file=None, storage="gridfs", mongodb_url=each) for each in (FILMS, url))
    assert are_different(one, other) is are_different(other, one) is different


def test_url_without_database_means_default_name() -> None:
    urls = ("mongodb://one", "mongodb://one/seekable")
    assert not are_different(*(Settings(_env_file=None, storage="gridfs", mongodb_url=url) for url in urls))


def test_equal_urls_are_the_same_database_when_unresolvable() -> None:
    one = Settings(_env_file=None, storage="gridfs", mongodb_url="mongodb+srv://films.example/films")
    assert not are_different(one, one)


def test_different_storages_are_different_libraries(tmp_path: Path) -> None:
    folder = Settings(_env_file=None, files_dir=tmp_path)
    assert are_different(
        folder, Settings(_env_file=None, storage="gridfs", mongodb_url=FILMS, files_dir=tmp_path)
    )
