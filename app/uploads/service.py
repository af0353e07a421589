"""Takes uploads: bytes go straight from the request into staging, and are stored when all have come."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from app.http import digest_fields
from app.http.digest_fields import Digests
from app.http.errors import BadForm, IncompleteBody, TooLarge
from app.http.multipart import Field, FileData, FileStarted, FormReader
from app.library.quotas import Room
from app.library.service import Library
from app.storage.contract import Staged, Storage
from app.storage.types import Committed, Expect, Expectation, FileInfo, Key, normalize_folder
from app.uploads.progress import Progress, Send

FORM_OVERHEAD = 1 << 20
"""Bytes that a form may be longer than the file in it."""


class Uploads:
    """Both ways to send a file. Neither holds more of it in memory than the storage's stage does.

    `max_size` is the largest size of one file in bytes. `send` delivers messages of progress.
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
        room: Room | None = None,
        early: bool = True,
    ) -> FileInfo:
        """Store the file of a form as a new one. `folder` is where, unless a field of the form says it, and
        so is `sid` for who is told of its progress; `length` is that of the whole body, if known. `room` is
        what a quota leaves, if there is one. Refuse a name that is taken `early`, or else only when the whole
        form has arrived."""
        self._check_length(length, self._max_size + FORM_OVERHEAD)
        if room is not None and length is not None:
            room.take(max(0, length - FORM_OVERHEAD))
        target = _Target(library, folder)
        progress = Progress(self._send, library=library, sid=sid, filename=None, total=length)

        async def read(data: bytes) -> bytes:
            part = b""
            for event in form.feed(data):
                if isinstance(event, FileData):
                    part = event.data  # there is one at most
                elif isinstance(event, Field) and event.name == "sid":
                    progress.follow(event.value)
                elif (key := target.learn(event)) is not None and early:
                    await self._storage.check(key, Expect.ABSENT)
            progress.filename = target.filename
            return part

        async with self._received(body, read, length=length, progress=progress, room=room) as staged:
            form.finish()
            key = target.key()
            async with _turn(room, key, staged):
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
        room: Room | None = None,
        early: bool = True,
    ) -> Committed:
        """Store the body at the key, and tell the sid of it. `length` and `declared` are what the client
        announced, if it did; `room` is what a quota leaves, if there is one. Hold `expect` against what is
        stored `early` too, or only when the whole body has arrived."""
        self._check_length(length, self._max_size)
        if room is not None and length is not None:
            room.take(length)
        if early:
            await self._storage.check(key, expect)
        progress = Progress(self._send, library=key.library, sid=sid, filename=key.filename, total=length)

        async def read(data: bytes) -> bytes:
            return data

        async with self._received(
            body, read, length=length, progress=progress, room=room, algorithms=declared
        ) as staged:
            digest_fields.verify(declared, staged.digest)
            async with _turn(room, key, staged):
                return await self._library.replace(key, staged, content_type=content_type, expect=expect)

    @asynccontextmanager
    async def _received(
        self,
        body: AsyncIterator[bytes],
        read: Callable[[bytes], Awaitable[bytes]],
        *,
        length: int | None,
        progress: Progress,
        room: Room | None,
        algorithms: Collection[str] = (),
    ) -> AsyncIterator[Staged]:
        """The whole file of a body, counted and hashed, to be stored inside. `read` gives the bytes of the
        file that a piece of the body holds."""
        async with self._storage.stage(size=length, algorithms=algorithms) as staged:
            size = 0
            async for data in body:
                part = await read(data)
                size += len(part)
                self._check_length(size, self._max_size)
                if room is not None and (length is None or size > length):
                    room.take(size)
                await staged.write(part)
                progress.advance(len(data))
            if length is not None and progress.received != length:
                raise IncompleteBody(f"{length} bytes were announced, and {progress.received} came.")
            await staged.flush()
            yield staged
        progress.finish()

    def _check_length(self, length: int | None, most: int) -> None:
        if length is not None and length > most:
            raise TooLarge(f"A file may have at most {self._max_size} bytes here.")


def _turn(room: Room | None, key: Key, staged: Staged) -> AbstractAsyncContextManager[None]:
    """Inside, the upload may be stored. QuotaExceeded."""
    return nullcontext() if room is None else room.stored(key, staged.size)


class _Target:
    """Where the file of a form goes, as far as its parts, which come in any order, have said so."""

    def __init__(self, library: str, folder: str | None) -> None:
        self._library = library
        self._folder = normalize_folder(folder) if folder else None
        self.filename: str | None = None
        self.content_type: str | None = None

    def learn(self, event: Field | FileStarted) -> Key | None:
        """Take note. The key as soon as it is certain; a bad name is refused at once."""
        if isinstance(event, FileStarted):
            self.filename, self.content_type = event.filename, event.content_type
            self._key_of(event.filename)
        elif event.name == "folder":
            folder = normalize_folder(event.value)
            if self._folder and folder and self._folder != folder:
                raise BadForm("The form and the URL name different folders.")
            self._folder = folder or self._folder or ""
        else:
            return None
        return self.key() if self._folder is not None and self.filename is not None else None

    def key(self) -> Key:
        """Where it goes when nothing more is said: at the top, unless a folder was named."""
        if self.filename is None:
            raise BadForm("The form has no file.")
        return self._key_of(self.filename)

    def _key_of(self, filename: str) -> Key:
        return Key.of(self._library, self._folder or "", filename)
