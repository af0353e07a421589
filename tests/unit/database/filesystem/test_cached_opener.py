"""Opening files from the kernel's cache: opened, refused, or left to a path that may block."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.database.filesystem.posix import CachedOpener
from tests.support import mounted, skip_or_fail


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
        skip_or_fail("this system cannot open files from the cache alone")
    yield opener
    os.close(descriptor)


def opens(opener: CachedOpener, path: str) -> bool:
    descriptor = opener.open(path)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None


def test_open_returns_read_only_descriptor_not_inherited(opener: CachedOpener) -> None:
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
def test_open_refuses_missing_files_and_links(opener: CachedOpener, root: Path, path: str) -> None:
    (root / "link").symlink_to("films/film.mp4")
    (root / "leads").symlink_to("films")
    assert not opens(opener, path)


def test_open_refuses_absolute_path(opener: CachedOpener, root: Path) -> None:
    assert not opens(opener, str(root / "films" / "film.mp4"))


def test_open_does_not_block_on_pipe(opener: CachedOpener, root: Path) -> None:
    os.mkfifo(root / "pipe")
    opens(opener, "pipe")


def test_open_refuses_nested_mount(opener: CachedOpener, root: Path) -> None:
    with mounted(root / "other", "-t", "tmpfs", "none") as folder:
        (folder / "film.mp4").write_bytes(b"film")
        assert not opens(opener, "other/film.mp4")


def test_open_refuses_unknown_file_system(tmp_path: Path) -> None:
    with mounted(tmp_path / "other", "-t", "ramfs", "none") as folder:
        (folder / "film.mp4").write_bytes(b"film")
        descriptor = os.open(folder, os.O_RDONLY)
        found = opens(CachedOpener(descriptor), "film.mp4")
        os.close(descriptor)
        assert not found


def test_open_refuses_when_kernel_lacks_openat2(root: Path) -> None:
    descriptor = os.open(root, os.O_RDONLY)
    found = opens(CachedOpener(descriptor, system_call=100_000), "films/film.mp4")
    os.close(descriptor)
    assert not found
