"""An installed wheel, with its migrations and assets, works from any folder."""

import os
import re
import shutil
import sqlite3
import sys
import sysconfig
import venv
from contextlib import suppress
from importlib import metadata
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from urllib.parse import quote
from zipfile import ZipFile

import httpx
import pytest

from tests.support import need, run
from tests.system.live.clients import program

pytestmark = pytest.mark.live

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    # fmt: off
    run(
        sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps",
        "--no-build-isolation", "--no-index", "--wheel-dir", target, CHECKOUT,
    )
    # fmt: on
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel and its default dependencies, without any extra."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment)
    python = environment / "bin" / "python"
    # fmt: off
    run(
        sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--quiet",
        "--no-deps", "--no-index", wheel,
    )
    # fmt: on
    packages = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    )
    for entry in default_packages():
        (packages / entry.name).symlink_to(entry)
    where = run(python, "-P", "-c", "import app.main, sys; print(app.main.__file__, *sys.path)").stdout
    assert where.startswith(str(packages / "app"))
    assert str(CHECKOUT) not in [os.path.realpath(path) for path in where.split()]
    return environment / "bin"


def default_packages() -> set[Path]:
    """Return the modules and packages of this environment that locks/default.lock lists."""
    entries = set()
    lock = (CHECKOUT / "locks" / "default.lock").read_text()
    for name in re.findall(r"^([\w.-]+)(?:\[.*\])?==", lock, re.MULTILINE):
        with suppress(PackageNotFoundError):  # a package for other systems
            for file in metadata.files(name) or ():
                entries.add(Path(sysconfig.get_path("purelib"), file.parts[0]))
    return {entry for entry in entries if entry.name not in ("..", "__pycache__")}


@pytest.fixture
def empty_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "empty folder"
    folder.mkdir()
    return folder


def test_wheel_contains_only_the_program(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names} == {
        "app",
        f"{wheel.name.rpartition('-py3')[0]}.dist-info",
    }
    assert {f"app/{path.relative_to(CHECKOUT)}" for path in (CHECKOUT / "alembic").rglob("*.py")} <= set(
        names
    )
    assert not [name for name in names if "__pycache__" in name]


def test_installed_server_runs_in_empty_folder(installed: Path, empty_folder: Path, film: Path) -> None:
    with program(empty_folder, installed / "seekable", "serve", "--port", "0") as serving:
        url = serving.wait_for(r"docs +(http\S+)/docs")[1]
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
            assert client.get("/health/ready").json()["status"] == "ok"
            assert (
                client.post("/file/upload", files={"file": ("film.mp4", film.read_bytes())}).status_code
                == 201
            )
            part = client.get("/files/film.mp4", headers={"range": "bytes=4-7"})
            assert (part.status_code, part.content) == (206, b"ftyp")
            page = client.get("/docs").text
            script = page.partition('<script src="')[2].partition('"')[0]
            assert "swagger" in client.get(script).raise_for_status().text.lower()
            assert "<h1" in client.get("/help/").raise_for_status().text
            page = client.get("/").raise_for_status().text
            assert "film.mp4" in page
            style = page.partition('<link rel="stylesheet" href="')[2].partition('"')[0]
            assert "body {" in client.get(style).raise_for_status().text
        assert (empty_folder / "files" / "film.mp4").read_bytes() == film.read_bytes()
        assert [path.name for path in empty_folder.iterdir()] == ["files"]
        serving.terminate()
        assert "Application shutdown complete" in serving.log()
        assert "Traceback" not in serving.log()


def test_installed_server_serves_films_that_were_there_before(
    installed: Path, empty_folder: Path, film: Path, tmp_path: Path
) -> None:
    need("ffprobe")
    name = "Grüße & Küsse #1.mp4"
    films = tmp_path / "Meine Filme"
    films.mkdir()
    shutil.copy(film, films / name)
    with program(empty_folder, installed / "seekable", "serve", films, "-p", "0") as serving:
        page = serving.wait_for(r"page +(http\S+)")[1]
        url = f"{page}files/{quote(name)}"
        assert run("curl", "-sSf", "-r", "4-7", url).stdout == "ftyp"
        probed = run("ffprobe", "-v", "error", "-show_entries", "format=size", "-of", "csv=p=0", url)
        assert int(probed.stdout) == film.stat().st_size
        assert httpx.get(f"{page}help/", trust_env=False).status_code == 200
    assert list(empty_folder.iterdir()) == []
    assert {path.name for path in films.iterdir()} == {name, ".seekable"}


def test_installed_command_migrates(installed: Path, empty_folder: Path) -> None:
    for _ in range(2):  # the second run has nothing to do
        with program(empty_folder, installed / "seekable", "migrate") as migrating:
            assert migrating.process.wait(30) == 0, migrating.log()
    database = sqlite3.connect(empty_folder / "files" / ".seekable" / "seekable.db")
    try:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        version = database.execute("SELECT version_num FROM alembic_version").fetchall()
    finally:
        database.close()
    assert "media" in tables
    assert len(version) == 1


def test_installed_command_prints_version(wheel: Path, installed: Path) -> None:
    assert (
        run(installed / "seekable", "--version").stdout == f"seekable, version {wheel.name.split('-')[1]}\n"
    )


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_missing_driver_is_one_sentence_with_remedy(
    installed: Path, empty_folder: Path, command: str
) -> None:
    database = {"SEEKABLE_DATABASE_URL": "postgresql://127.0.0.1:1/films"}
    with program(empty_folder, installed / "seekable", command, **database) as running:
        assert running.process.wait(30) == 2
        (line,) = running.log().splitlines()
    for remedy in (
        "uvx --from '.[postgresql]' seekable serve",
        "make run EXTRAS=postgresql",
        "pip install '.[postgresql]'",
        "pipx install --force '.[postgresql]'",
    ):
        assert remedy in line
