"""The intent of a move that takes two steps: written down before the first, so that a crash leaves one file.

Only the one writer of a library moves files. So an intent that another process left is a dead process's.
"""

import json
import os
from dataclasses import asdict, dataclass

from app.database.filesystem.posix import DiskPath

_NAME = "moving"
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class MoveIntent:
    """A file that is to get another path by a second link and the removal of the first."""

    source: DiskPath
    target: DiskPath
    inode: int
    is_detour: bool = False
    """Whether the target is no path to stay at, but one on the way to another spelling of the source."""

    def is_away(self, source_inode: int | None, target_inode: int | None) -> bool:
        """Return whether the file is on a detour, from which it is brought back to the source."""
        return self.is_detour and source_inode is None and target_inode == self.inode

    def is_halfway(self, source_inode: int | None, target_inode: int | None) -> bool:
        """Return whether the file has both names: the move is then undone, because it was not acknowledged.

        The inodes are those of what stands at the two paths, None where nothing does.
        """
        return source_inode == target_inode == self.inode


class MoveIntentFile:
    """A file in the reserved folder, with one intent at most."""

    def __init__(self, folder: int) -> None:
        """`folder` is a descriptor, which stays the caller's."""
        self._folder = folder

    def write(self, intent: MoveIntent) -> None:
        """Bring the intent to the disk. Raises OSError."""
        descriptor = os.open(_NAME, _WRITE, 0o600, dir_fd=self._folder)
        with open(descriptor, "wb", buffering=0) as file:
            file.write(json.dumps(asdict(intent)).encode("ascii"))
            os.fsync(file.fileno())
        os.fsync(self._folder)

    def read(self) -> MoveIntent | None:
        """Return the intent; None if there is none, or its writer died while writing. Raises OSError."""
        try:
            descriptor = os.open(_NAME, _READ, dir_fd=self._folder)
        except FileNotFoundError:
            return None
        with open(descriptor, "rb", buffering=0) as file:
            return _parsed(file.read(_MAX_BYTES))

    def exists(self) -> bool:
        """Return whether there is an intent, or the beginning of one."""
        try:
            os.stat(_NAME, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def remove(self) -> None:
        """Remove the intent. Raises OSError."""
        os.unlink(_NAME, dir_fd=self._folder)


def _parsed(data: bytes) -> MoveIntent | None:
    try:
        fields = json.loads(data)
        paths = tuple(fields["source"]), tuple(fields["target"])
        return MoveIntent(*paths, int(fields["inode"]), is_detour=bool(fields.get("is_detour")))
    except (ValueError, KeyError, TypeError):
        return None
