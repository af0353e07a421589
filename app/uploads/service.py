"""Uploads: bytes go from the request straight into staging, and are committed when the body is complete."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Protocol

from app.events.feed import Message, compact
from app.http import digest_fields
from app.http.digest_fields import Digests
from app.http.errors import BadForm, IncompleteBody, TooLarge
from app.http.multipart import Field, FileData, FileStarted, FormReader
from app.library.quotas import QuotaReservation
from app.library.service import Library
from app.storage.contract import Staged, Storage
from app.storage.types import Committed, Expect, Expectation, FileInfo, Key, normalize_folder

PROGRESS_INTERVAL_S = 0.125
"""Seconds between two messages: eight a second, and with the undelayed last one at most the promised ten."""

REMOTE_PROGRESS_INTERVAL_S = 1.0
"""Seconds between two messages, other than the last, that other processes receive as well."""

MAX_SID_LENGTH = 64
"""Characters of the sid that a client names."""


class Send(Protocol):
    """Sends a message to a WebSocket session; with `across_processes`, even if another process has it."""

    def __call__(self, message: Message, *, across_processes: bool) -> None: ...


class Progress:
    """The progress of one request, for the session `sid` that its URL or form names.

    `total` is the length of the body; None if unknown. Only the last message, sent when the file is stored,
    has `received` equal to `total`. A failed upload sends no last message: its response has the error.
    """

    def __init__(
        self,
        send: Send,
        *,
        library: str,
        sid: str | None,
        filename: str | None,
        total: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.filename = filename
        self.received = 0
        self._deliver = send
        self._library = library
        self._sid: str | None = None
        self._total = total
        self._clock = clock
        self._not_before = self._across_processes_not_before = clock()
        if sid:
            self.follow(sid)

    def follow(self, sid: str) -> None:
        """Send the messages to this session. Raises BadForm if the sid is invalid or another is set."""
        if len(sid) > MAX_SID_LENGTH:
            raise BadForm(f"A sid is at most {MAX_SID_LENGTH} characters long.")
        if self._sid and sid and self._sid != sid:
            raise BadForm("The form and the URL name different sids.")
        self._sid = sid or self._sid

    def advance(self, size: int) -> None:
        """Count bytes that arrived, and send a message if one is due."""
        self.received += size
        now = self._clock()
        if self._sid and size and now >= self._not_before and self.received != self._total:
            self._not_before = now + PROGRESS_INTERVAL_S
            across_processes = now >= self._across_processes_not_before
            if across_processes:
                self._across_processes_not_before = now + REMOTE_PROGRESS_INTERVAL_S
            self._send(self._total, across_processes=across_processes)

    def finish(self) -> None:
        """Send the last message: the file is stored."""
        if self._sid:
            self._send(self.received, across_processes=True)

    def _send(self, total: int | None, *, across_processes: bool) -> None:
        assert self._sid is not None
        progress = {"filename": self.filename, "received": self.received, "total": total}
        message = Message(self._library, self._sid, compact({"progress": progress}))
        self._deliver(message, across_processes=across_processes)


FORM_OVERHEAD = 1 << 20
"""Bytes by which a form may be longer than the file in it."""


class Uploads:
    """Receives files from forms and from raw bodies, with only a few chunks in memory.

    `max_size` is the largest size of one file in bytes. `send` delivers messages about progress to `sid`, the
    WebSocket session that a client names. With `early`, conflicts with stored files are refused before the
    body arrives; else only when it is complete, for clients that must not learn which files exist.
    Raises the errors of uploads, storage and quotas; nothing is stored then.
    """

    def __init__(self, storage: Storage, library: Library, *, max_size: int, send: Send) -> None:
        self._storage = storage
        self._library = library
        self._max_size = max_size
        self._send = send

    async def receive_form(
        self,
        library: str,
        folder: str | None,
        form: FormReader,
        body: AsyncIterator[bytes],
        *,
        length: int | None,
        sid: str | None,
        reservation: QuotaReservation | None = None,
        early: bool = True,
    ) -> FileInfo:
        """Store a form's file as new. Fields may give `folder` and `sid`; `length` is the whole body's."""
        self._check_length(length, self._max_size + FORM_OVERHEAD)
        if reservation is not None and length is not None:
            reservation.resize(max(0, length - FORM_OVERHEAD))
        target = _Target(library, folder)
        progress = Progress(self._send, library=library, sid=sid, filename=None, total=length)

        async def read(data: bytes) -> bytes:
            part = b""
            for event in form.feed(data):
                if isinstance(event, FileData):
                    part = event.data  # at most one for each piece of the body
                elif isinstance(event, Field) and event.name == "sid":
                    progress.follow(event.value)
                elif (key := target.add(event)) is not None and early:
                    await self._storage.check(key, Expect.ABSENT)
            progress.filename = target.filename
            return part

        async with self._received(
            body, read, length=length, progress=progress, reservation=reservation
        ) as staged:
            form.finish()
            key = target.key()
            async with _storing(reservation, key, staged):
                return await self._library.add(key, staged, content_type=target.content_type)

    async def receive_raw(
        self,
        key: Key,
        body: AsyncIterator[bytes],
        *,
        length: int | None,
        declared: Digests,
        content_type: str | None,
        expect: Expectation,
        sid: str | None,
        reservation: QuotaReservation | None = None,
        early: bool = True,
    ) -> Committed:
        """Store the body at the key if the stored version matches `expect`, and the body its digests."""
        self._check_length(length, self._max_size)
        if reservation is not None and length is not None:
            reservation.resize(length)
        if early:
            await self._storage.check(key, expect)
        progress = Progress(self._send, library=key.library, sid=sid, filename=key.filename, total=length)

        async def read(data: bytes) -> bytes:
            return data

        async with self._received(
            body, read, length=length, progress=progress, reservation=reservation, algorithms=declared
        ) as staged:
            digest_fields.verify(declared, staged.digest)
            async with _storing(reservation, key, staged):
                return await self._library.replace(key, staged, content_type=content_type, expect=expect)

    @asynccontextmanager
    async def _received(
        self,
        body: AsyncIterator[bytes],
        read: Callable[[bytes], Awaitable[bytes]],
        *,
        length: int | None,
        progress: Progress,
        reservation: QuotaReservation | None,
        algorithms: Collection[str] = (),
    ) -> AsyncIterator[Staged]:
        """Stage the file of a body, which `read` extracts. Raises IncompleteBody, TooLarge, QuotaExceeded."""
        async with self._storage.stage(size=length, algorithms=algorithms) as staged:
            size = 0
            async for data in body:
                part = await read(data)
                size += len(part)
                self._check_length(size, self._max_size)
                if reservation is not None and (length is None or size > length):
                    reservation.resize(size)
                await staged.write(part)
                progress.advance(len(data))
            if length is not None and progress.received != length:
                raise IncompleteBody(
                    f"Content-Length is {length} bytes, but {progress.received} arrived. Upload the "
                    "file again."
                )
            await staged.flush()
            yield staged
        progress.finish()

    def _check_length(self, length: int | None, most: int) -> None:
        if length is not None and length > most:
            raise TooLarge(f"A file may have at most {self._max_size} bytes.")


def _storing(
    reservation: QuotaReservation | None, key: Key, staged: Staged
) -> AbstractAsyncContextManager[None]:
    """Hold the quota while the upload is stored. Raises QuotaExceeded."""
    return nullcontext() if reservation is None else reservation.storing(key, staged.size)


class _Target:
    """The key of the file of a form, whose parts arrive in any order."""

    def __init__(self, library: str, folder: str | None) -> None:
        self._library = library
        self._folder = normalize_folder(folder) if folder else None
        self.filename: str | None = None
        self.content_type: str | None = None

    def add(self, event: Field | FileStarted) -> Key | None:
        """Add a part. Return the key once no later part can change it; None before. Raises InvalidName."""
        if isinstance(event, FileStarted):
            self.filename, self.content_type = event.filename, event.content_type
            self._key_of(event.filename)
        elif event.name == "folder":
            folder = normalize_folder(event.value)
            if self._folder and folder and self._folder != folder:
                raise BadForm("The form and the URL name different folders. Name one of them.")
            self._folder = folder or self._folder or ""
        else:
            return None
        return self.key() if self._folder is not None and self.filename is not None else None

    def key(self) -> Key:
        """Return the key: at the top of the library, unless a part names a folder. Raises BadForm."""
        if self.filename is None:
            raise BadForm("The form has no file.")
        return self._key_of(self.filename)

    def _key_of(self, filename: str) -> Key:
        return Key.of(self._library, self._folder or "", filename)
