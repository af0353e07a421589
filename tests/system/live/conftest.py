"""Fixtures: one-minute films made by ffmpeg, with a key frame every second, and a browser."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.support import need, run

SECONDS = 60

WAIT_FOR_POSITION = """(video, position) => new Promise((resolve, reject) => {
    video.addEventListener("timeupdate", () => { if (video.currentTime > position) resolve(); });
    video.addEventListener("error", () => reject(video.error.message));
})"""
"""Waits until playback passes a position. (The page's Content-Security-Policy blocks wait_for_function.)"""

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
def shared_film(factory: pytest.TempPathFactory, name: str) -> Iterator[tuple[Path, Path]]:
    """Yield the path of a film that all test processes share, and a path to write it to if it is missing.

    Other processes wait. On exit the written file is renamed to the shared path.
    """
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    shared = folder / "films" / name
    shared.parent.mkdir(exist_ok=True)
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        unfinished = shared.with_name(f"unfinished-{name}")
        yield shared, unfinished
        if unfinished.exists():
            unfinished.rename(shared)


def _encode(target: Path, *options: str, noise: int = 12) -> Path:
    """Encode a test picture and a tone, with noise: without it the film is so small that no player seeks."""
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


def _remux(film: Path, target: Path, *options: str) -> Path:
    """Copy the streams of a film into another container."""
    run("ffmpeg", "-nostdin", "-loglevel", "error", "-i", film, "-c", "copy", *options, target)
    return target


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 7 MB MP4 whose index (moov) is at the end, so that players have to seek to it."""
    with shared_film(tmp_path_factory, "film.mp4") as (film, unfinished):
        if not film.exists():
            _encode(unfinished, "-b:v", "900k", "-maxrate", "900k", "-bufsize", "900k")
    assert _moov(film) > film.stat().st_size / 2
    return film


@pytest.fixture(scope="session")
def faststart_film(tmp_path_factory: pytest.TempPathFactory, film: Path) -> Path:
    """`film` with its index (moov) at the front."""
    moved = _remux(film, tmp_path_factory.mktemp("films") / "faststart.mp4", "-movflags", "+faststart")
    assert _moov(moved) < 1000
    return moved


@pytest.fixture(scope="session")
def matroska_film(tmp_path_factory: pytest.TempPathFactory, film: Path) -> Path:
    """`film` as Matroska."""
    return _remux(film, tmp_path_factory.mktemp("films") / "film.mkv")


@pytest.fixture(scope="session")
def long_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`film` at 50 MB: VLC reads 16 MiB ahead, and needs no request for a seek within them."""
    with shared_film(tmp_path_factory, "long.mp4") as (film, unfinished):
        if not film.exists():
            _encode(unfinished, "-qp", "10", noise=60)
    assert film.stat().st_size > 40 << 20
    return film


def _moov(film: Path) -> int:
    return film.read_bytes().index(b"moov")


@contextmanager
def launched_browser(command: str) -> Iterator[Browser]:
    """Launch a browser. Uses full Chromium, which is slower, if the headless shell is not installed."""
    command = command if shutil.which(command) else "chromium"
    need(command)
    expect.set_options(timeout=20_000)  # milliseconds; a busy machine needs more than the default of 5 s
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which(command), args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser per module: its event loop must not run during tests that run their own."""
    with launched_browser("chromium") as browser:
        yield browser
