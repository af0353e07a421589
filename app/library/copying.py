"""Brings the files of one library to another: verified, and over again until all are there."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import Enum, auto
from itertools import product
from typing import TypeVar

from app.storage.contract import Storage
from app.storage.copy_notes import MILLISECOND, Copy, CopyLedger
from app.storage.errors import (
    AlreadyExists,
    NotFound,
    OutOfSpace,
    PathConflict,
    StorageError,
    StorageUnavailable,
    Unfinished,
    Unreadable,
    VersionMismatch,
)
from app.storage.types import SHARED, Address, Expect, Expectation, FileId, FileInfo, Key, Listing, Page
from app.storage.workers import wait_for_result

T = TypeVar("T")

PAGE = 100
"""Files that are listed at once."""

CHAIN = 10
"""How many files may wait for one another to get out of the way."""

TRIES = 2
"""How often a file is begun that changes meanwhile, or that cannot be read or stored."""


class Action(Enum):
    """What is to be done about one file."""

    COPY = auto()
    SKIP = auto()
    REPLACE = auto()
    MOVE = auto()
    HASH = auto()
    """Only the hashes can tell, of which one is not known."""
    SUPERSEDE = auto()
    """An earlier copy of another file has the name, and goes if that file is gone."""
    CONFLICT = auto()


def decide(
    source: FileInfo, there: FileInfo | None, known: FileInfo | None, copied: Copy | None = None
) -> Action:
    """Return what brings a file to another library, which has `there` under its key and `known` under its id.

    `copied` is what that library notes of the first of the two as a copy. Only earlier copies that have not
    changed since are written over; where nothing is noted, only older versions of this very file.
    """
    other = there or known
    if other is None:
        return Action.COPY
    if other.size == source.size:
        # A copy is as old as the version that it was made of; times are kept to the millisecond.
        made_of_it = _is_copy(other, source)
        unknown = source.sha256 is None or other.sha256 is None
        if unknown and not made_of_it:
            return Action.HASH
        if unknown or source.sha256 == other.sha256:
            return Action.SKIP if there else Action.MOVE
    if other.id != source.id:
        left_over = there is not None and copied is not None and copied.is_untouched(there)
        return Action.SUPERSEDE if left_over else Action.CONFLICT
    if other.updated_at >= source.updated_at or not (copied is None or copied.is_version(other)):
        return Action.CONFLICT
    return Action.REPLACE if there else Action.MOVE


def _is_copy(other: FileInfo, source: FileInfo) -> bool:
    """Return whether a file of the same size was made of this version, as far as id and times show."""
    return other.id == source.id and abs(other.updated_at - source.updated_at) < MILLISECOND


class Outcome(Enum):
    """What became of one file."""

    COPIED = "copied"
    REPLACED = "replaced"
    MOVED = "moved"
    """An earlier copy has its new name."""
    PRESENT = "already there"
    GONE = "gone meanwhile"
    CONFLICT = "in conflict"
    DAMAGED = "damaged"
    """Its bytes are not those that were stored once."""
    FAILED = "failed"


LEFT_BEHIND = frozenset({Outcome.CONFLICT, Outcome.DAMAGED, Outcome.FAILED})


@dataclass(frozen=True, slots=True)
class Copied:
    """What became of one file."""

    key: Key
    size: int
    """Bytes that were stored."""
    outcome: Outcome
    reason: str = ""
    """Why it was left behind."""


@dataclass(frozen=True, slots=True)
class Target:
    """The library to copy to, and what it knows of the copies in it."""

    storage: Storage
    copies: CopyLedger
    source: str | None
    """The id of the library that is copied. Without one, no copy counts as one of it."""

    def is_of_source(self, copied: Copy) -> bool:
        """Return whether the copy was made of the library that is copied."""
        return self.source is not None and copied.source == self.source

    async def known(self, infos: Sequence[FileInfo]) -> dict[str, Copy]:
        """Return what is known of these files as copies, by their ids, whichever library they are from."""
        return {**await _in_thread(self.copies.find, [info.id for info in infos])}

    async def hashed(self, info: FileInfo, copied: Copy | None) -> FileInfo:
        """Return the file with its hash, and no longer doubtful if that proves it to be the copy still."""
        hashed = await _hashed(self.storage, info)
        proved = copied is not None and copied.seems_version(info) and copied.etag == hashed.sha256
        return replace(hashed, doubtful=hashed.doubtful and not proved)

    async def note(self, info: FileInfo, origin: str) -> None:
        await _in_thread(self.copies.note, Copy.of(info, self.source or "", origin))

    async def forget(self, info: FileInfo) -> None:
        """Forget a copy before it is changed: no entry is ever wrong, wherever the change is cut short."""
        await _in_thread(self.copies.forget, info.id)


async def copy(
    source: Storage, target: Target, advance: Callable[[int], None]
) -> AsyncGenerator[Copied, None]:
    """Bring every file of every library to the target, and say of each what became of it. `advance` is told
    of bytes that are dealt with: of each file as many as it was listed with.

    Raises OutOfSpace, and StorageUnavailable when one of the two does not answer any more; what is there by
    then stays. It may be left, cancelled and begun again at any time.
    """
    async with aclosing(_pages(source)) as pages:
        async for page in pages:
            for listed in page.items:
                bar = _Advance(advance, listed.size)
                yield await _Copying(source, target, bar.by).bring(listed)
                bar.finish()


async def _pages(storage: Storage) -> AsyncGenerator[Page, None]:
    """Yield the files of all libraries, ignored ones first: one renamed meanwhile is then met later."""
    libraries = sorted({SHARED, *await storage.libraries()}, key=str.encode)
    for library, ignored in product(libraries, (True, False)):
        listing = Listing(library, recursive=True, ignored=ignored)
        cursor: str | None = None
        while True:
            page = await storage.page(listing, cursor=cursor, limit=PAGE)
            yield page
            cursor = page.next_cursor
            if cursor is None:
                break


async def gone(source: Storage, target: Target) -> AsyncGenerator[FileInfo, None]:
    """Yield the untouched copies in the target of files that the source no longer has.

    A copy whose name another file of the source has by now is not among them: `copy` replaces it.
    """
    async with aclosing(_pages(target.storage)) as pages:
        async for page in pages:
            known = await target.known(page.items)
            for info in page.items:
                if await _is_gone(source, target, info, known.get(info.id)):
                    yield info


async def remove_gone(source: Storage, target: Target, info: FileInfo) -> bool:
    """Delete a file that `gone` named, if all that is still so. Return whether it was deleted."""
    known = await target.known([info])
    if not await _is_gone(source, target, info, known.get(info.id)):
        return False
    try:
        await target.storage.delete(info.key, expect=info.etag)
    except (NotFound, VersionMismatch):
        return False
    await target.forget(info)
    return True


async def _is_gone(source: Storage, target: Target, info: FileInfo, copied: Copy | None) -> bool:
    if copied is None or not target.is_of_source(copied):
        return False
    try:
        origin = FileId(info.key.library, copied.origin)
        if await _find(source, origin) is not None or await _find(source, info.key) is not None:
            return False
        return copied.is_untouched(await target.hashed(info, copied) if info.doubtful else info)
    except (Unfinished, Unreadable, NotFound, _Changed, _Damaged):  # it is there, or it is no copy any more
        return False


async def _in_thread(function: Callable[..., T], *arguments: object) -> T:
    return await wait_for_result(asyncio.get_running_loop().run_in_executor(None, function, *arguments))


class _Advance:
    """Tells of so many bytes, whatever a file that changes, or is read again, comes to."""

    def __init__(self, tell: Callable[[int], None], size: int) -> None:
        self._tell = tell
        self._left = size

    def by(self, size: int) -> None:
        size = min(size, self._left)
        self._left -= size
        self._tell(size)

    def finish(self) -> None:
        self.by(self._left)


class _Changed(Exception):
    """The file is another version than was decided about."""


class _Damaged(Exception):
    """The bytes that were read are not those that were stored once."""


class _Copying:
    """One file on its way."""

    def __init__(
        self,
        source: Storage,
        to: Target,
        advance: Callable[[int], None],
        waiting: frozenset[str] = frozenset(),
    ) -> None:
        """`waiting` are the ids of the files that wait for this one to get out of their way."""
        self._source = source
        self._to = to
        self._target = to.storage
        self._advance = advance
        self._waiting = waiting
        self._moved = False

    async def bring(self, info: FileInfo) -> Copied:
        """Try; where it fails because of what happens meanwhile, try again with what is so then."""
        failed = Copied(info.key, 0, Outcome.FAILED)
        for _ in range(TRIES):
            try:
                return await self._bring(info)
            except OutOfSpace as error:
                raise OutOfSpace(f"There is no room for {info.key.path}: {error}") from error
            except _Damaged:
                return Copied(info.key, 0, Outcome.DAMAGED, "Its bytes do not match its hash.")
            except _Changed:
                failed = Copied(info.key, 0, Outcome.FAILED, "It changes while it is read.")
            except (AlreadyExists, PathConflict, VersionMismatch) as error:
                failed = Copied(info.key, 0, Outcome.CONFLICT, str(error))
            except StorageError as error:
                failed = Copied(info.key, 0, Outcome.FAILED, str(error))
                await self._check_answers()
            try:
                info = await self._now(info)
            except NotFound:
                return Copied(info.key, 0, Outcome.GONE)
            except StorageError as error:
                await self._check_answers()
                return Copied(info.key, 0, Outcome.FAILED, str(error))
        return failed

    async def _now(self, info: FileInfo) -> FileInfo:
        """The file as it is by now: it may have another name, or another file may have its name."""
        try:
            return await self._source.stat(_id(info))
        except NotFound:
            return await self._source.stat(info.key)

    async def _check_answers(self) -> None:
        """One file may fail; but without its storage all that follow would fail as well."""
        for which, storage in (("from", self._source), ("to", self._target)):
            try:
                await storage.ping()
            except StorageUnavailable as error:
                raise StorageUnavailable(f"The library to copy {which} does not answer: {error}") from error

    async def _bring(self, info: FileInfo) -> Copied:
        there = await _find(self._target, info.key)
        other = there or await _find(self._target, _id(info))
        copied = None if other is None else (await self._to.known([other])).get(other.id)
        if other is not None and copied is not None and other.doubtful and other.size != info.size:
            other = await self._to.hashed(other, copied)
            there = there and other
        action = decide(info, there, other, copied)
        if action is Action.HASH:
            assert other is not None
            info = await _hashed(self._source, info, self._advance)
            other = await self._to.hashed(other, copied)
            there = there and other
            action = decide(info, there, other, copied)
        if action is Action.MOVE:
            assert other is not None
            await self._to.forget(other)
            await self._target.move(other.key, info.key, expect=other.etag)
            self._moved = True
            return await self._bring(info)
        if action is Action.SKIP:
            if there is not None and _is_copy(there, info) and not self._is_noted(there, copied):
                await self._to.note(there, info.id)
            return Copied(info.key, 0, Outcome.MOVED if self._moved else Outcome.PRESENT)
        if action in (Action.CONFLICT, Action.SUPERSEDE):
            assert other is not None
            if await self._gets_away(other, info, copied):
                return await self._bring(info)
            if action is Action.CONFLICT or not await self._is_over(other, copied):
                return Copied(info.key, 0, Outcome.CONFLICT, _why(info, other))
            await self._copy(info, Expect.ABSENT, instead_of=other)
            return Copied(info.key, info.size, Outcome.REPLACED)
        await self._copy(info, Expect.ABSENT if there is None else there.etag, over=there)
        return Copied(info.key, info.size, Outcome.COPIED if there is None else Outcome.REPLACED)

    def _is_noted(self, there: FileInfo, copied: Copy | None) -> bool:
        return copied is not None and copied.source == (self._to.source or "") and copied.is_untouched(there)

    async def _is_over(self, other: FileInfo, copied: Copy | None) -> bool:
        """Return whether the file is a copy from this source, which no longer has what it was made of."""
        if copied is None or not self._to.is_of_source(copied):
            return False
        return await _find(self._source, FileId(other.key.library, copied.origin)) is None

    async def _gets_away(self, other: FileInfo, info: FileInfo, copied: Copy | None) -> bool:
        """Bring the file that has the name first, if it has another one in the source by now."""
        waiting = self._waiting | {info.id}
        origin = other.id if copied is None else copied.origin
        if origin in waiting or len(waiting) > CHAIN:  # they swapped their names
            return False
        now = await _find(self._source, FileId(other.key.library, origin))
        if now is None or now.key == other.key:
            return False
        brought = await _Copying(self._source, self._to, lambda size: None, waiting).bring(now)
        return brought.outcome not in LEFT_BEHIND

    async def _copy(
        self,
        info: FileInfo,
        expect: Expectation,
        *,
        over: FileInfo | None = None,
        instead_of: FileInfo | None = None,
    ) -> None:
        """Store the file, `over` an earlier version of it, or `instead_of` another, which is deleted last."""
        async with (
            self._source.open(_id(info)) as file,
            self._target.stage(size=info.size) as staged,
        ):
            _check_same(info, file.info)
            async with aclosing(file.read(0, info.size)) as chunks:
                async for data in chunks:
                    await staged.write(data)
                    self._advance(len(data))
            await staged.flush()
            await _check_read(self._source, info, staged.sha256)
            if instead_of is not None:
                await self._target.delete(instead_of.key, expect=instead_of.etag)
            if before := over or instead_of:
                await self._to.forget(before)
            committed = await self._target.commit(
                info.key, staged, content_type=info.content_type, expect=expect, origin=info
            )
            await self._to.note(committed.info, info.id)


async def _find(storage: Storage, address: Address) -> FileInfo | None:
    try:
        return await storage.stat(address)
    except NotFound:
        return None


async def _hashed(storage: Storage, info: FileInfo, advance: Callable[[int], None] | None = None) -> FileInfo:
    """The same, with the hash of its bytes."""
    if info.sha256 is not None:
        return info
    digest = hashlib.sha256()
    async with storage.open(_id(info)) as file:
        _check_same(info, file.info)
        async with aclosing(file.read(0, info.size)) as chunks:
            async for data in chunks:
                await asyncio.to_thread(digest.update, data)
                if advance is not None:
                    advance(len(data))
    await _check_read(storage, info, digest.hexdigest())
    return replace(info, sha256=digest.hexdigest())


async def _check_read(storage: Storage, info: FileInfo, sha256: str) -> None:
    """Raise unless all that was read is what was stored once, as far as that is known."""
    if sha256 == info.sha256:
        return
    # Only what a program other than this one has in its hands changes under a reader.
    now = await storage.stat(_id(info))
    _check_same(info, now)
    if now.sha256 not in (None, sha256):
        raise _Damaged


def _check_same(info: FileInfo, now: FileInfo) -> None:
    if (info.key, info.etag) != (now.key, now.etag):
        raise _Changed


def _id(info: FileInfo) -> FileId:
    return FileId(info.key.library, info.id)


def _why(info: FileInfo, other: FileInfo) -> str:
    return "Another file has this name." if other.id != info.id else "What is there is not an older version."
