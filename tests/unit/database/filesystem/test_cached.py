"""Opening without waiting: what is opened, what is refused, and what it is left to others to open."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.database.filesystem import posix
from app.database.filesystem.posix import CachedOpener
from tests.support import lacks, mounted


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "films").mkdir(parents=True)
    (tmp_path / "root" / "films" / "film.mp4").write_bytes(b"film")
    (tmp_path / "outside").write_bytes(b"secret")
    return tmp_path / "root"


@pytest.fixture
def opener(root: Path) -> Iterator[CachedOpener]:
    descriptor = os.open(root, os.O_RDONLY)
    opener = CachedOpener(descriptor)
    if not opens(opener, "films/film.mp4"):
        lacks("this system opens nothing without waiting")
    yield opener
    os.close(descriptor)


def opens(opener: CachedOpener, path: str) -> bool:
    descriptor = opener.open(path)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None


def test_a_file_is_opened_for_reading_and_not_inherited(opener: CachedOpener) -> None:
    descriptor = opener.open("films/film.mp4")
    assert descriptor is not None
    assert os.read(descriptor, 10) == b"film"
    assert not os.get_inheritable(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(descriptor, b"x")
    os.close(descriptor)


@pytest.mark.parametrize(
    "path",
    [
        "films/none",
        "none/film.mp4",
        "films/film.mp4/x",
        "../outside",
        "films/../../outside",
        "link",
        "leads/film.mp4",
        "x" * 300,
        "/".join(["x" * 200] * 30),
    ],
)
def test_nothing_that_is_not_there_or_leads_elsewhere_is_opened(
    opener: CachedOpener, root: Path, path: str
) -> None:
    (root / "link").symlink_to("films/film.mp4")
    (root / "leads").symlink_to("films")
    assert not opens(opener, path)


def test_an_absolute_path_is_not_opened(opener: CachedOpener, root: Path) -> None:
    assert not opens(opener, str(root / "films" / "film.mp4"))


def test_a_pipe_keeps_nobody_waiting(opener: CachedOpener, root: Path) -> None:
    os.mkfifo(root / "pipe")
    opens(opener, "pipe")


def test_what_is_mounted_inside_is_left_to_others(opener: CachedOpener, root: Path) -> None:
    with mounted(root / "other", "-t", "tmpfs", "none") as folder:
        (folder / "film.mp4").write_bytes(b"film")
        assert not opens(opener, "other/film.mp4")


def test_on_a_file_system_that_nobody_knows_nothing_is_opened(tmp_path: Path) -> None:
    with mounted(tmp_path / "other", "-t", "ramfs", "none") as folder:
        (folder / "film.mp4").write_bytes(b"film")
        descriptor = os.open(folder, os.O_RDONLY)
        found = opens(CachedOpener(descriptor), "film.mp4")
        os.close(descriptor)
        assert not found


def test_a_kernel_that_cannot_say_opens_nothing(
    opener: CachedOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posix, "_OPENAT2", 100_000)
    assert not opens(opener, "films/film.mp4")
