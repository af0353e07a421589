"""Files of the bucket that are being written: chunks that nothing names yet."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from threading import Semaphore
from typing import Any

from bson import Int64, ObjectId

from app.database.gridfs import upload_leases
from app.database.gridfs.connection import Database
from app.database.gridfs.documents import Stored
from app.storage.errors import StorageError
from app.storage.types import Key

CHUNK_SIZE = 128 << 10
"""Bytes in a chunk. Drivers make 255 KiB, but a range touches one more chunk than it needs: of 1 MiB anywhere
the database then sends a quarter more than that, and of these an eighth."""

BATCH = 6
"""Chunks that are sent to the database in one go. They are less than 1 MiB, because the driver writes them
into a buffer whose length it doubles."""

IN_FLIGHT = 2
"""Batches of one file that the database is storing at the same time, at most."""

SLICE = 256
"""Chunks that are removed in one go."""

OURS: Stored = {"metadata.library": {"$exists": True}}
"""True of the files of the bucket that were uploaded here."""

NOT_OURS: Stored = {"metadata.library": {"$exists": False}}
"""True of those that other programs put there."""


class Senders(ThreadPoolExecutor):
    """Threads that bring chunks to the database. Who has something to send waits until one is free: what
    stood in line would be in memory, for each upload there is."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, "send")
        self._free = Semaphore(threads)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._free.acquire()
        future = super().submit(function, *args, **kwargs)
        future.add_done_callback(lambda _: self._free.release())
        return future


class StagedFile:
    """A new file of the bucket, which no sweep removes for as long as its writer lives.

    Its chunks come first, and the document that makes a file of them last, as the GridFS specification wants.
    """

    def __init__(self, database: Database, keeper: upload_leases.Keeper, senders: Executor) -> None:
        self._database = database
        self._keeper = keeper
        self._senders = senders
        self._in_flight: deque[Future[None]] = deque()  # the oldest first
        self.id = ObjectId()
        self.chunk_size = CHUNK_SIZE
        self._part = bytearray()  # of the chunk that is being filled
        self._whole: list[bytes] = []  # chunks that are not sent yet
        self._size = 0
        self._chunks = 0
        self._kept = False
        self._failed = False
        keeper.hold(self.id)

    def write(self, data: bytes) -> None:
        """What it raises may be of an earlier batch."""
        with memoryview(data) as view:
            start = 0
            while start < len(view):
                stop = start + self.chunk_size - len(self._part)
                self._part += view[start:stop]
                start = stop
                if len(self._part) == self.chunk_size:
                    self._end_chunk()

    def seal(self, key: Key, content_type: str, sha256: str) -> int:
        """Bring all of it to the database, and make a file of it, to be named within LEASE. Its size.

        What it says of itself is for other programs that look into the bucket.
        """
        if self._part:
            self._end_chunk()
        if self._whole:
            self._send()
        with self._failing():
            while self._in_flight:
                self._in_flight.popleft().result()
        self._keeper.drop(self.id)  # before it is handed over, or it would be entered again
        self._insert_file(key.path, {"library": key.library, "contentType": content_type, "sha256": sha256})
        return self._size

    def keep(self) -> None:
        """A document names it now, or may."""
        self._kept = True

    def discard(self) -> None:
        """Remove it, unless it is kept. What cannot be removed now is left to the sweep."""
        self._part.clear()
        self._whole.clear()
        sent, _ = wait(self._in_flight)  # or they would be stored after all that there is was removed
        self._keeper.drop(self.id)
        if self._kept or self._failed or any(batch.exception() for batch in sent):
            return
        with suppress(StorageError):
            while remove_slice(self._database, self.id):
                pass
            with self._database.asked():
                upload_leases.end(self._database, self.id)

    def _end_chunk(self) -> None:
        self._whole.append(bytes(self._part))
        self._part.clear()
        if len(self._whole) == BATCH:
            self._send()

    def _send(self) -> None:
        chunks, self._whole = self._whole, []
        documents = [
            {"_id": ObjectId(), "files_id": self.id, "n": n, "data": data}
            for n, data in enumerate(chunks, self._chunks)
        ]
        with self._failing():
            if len(self._in_flight) == IN_FLIGHT:
                self._in_flight.popleft().result()
            self._in_flight.append(self._senders.submit(self._insert, documents))
        self._chunks += len(chunks)
        self._size += sum(map(len, chunks))

    def _insert(self, documents: list[Stored]) -> None:
        with self._database.asked():
            self._database.chunks.insert_many(documents)

    def _insert_file(self, filename: str, metadata: Stored) -> None:
        document: Stored = {
            "_id": self.id,
            "filename": filename,
            "length": Int64(self._size),
            "chunkSize": self.chunk_size,
            "uploadDate": datetime.now(UTC),
            "metadata": metadata,
        }
        with self._failing(), self._database.asked():
            self._database.files.insert_one(document)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        # What a database that fails has kept is not known, and asking it for more would only take time: the
        # lease runs out.
        try:
            yield
        except BaseException:
            self._failed = True
            raise


def remove_slice(database: Database, file: Any) -> bool:
    """Remove a part of a file from the bucket. Whether there may be more of it."""
    with database.asked():
        database.files.delete_one({"_id": file})  # first: nobody may find what is no longer whole
        first = database.chunks.find_one({"files_id": file}, {"n": True}, sort=[("n", 1)])
        if first is None:
            return False
        database.chunks.delete_many({"files_id": file, "n": {"$lt": first["n"] + SLICE}})
        return True
