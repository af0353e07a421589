"""Reading files of the bucket: only the chunks that a range touches, and never fewer bytes than asked."""

from typing import Any

from app.database.gridfs.connection import Database
from app.database.gridfs.documents import Stored
from app.storage.errors import Truncated
from app.storage.types import FileInfo

UNIT = 128 << 10
"""Bytes that one question asks for, at least, unless there are no more or the chunks are too short."""

AT_ONCE = 8 * UNIT
"""Bytes that one question asks for, at most, unless a chunk is longer."""

PIECE = 512 << 10
"""Bytes of shorter chunks that are put together: to send each by itself takes longer than to copy it."""

CHUNKS_AT_ONCE = 1024
"""Chunks that one question asks for, at most: other programs make as short ones as they like."""


class GridReader:
    """A file of the bucket and what its document said when it was opened.

    MongoEngine's own reading turns every failure into an early end.
    """

    def __init__(self, database: Database, info: FileInfo, file: Any, chunk_size: int) -> None:
        self.info = info
        self._database = database
        self._file = file
        self._chunk_size = chunk_size
        chunks = max(1, min(UNIT // self._chunk_size, CHUNKS_AT_ONCE))
        self.unit = chunks * self._chunk_size
        self.max_units = max(1, min(AT_ONCE // self.unit, CHUNKS_AT_ONCE // chunks))

    def fileno(self) -> None:
        """The bytes are in no file."""

    def read(self, start: int, size: int) -> list[bytes]:
        """Raises Truncated where a chunk is missing, short or too long."""
        stop = min(start + size, self.info.size)
        first, last = start // self._chunk_size, (stop - 1) // self._chunk_size
        with self._database.asked():
            wanted = {"files_id": self._file, "n": {"$gte": first, "$lte": last}}
            # All in one answer, after which nothing stays open at the database.
            many = last - first + 1
            found = self._database.chunks.find(wanted, sort=[("n", 1)], limit=many, batch_size=many)
            chunks = found.to_list()
        pieces = self._pieces(chunks, start, stop)
        few = max(1, PIECE // self._chunk_size)
        return [b"".join(pieces[i : i + few]) for i in range(0, len(pieces), few)]

    def _pieces(self, chunks: list[Stored], start: int, stop: int) -> list[bytes]:
        position = start
        pieces = []
        for number, chunk in enumerate(chunks, start // self._chunk_size):
            begin = number * self._chunk_size
            data = chunk.get("data")
            length = min(self._chunk_size, self.info.size - begin)
            if chunk["n"] != number or not isinstance(data, bytes) or len(data) != length:
                break
            pieces.append(data[position - begin : stop - begin])  # of all of it, no copy is made
            position = begin + len(data)
        if position < stop:
            raise Truncated(f"Only {position} bytes of {self.info.size} are stored.")
        return pieces

    def read_nowait(self, start: int, size: int) -> None:
        """The database always takes a while."""

    def is_cached(self, start: int, stop: int) -> bool:
        return False

    def preload(self, start: int, stop: int) -> None:
        """Do nothing: there is no descriptor."""

    def close(self) -> None:
        """It holds nothing."""

    def close_nowait(self) -> bool:
        return True
