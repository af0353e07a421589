"""A reader of the byte ranges of a file of the GridFS bucket, from the event loop or in a thread."""

from typing import Any

from bson import ObjectId

from app.database.gridfs.bucket import DEFAULT_SIZES, TransferSizes
from app.database.gridfs.connection import MongoDatabase
from app.database.gridfs.documents import RawDocument
from app.database.gridfs.loop_client import LoopClient
from app.database.gridfs.op_msg import ChunkRange, join_chunks
from app.storage.errors import Truncated
from app.storage.types import FileInfo

MAX_QUERY_CHUNKS = 1024
"""Maximum chunks per query: other programs write chunks of any size."""

MIN_PIECE_SIZE = 512 << 10
"""Shorter chunks are joined up to this many bytes: sending each alone takes longer than copying."""

MIN_LOOP_CHUNK = 16 << 10
"""Bytes of the shortest chunks that are read from the event loop: it would take long for many short ones."""


class GridReader:
    """A file of the bucket, as its document described it when it was opened. See `storage.backend.Reader`.

    With a `client`, it reads from the event loop. (MongoEngine's own reader returns an early end of file for
    every failure.)
    """

    def __init__(
        self,
        database: MongoDatabase,
        info: FileInfo,
        file: Any,
        chunk_size: int,
        sizes: TransferSizes = DEFAULT_SIZES,
        client: LoopClient | None = None,
    ) -> None:
        self.info = info
        self._database = database
        self._file = file
        self._chunk_size = chunk_size
        self._client = client if isinstance(file, ObjectId) and chunk_size >= MIN_LOOP_CHUNK else None
        chunks = max(1, min(sizes.min_query_size // self._chunk_size, MAX_QUERY_CHUNKS))
        self.unit = chunks * self._chunk_size
        self.max_units = max(1, min(sizes.max_query_size // self.unit, MAX_QUERY_CHUNKS // chunks))

    provable_until = 0.0

    def is_ready(self, start: int, stop: int, now: float) -> bool:
        return False  # only a query could prove it

    def fileno(self) -> None:
        """Return None: there is no descriptor."""

    @property
    def reads_async(self) -> bool:
        return self._client is not None

    async def read_async(self, start: int, size: int) -> list[memoryview] | None:
        """Return the bytes of a range in the memory in which they arrived. See `storage.backend.Reader`."""
        if self._client is None:
            return None
        wanted = ChunkRange(
            self._file, self.info.size, self._chunk_size, start, min(start + size, self.info.size)
        )
        reply = await self._client.ask(self._command(wanted), wanted.max_reply_size)
        if reply is None:
            return None
        piece = join_chunks(reply.body, reply.size, wanted)
        if piece is None:
            # Not written by a driver in the usual way, or damaged: `read` decides, now and from now on.
            self._client = None
            return None
        return [piece]

    def recycle(self, piece: memoryview) -> None:
        if self._client is not None:
            self._client.buffers.give(piece)

    def _command(self, wanted: ChunkRange) -> RawDocument:
        count = wanted.last - wanted.first + 1
        return {
            "find": self._database.chunks.name,
            "filter": {"files_id": wanted.file, "n": {"$gte": wanted.first, "$lte": wanted.last}},
            "sort": {"n": 1},
            # All in one reply, so that the server keeps no cursor open.
            "limit": count,
            "batchSize": count,
            "singleBatch": True,
            "readConcern": {"level": "majority"},
            "$db": self._database.name,
        }

    def read(self, start: int, size: int) -> list[bytes]:
        """Return the bytes of a range. Raises Truncated if a chunk is missing or has a wrong length."""
        stop = min(start + size, self.info.size)
        first, last = start // self._chunk_size, (stop - 1) // self._chunk_size
        with self._database.operation():
            selected = {"files_id": self._file, "n": {"$gte": first, "$lte": last}}
            # All in one reply, so that the server keeps no cursor open.
            count = last - first + 1
            found = self._database.chunks.find(selected, sort=[("n", 1)], limit=count, batch_size=count)
            chunks = found.to_list()
        pieces = self._pieces(chunks, start, stop)
        per_piece = max(1, MIN_PIECE_SIZE // self._chunk_size)
        return [b"".join(pieces[i : i + per_piece]) for i in range(0, len(pieces), per_piece)]

    def _pieces(self, chunks: list[RawDocument], start: int, stop: int) -> list[bytes]:
        position = start
        pieces = []
        for number, chunk in enumerate(chunks, start // self._chunk_size):
            offset = number * self._chunk_size
            data = chunk.get("data")
            length = min(self._chunk_size, self.info.size - offset)
            if chunk["n"] != number or not isinstance(data, bytes) or len(data) != length:
                break
            pieces.append(data[position - offset : stop - offset])  # a slice of all bytes makes no copy
            position = offset + len(data)
        if position < stop:
            raise Truncated(f"The database holds only {position} of {self.info.size} bytes of this file.")
        return pieces

    def read_nowait(self, start: int, size: int) -> None:
        """Return None: every read queries the database."""

    def is_cached(self, start: int, stop: int) -> bool:
        return False

    def preload(self, start: int, stop: int) -> None:
        """Do nothing: there is no descriptor."""

    def close(self) -> None:
        """Do nothing: no resource is held."""

    def close_nowait(self) -> bool:
        return True
