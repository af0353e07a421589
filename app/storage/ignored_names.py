"""Names that lists leave out: files that operating systems, NAS boxes and downloads leave beside films."""

from collections.abc import Sequence
from functools import lru_cache

from pathspec import GitIgnoreSpec

from app.storage.types import Key


class IgnoredNames:
    """The gitignore patterns of files that lists, playlists and scans leave out. Thread-safe."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._spec = GitIgnoreSpec.from_lines(patterns)
        self.text = "\n".join(patterns)
        """The patterns, one per line. Backends store it, to detect that the patterns changed."""
        self.matches_folder = lru_cache(4096)(self._matches_folder)
        """Return whether a pattern matches the folder or one above it: then all files in it are ignored."""
        self.matches_path = lru_cache(4096)(self._matches_path)
        """Return `matches` for a folder and filename that are known to be valid."""

    @classmethod
    def parse(cls, text: str) -> "IgnoredNames":
        return cls(text.split("\n"))

    def matches(self, key: Key) -> bool:
        """Return whether a pattern matches the file or a folder that it is in.

        As in git, no later pattern re-includes a file in an ignored folder, so that a scan need not enter it.
        """
        return self.matches_path(key.folder, key.filename)

    def _matches_path(self, folder: str, filename: str) -> bool:
        path = f"{folder}/{filename}" if folder else filename
        return self.matches_folder(folder) or self._spec.match_file(path)

    def _matches_folder(self, folder: str) -> bool:
        parent = folder.rpartition("/")[0]
        return bool(folder) and (self.matches_folder(parent) or self._spec.match_file(f"{folder}/"))


IGNORE_NOTHING = IgnoredNames(())
