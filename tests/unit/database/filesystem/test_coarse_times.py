"""A library on a file system that stores whole seconds, where two changes can have the same time."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from app.storage.types import SHARED, Key
from tests.support import mounted, need, need_root, run
from tests.unit.database.foreign_changes import stat
from tests.unit.database.library import Library

LIVE = Key(SHARED, "", "live.m3u8")
TWO = hashlib.sha256(b"two").hexdigest()


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    need_root()
    need("mkfs.ext4")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    run("mkfs.ext4", "-q", "-I", "128", image)  # inodes without space for nanoseconds
    with mounted(tmp_path / "disk", "-o", "loop", image) as disk:
        library = Library(disk / "files")
        yield library
        library.close()


def begin_second() -> None:
    time.sleep(1.05 - time.time() % 1)


def test_second_version_within_a_second_is_not_confirmed_as_first(library: Library) -> None:
    path = library.path(LIVE)
    begin_second()
    path.write_bytes(b"one")
    data, first = library.get(LIVE)
    assert (data, first.sha256, first.doubtful) == (b"one", None, True), "a doubtful file is served at once"
    hashing = library.backend.maintenance.hash_unverified()
    path.write_bytes(b"two")
    assert library.get(LIVE)[0] == b"two"
    sum(hashing)
    assert stat(library, LIVE).etag != first.etag
    assert stat(library, LIVE).sha256 == TWO
    assert not stat(library, LIVE).doubtful


def test_file_is_hashed_again_when_changed_within_a_second_of_hash(library: Library) -> None:
    path = library.path(LIVE)
    begin_second()
    path.write_bytes(b"one")
    stat(library, LIVE)
    hashing = Thread(target=lambda: sum(library.backend.maintenance.hash_unverified()))
    hashing.start()
    time.sleep(0.2)
    path.write_bytes(b"two")
    hashing.join()
    assert stat(library, LIVE).sha256 in (TWO, None), "the hash may be None on a slow machine"
