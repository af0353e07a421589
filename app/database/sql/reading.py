"""Reading files on the disk."""

import os
from collections.abc import Iterator

from app.storage import descriptors
from app.storage.batches import batches
from app.storage.types import FileInfo


class DiskReader:
    """An open file and what its row said when it was opened. `is_near`: nobody else has to be asked when it
    is closed."""

    def __init__(self, info: FileInfo, descriptor: int, chunk_size: int, *, is_near: bool = False) -> None:
        self.info = info
        self._descriptor = descriptor
        self._chunk_size = chunk_size
        self._is_near = is_near

    def fileno(self) -> int:
        return self._descriptor

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        return batches(start, stop, unit=self._chunk_size)

    def read(self, start: int, size: int) -> bytes:
        return descriptors.read(self._descriptor, start, size)

    def read_nowait(self, start: int, size: int) -> bytes | None:
        return descriptors.read_nowait(self._descriptor, start, size)

    def close(self) -> None:
        os.close(self._descriptor)

    def close_nowait(self) -> bool:
        # The last to close a big file that was deleted waits until its blocks are freed. (If it is deleted
        # between these two calls, this one waits, for once.)
        if not self._is_near or os.fstat(self._descriptor).st_nlink == 0:
            return False
        os.close(self._descriptor)
        return True
