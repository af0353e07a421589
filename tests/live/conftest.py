"""Small films that ffmpeg makes, each about a minute long, with a key frame every second; and a browser."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.support import need, run

SECONDS = 60

HEADLESS_SHELL = "chromium-headless-shell"

CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def made_once(factory: pytest.TempPathFactory, name: str) -> Iterator[tuple[Path, Path]]:
    """Where a film is, for all processes that test, and where one of them is to make it if it is not."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    made = folder / "films" / name
    made.parent.mkdir(exist_ok=True)
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        being_made = made.with_name(f"half-{name}")
        yield made, being_made
        if being_made.exists():
            being_made.rename(made)


def _film(target: Path, *options: str, noise: int = 12) -> Path:
    """A test picture and a tone; noise keeps it from shrinking so much that no player had to seek."""
    need("ffmpeg")
    picture = f"testsrc=size=320x180:rate=15:duration={SECONDS},noise=alls={noise}:allf=t"
    # fmt: off
    run(
        "ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error",
        "-f", "lavfi", "-i", picture,
        "-f", "lavfi", "-i", f"sine=frequency=440:duration={SECONDS}",
        "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "15",
        "-c:a", "aac", "-b:a", "64k",
        *options, target,
    )
    # fmt: on
    return target


def _copied(film: Path, target: Path, *options: str) -> Path:
    """The same pictures in another file."""
    run("ffmpeg", "-nostdin", "-loglevel", "error", "-i", film, "-c", "copy", *options, target)
    return target


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 MB of MP4 with its index (moov) at the end, where a player has to seek for it."""
    with made_once(tmp_path_factory, "film.mp4") as (film, half):
        if not film.exists():
            _film(half, "-b:v", "900k", "-maxrate", "900k", "-bufsize", "900k")
    assert _moov(film) > film.stat().st_size / 2
    return film


@pytest.fixture(scope="session")
def faststart_film(tmp_path_factory: pytest.TempPathFactory, film: Path) -> Path:
    """The same with the index at the front."""
    moved = _copied(film, tmp_path_factory.mktemp("films") / "faststart.mp4", "-movflags", "+faststart")
    assert _moov(moved) < 1000
    return moved


@pytest.fixture(scope="session")
def matroska_film(tmp_path_factory: pytest.TempPathFactory, film: Path) -> Path:
    """The same as Matroska."""
    return _copied(film, tmp_path_factory.mktemp("films") / "film.mkv")


@pytest.fixture(scope="session")
def long_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `film`, but 50 MB: VLC reads 16 MiB ahead, and answers a seek within them by itself."""
    with made_once(tmp_path_factory, "long.mp4") as (film, half):
        if not film.exists():
            _film(half, "-qp", "10", noise=60)
    assert film.stat().st_size > 40 << 20
    return film


def _moov(film: Path) -> int:
    return film.read_bytes().index(b"moov")


@contextmanager
def launched(command: str) -> Iterator[Browser]:
    """The whole of Chromium takes the place of a headless shell that this system has not: it is slower."""
    command = command if shutil.which(command) else "chromium"
    need(command)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which(command), args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests of a module. (Longer, and its event loop would be in the way of others.)"""
    with launched("chromium") as browser:
        yield browser
