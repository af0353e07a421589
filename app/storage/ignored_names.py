"""Names that lists leave out: what operating systems, NAS boxes and downloads leave beside films."""

from collections.abc import Sequence
from functools import lru_cache

from pathspec import GitIgnoreSpec

from app.storage.types import Key


class Ignored:
    """Decides by gitignore patterns which files lists, playlists and scans leave out. Thread-safe."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._spec = GitIgnoreSpec.from_lines(patterns)
        self.text = "\n".join(patterns)
        """The patterns, to compare them with those that earlier decisions were made by."""
        self.folder = lru_cache(4096)(self._folder)
        """Return whether a pattern matches the folder, or one that it is in: all files in it are ignored."""

    @classmethod
    def of(cls, text: str) -> "Ignored":
        """Return what goes by the patterns of such a text."""
        return cls(text.split("\n"))

    def file(self, key: Key) -> bool:
        """Return whether a pattern matches the file, or a folder that it is in.

        No later pattern gets a file out of an ignored folder, as in git: a scan need not look into it.
        """
        return self.path(key.folder, key.filename)

    def path(self, folder: str, filename: str) -> bool:
        """Return the same for a path that is known to be one."""
        path = f"{folder}/{filename}" if folder else filename
        return self.folder(folder) or self._spec.match_file(path)

    def _folder(self, folder: str) -> bool:
        above = folder.rpartition("/")[0]
        return bool(folder) and (self.folder(above) or self._spec.match_file(f"{folder}/"))


NOTHING = Ignored(())
"""Ignores no file."""
