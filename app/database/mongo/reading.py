"""Reading files of the bucket: only the chunks that a range touches, and never fewer bytes than asked."""

from collections.abc import Iterator
from typing import Any

from app.database.mongo.connection import Database
from app.database.mongo.documents import Media, Stored, info_of
from app.storage.batches import batches
from app.storage.errors import Truncated
from app.storage.types import FileInfo

AT_ONCE = 1 << 20
"""Bytes that one question asks for, at most, unless a chunk is longer."""

CHUNKS_AT_ONCE = 1024
"""Chunks that one question asks for, at most: other programs make as short ones as they like."""


class GridReader:
    """A file of the bucket and what its document said when it was opened.

    MongoEngine's own reading turns every failure into an early end.
    """

    def __init__(self, database: Database, media: Media) -> None:
        self.info: FileInfo = info_of(media)
        self._database = database
        self._file: Any = media.file.grid_id
        self._chunk_size: int = media.chunk_size

    def fileno(self) -> None:
        """The bytes are in no file."""

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        most = max(1, min(AT_ONCE // self._chunk_size, CHUNKS_AT_ONCE))
        # A range of so many bytes begins and ends anywhere in a chunk.
        return batches(start, stop, unit=self._chunk_size, most=most, whole=most + 2)

    def read(self, start: int, size: int) -> bytes:
        """Raises Truncated where a chunk is missing, short or too long."""
        stop = min(start + size, self.info.size)
        first, last = start // self._chunk_size, (stop - 1) // self._chunk_size
        with self._database.asked():
            wanted = {"files_id": self._file, "n": {"$gte": first, "$lte": last}}
            found = self._database.chunks.find(wanted, {"_id": False, "n": True, "data": True})
            chunks = list(found.sort("n"))
        return self._joined(chunks, start, stop)

    def _joined(self, chunks: list[Stored], start: int, stop: int) -> bytes:
        position = start
        parts = []
        for number, chunk in enumerate(chunks, start // self._chunk_size):
            begin = number * self._chunk_size
            data = chunk.get("data")
            length = min(self._chunk_size, self.info.size - begin)
            if chunk["n"] != number or not isinstance(data, bytes) or len(data) != length:
                break
            parts.append(memoryview(data)[position - begin : stop - begin])
            position = begin + len(data)
        if position < stop:
            raise Truncated(f"Only {position} bytes of {self.info.size} are stored.")
        return b"".join(parts)

    def read_nowait(self, start: int, size: int) -> None:
        """The database always takes a while."""

    def close(self) -> None:
        """It holds nothing."""

    def close_nowait(self) -> bool:
        return True
