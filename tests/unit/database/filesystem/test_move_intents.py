"""The intent record of a move by link, and the atomic rename that needs none."""

import errno
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from app.database.filesystem import posix
from app.database.filesystem.writable_disk import MoveIntent, MoveIntentFile, WritableDisk
from app.storage.errors import AlreadyExists, StorageUnavailable
from tests.support import skip_or_fail

SOURCE, TARGET = ("a", "old.mp4"), ("b", "new.mp4")


@pytest.mark.parametrize(
    ("source", "target", "is_halfway"),
    [
        (7, None, False),  # killed before the link
        (7, 7, True),  # between the two steps
        (None, 7, False),  # after both
        (None, None, False),  # deleted since then
        (7, 8, False),  # another program took the name
        (8, 7, False),
        (8, 8, False),  # both are links to a later file
    ],
)
def test_intent_is_halfway_only_when_file_has_both_names(
    source: int | None, target: int | None, is_halfway: bool
) -> None:
    assert MoveIntent(SOURCE, TARGET, inode=7).is_halfway(source, target) is is_halfway


@pytest.mark.parametrize(
    ("source", "target", "is_away"),
    [
        (7, None, False),  # killed before the first rename
        (None, 7, True),  # between the two renames
        (7, 7, False),  # the other spelling is linked: a lookup of the source finds it
        (None, None, False),  # deleted since then
        (8, 7, False),  # another program took the name
        (None, 8, False),
    ],
)
def test_intent_is_away_only_when_file_has_only_detour_name(
    source: int | None, target: int | None, is_away: bool
) -> None:
    assert MoveIntent(SOURCE, TARGET, inode=7, is_detour=True).is_away(source, target) is is_away
    assert not MoveIntent(SOURCE, TARGET, inode=7).is_away(source, target)


@contextmanager
def folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_intent_is_read_as_written(tmp_path: Path) -> None:
    intent = MoveIntent(("é", "\udcff"), TARGET, inode=(1 << 64) - 1, is_detour=True)
    with folder(tmp_path) as descriptor:
        intents = MoveIntentFile(descriptor)
        assert (intents.exists(), intents.read()) == (False, None)
        intents.write(intent)
        assert (intents.exists(), intents.read()) == (True, intent)
        intents.remove()
        assert not intents.exists()


@pytest.mark.parametrize("data", [b"", b'{"source": ["a"', b"[]", b"\xff", b'{"source": 1, "target": 2}'])
def test_torn_intent_reads_as_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "moving").write_bytes(data)
    with folder(tmp_path) as descriptor:
        assert MoveIntentFile(descriptor).read() is None


@pytest.fixture(params=["rename", "link"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WritableDisk]:
    """Open a folder with one file, where a move is one rename, or a link and an unlink."""
    if request.param == "rename" and not has_renameat2(tmp_path):
        skip_or_fail("this system has no renameat2")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old.mp4").write_bytes(b"film")
    rename = posix.rename if request.param == "rename" else lambda *_: False
    with closing(WritableDisk(tmp_path, rename=rename)) as disk:
        yield disk


def has_renameat2(folder: Path) -> bool:
    (folder / "before").touch()
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return posix.rename_noreplace(descriptor, "before", descriptor, "after")
    finally:
        os.close(descriptor)
        for name in ("before", "after"):
            (folder / name).unlink(missing_ok=True)


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.glob("[!.]*/*"))


def test_move_renames_file(disk: WritableDisk, tmp_path: Path) -> None:
    with disk.moved(SOURCE, TARGET):
        assert names(tmp_path) == ["b/new.mp4"]
    assert not disk.is_moving()
    assert not (tmp_path / "a").exists()


def test_move_is_undone_when_body_fails(disk: WritableDisk, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), disk.moved(SOURCE, TARGET):
        raise ZeroDivisionError
    assert not disk.is_moving()
    assert (names(tmp_path), os.listdir(tmp_path / "a")) == (["a/old.mp4"], ["old.mp4"])


def test_move_is_undone_when_old_folder_cannot_be_synced(
    disk: WritableDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, failed = os.fsync, []

    def failing(descriptor: int) -> None:
        if not failed and os.path.samestat(os.fstat(descriptor), (tmp_path / "a").stat()):
            failed.append(names(tmp_path))
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageUnavailable), disk.moved(SOURCE, TARGET):
        pass
    assert not disk.is_moving()
    assert (failed, names(tmp_path)) == ([["b/new.mp4"]], ["a/old.mp4"])


def test_move_loses_no_bytes_when_source_is_taken_before_undo(disk: WritableDisk, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), disk.moved(SOURCE, TARGET):
        (tmp_path / "a" / "old.mp4").write_bytes(b"of another program")
        raise ZeroDivisionError
    assert (tmp_path / "b" / "new.mp4").read_bytes() == b"film"
    assert (tmp_path / "a" / "old.mp4").read_bytes() == b"of another program"


def test_move_raises_already_exists_when_target_exists(disk: WritableDisk, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "new.mp4").write_bytes(b"other")
    with pytest.raises(AlreadyExists), disk.moved(SOURCE, TARGET):
        pass
    assert not disk.is_moving()
    assert names(tmp_path) == ["a/old.mp4", "b/new.mp4"]


def test_move_replaces_empty_folder(disk: WritableDisk, tmp_path: Path) -> None:
    (tmp_path / "b" / "new.mp4").mkdir(parents=True)
    with disk.moved(SOURCE, TARGET):
        pass
    assert (tmp_path / "b" / "new.mp4").read_bytes() == b"film"
