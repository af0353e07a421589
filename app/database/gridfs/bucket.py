"""Files of the GridFS bucket: a writer of new ones, and how much one query or insert transfers."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Semaphore
from typing import Any

from bson import Int64, ObjectId

from app.database.gridfs.connection import MongoDatabase
from app.database.gridfs.documents import RawDocument
from app.database.gridfs.garbage_collection import LeaseRenewer, remove_file
from app.storage.types import Key

CHUNK_SIZE = 128 << 10
"""Bytes per chunk of new files. Drivers use 255 KiB, but a range touches one chunk more than it needs: a
range of 1 MiB then costs 25 % extra, with 128 KiB 12.5 %."""

CHUNKS_PER_BATCH = 6
"""Chunks per insert: less than 1 MiB, because the driver doubles the size of its buffer until they fit."""

MAX_BATCHES_PER_FILE = 2
"""Batches of one file that are being inserted at the same time."""

MIN_QUERY_SIZE = 128 << 10
"""Minimum bytes per query, unless the file ends or its chunks are very short."""

MAX_QUERY_SIZE = 8 * MIN_QUERY_SIZE
"""Maximum bytes per query, unless one chunk is longer."""


@dataclass(frozen=True, slots=True)
class TransferSizes:
    """How much one query or insert transfers. Tests use small sizes."""

    chunk_size: int = CHUNK_SIZE
    chunks_per_batch: int = CHUNKS_PER_BATCH
    min_query_size: int = MIN_QUERY_SIZE
    max_query_size: int = MAX_QUERY_SIZE


DEFAULT_SIZES = TransferSizes()

OURS: RawDocument = {"metadata.library": {"$exists": True}}
"""Selects files of the bucket that were uploaded through this program."""

FOREIGN: RawDocument = {"metadata.library": {"$exists": False}}
"""Selects files of the bucket that other programs wrote."""


def file_document(
    file: ObjectId, key: Key, *, size: int, chunk_size: int, content_type: str, sha256: str
) -> RawDocument:
    """Return the document of `fs.files` of a new file. Key, type and hash are metadata for other programs."""
    return {
        "_id": file,
        "filename": key.path,
        "length": Int64(size),
        "chunkSize": chunk_size,
        "uploadDate": datetime.now(UTC),
        "metadata": {"library": key.library, "contentType": content_type, "sha256": sha256},
    }


class ChunkSenders(ThreadPoolExecutor):
    """Threads that insert chunks, shared by all uploads.

    `submit` blocks until a thread is free, because queued chunks would use memory for each upload.
    """

    def __init__(self, threads: int) -> None:
        super().__init__(threads, "send")
        self._free = Semaphore(threads)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._free.acquire()
        future = super().submit(function, *args, **kwargs)
        future.add_done_callback(lambda _: self._free.release())
        return future


class GridWriter:
    """A new file of the bucket, leased while it is written. See `storage.backend.Writer`.

    Its chunks are inserted first and its document of `fs.files` last, as the GridFS specification requires.
    """

    def __init__(
        self,
        database: MongoDatabase,
        leases: LeaseRenewer,
        senders: Executor,
        sizes: TransferSizes = DEFAULT_SIZES,
    ) -> None:
        self._database = database
        self._leases = leases
        self._senders = senders
        self._inserts: deque[Future[None]] = deque()  # in progress, the oldest first
        self.id = ObjectId()
        self.chunk_size = sizes.chunk_size
        self._chunks_per_batch = sizes.chunks_per_batch
        self._partial = bytearray()  # the incomplete last chunk
        self._pending: list[bytes] = []  # complete chunks of the next batch
        self._size = 0
        self._chunks = 0
        self._referenced = False
        self._failed = False
        leases.add(self.id)

    def write(self, data: bytes) -> None:
        """Write all of the data. May raise the error of an earlier batch."""
        with memoryview(data) as view:
            start = 0
            while start < len(view):
                stop = start + self.chunk_size - len(self._partial)
                self._partial += view[start:stop]
                start = stop
                if len(self._partial) == self.chunk_size:
                    self._complete_chunk()

    def seal(self, key: Key, content_type: str, sha256: str) -> int:
        """Insert the remaining chunks and the document of `fs.files`. Return the size in bytes.

        A document has to refer to the file within the lease.
        """
        if self._partial:
            self._complete_chunk()
        if self._pending:
            self._send()
        with self._recording_failure():
            while self._inserts:
                self._inserts.popleft().result()
        self._leases.remove(self.id)  # before the lease ends, or a renewal would create it again
        document = file_document(
            self.id,
            key,
            size=self._size,
            chunk_size=self.chunk_size,
            content_type=content_type,
            sha256=sha256,
        )
        with self._recording_failure(), self._database.operation():
            self._database.files.insert_one(document)
        return self._size

    def keep(self) -> None:
        """Make `discard` do nothing: a document refers to the bytes, or may if its write turns out to have
        succeeded."""
        self._referenced = True

    def discard(self) -> None:
        """Remove the bytes unless they are kept. If that fails, a sweep removes them later."""
        self._partial.clear()
        self._pending.clear()
        done, _ = wait(self._inserts)  # a later insert would outlive the removal
        self._leases.remove(self.id)
        if self._referenced or self._failed or any(insert.exception() for insert in done):
            return
        remove_file(self._database, self.id)

    def _complete_chunk(self) -> None:
        self._pending.append(bytes(self._partial))
        self._partial.clear()
        if len(self._pending) == self._chunks_per_batch:
            self._send()

    def _send(self) -> None:
        chunks, self._pending = self._pending, []
        documents = [
            {"_id": ObjectId(), "files_id": self.id, "n": n, "data": data}
            for n, data in enumerate(chunks, self._chunks)
        ]
        with self._recording_failure():
            if len(self._inserts) == MAX_BATCHES_PER_FILE:
                self._inserts.popleft().result()
            self._inserts.append(self._senders.submit(self._insert_chunks, documents))
        self._chunks += len(chunks)
        self._size += sum(map(len, chunks))

    def _insert_chunks(self, documents: list[RawDocument]) -> None:
        with self._database.operation():
            self._database.chunks.insert_many(documents)

    @contextmanager
    def _recording_failure(self) -> Iterator[None]:
        # After a failure it is unknown which chunks are stored, and more queries would only take time: the
        # lease expires, and a sweep removes them.
        try:
            yield
        except BaseException:
            self._failed = True
            raise
