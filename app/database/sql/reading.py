"""Reading files on the disk."""

import os

from app.storage import descriptors
from app.storage.types import FileInfo


class DiskReader:
    """An open file and what its row said when it was opened."""

    def __init__(self, info: FileInfo, descriptor: int, chunk_size: int) -> None:
        self.info = info
        self._descriptor = descriptor
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
