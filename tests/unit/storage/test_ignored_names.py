"""File names that lists leave out."""

import pytest

from app.settings import IGNORE, ConfigurationError, read
from app.storage.ignored_names import IGNORE_NOTHING, IgnoredNames
from app.storage.types import SHARED, Key

LEFT_OUT = [
    "._film.mp4",
    "films/._film.mp4",
    ".DS_Store",
    "films/deep/er/.DS_Store",
    "Thumbs.db",
    "films/thumbs.db",
    "desktop.ini",
    "@eaDir/film.mp4/SYNOVIDEO_VIDEO_SCREENSHOT.jpg",
    "films/@eaDir/x",
    "@eaDir",
    "#recycle/film.mp4",
    "#snapshot/2026/film.mp4",
    "@Recycle/film.mp4",
    "$RECYCLE.BIN/S-1-5-21/$R1.mp4",
    "System Volume Information/IndexerVolumeGuid",
    ".Trash-1000/files/film.mp4",
    ".Trashes/501/film.mp4",
    ".Trash/film.mp4",
    "lost+found/#12",
    "film.mp4.part",
    "films/ä film.mkv.part",
    "folder.part/film.mp4",
    "film.mp4.1a2b3c.partial",
    "film.mp4.crdownload",
    "film.mp4.aria2",
    "film.mkv.!qB",
    ".nfs000000000000000100000001",
    ".fuse_hidden0000000100000001",
    ".syncthing.film.mp4.tmp",
]
SHOWN = [
    "film.mp4",
    ".hidden film.mp4",
    "_film.mp4",
    ".film._mp4",
    "part",
    "film.part.mp4",
    "party/film.mp4",
    "eaDir/film.mp4",
    "recycle/film.mp4",
    "#1 film.mp4",
    "Thumbs.db.mp4",
    "Trash/film.mp4",
    "$film.mp4",
    "lost and found.mp4",
    "-.part-.mp4",
]


def key(path: str) -> Key:
    return Key.at(SHARED, path)


@pytest.mark.parametrize("path", LEFT_OUT)
def test_default_patterns_match_rubbish(path: str) -> None:
    assert IgnoredNames(IGNORE).matches(key(path))


@pytest.mark.parametrize("path", SHOWN)
def test_default_patterns_match_no_film(path: str) -> None:
    assert not IgnoredNames(IGNORE).matches(key(path))


def test_folder_is_ignored_when_pattern_covers_its_contents() -> None:
    ignored = IgnoredNames(IGNORE)
    assert all(map(ignored.matches_folder, ("@eaDir", "films/@eaDir", "@eaDir/film.mp4", "#recycle")))
    assert not any(map(ignored.matches_folder, ("", "films", "films/eaDir")))


@pytest.mark.parametrize(
    ("value", "ignored", "shown"),
    [
        ("*.tmp,/only here", ["a.tmp", "x/a.tmp", "only here", "only here/x"], ["x/only here", ".DS_Store"]),
        ("*.tmp\n!keep.tmp", ["a.tmp"], ["keep.tmp"]),
        (" a , b ,", ["a", "x/b"], ["c"]),
        ("dir/", ["dir/a", "x/dir/a"], ["dir"]),
        ("dir,!*.mp4", ["dir/a.mp4"], ["a.mp4"]),
        ("a/**/z", ["a/z", "a/b/c/z"], ["z", "b/a/z"]),
        ("", [], [".DS_Store", "a.part"]),
    ],
)
def test_patterns_follow_gitignore_rules(
    monkeypatch: pytest.MonkeyPatch, value: str, ignored: list[str], shown: list[str]
) -> None:
    monkeypatch.setenv("SEEKABLE_IGNORE", value)
    found = IgnoredNames(read().ignore)
    assert [path for path in (*ignored, *shown) if found.matches(key(path))] == ignored


def test_invalid_pattern_is_refused_with_setting_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEKABLE_IGNORE", "*.tmp,!")
    with pytest.raises(ConfigurationError, match="SEEKABLE_IGNORE"):
        read()


def test_nothing_is_ignored_without_patterns() -> None:
    assert not IGNORE_NOTHING.matches(key(".DS_Store"))
    assert not IGNORE_NOTHING.matches_folder("@eaDir")
