"""Reading files on the disk."""

import os

from app.storage import descriptors
from app.storage.types import FileInfo


class DiskReader:
    """An open file and what its row said when it was opened. `is_near`: nobody else has to be asked when it
    is closed."""

    def __init__(self, info: FileInfo, descriptor: int, chunk_size: int, *, is_near: bool = False) -> None:
        self.info = info
        self._descriptor = descriptor
        self._is_near = is_near
        self.unit = chunk_size
        self.most = 1

    def fileno(self) -> int:
        return self._descriptor

    def read(self, start: int, size: int) -> list[bytes]:
        return [descriptors.read(self._descriptor, start, size)]

    def read_nowait(self, start: int, size: int) -> bytes | None:
        return descriptors.read_nowait(self._descriptor, start, size)

    def close(self) -> None:
        os.close(self._descriptor)

    def _has_name(self) -> bool:
        try:
            return os.fstat(self._descriptor).st_nlink > 0
        except OSError:
            return False

    def close_nowait(self) -> bool:
        # The last to close a big file that was deleted waits until its blocks are freed. (If it is deleted
        # between these two calls, this one waits, for once.)
        if not self._is_near or not self._has_name():
            return False
        os.close(self._descriptor)
        return True
