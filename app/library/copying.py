"""Copies the files of one library to another, verified. A repeated run copies what is missing or changed."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import Enum, auto
from itertools import product
from typing import TypeVar

from app.storage.contract import MILLISECOND, CopyRecord, CopyRecords, Storage, all_pages, find_file
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
from app.storage.types import SHARED, Expect, Expectation, FileId, FileInfo, Key, Listing, Page
from app.storage.workers import wait_for_result

T = TypeVar("T")

PAGE_SIZE = 100
"""Files in one page of a list."""

MAX_CHAIN = 10
"""Files that may wait for one another to free their names."""

ATTEMPTS = 2
"""Attempts to copy a file that changes meanwhile, or that cannot be read or stored."""


class Action(Enum):
    COPY = auto()
    SKIP = auto()
    REPLACE = auto()
    MOVE = auto()
    HASH = auto()
    """Compute the missing hash, then decide again."""
    SUPERSEDE = auto()
    """Replace an earlier copy of another file, which has the name, if that file was deleted."""
    CONFLICT = auto()


def decide(
    source: FileInfo, at_key: FileInfo | None, by_id: FileInfo | None, copied: CopyRecord | None = None
) -> Action:
    """Return the next step to copy a file to a library that has `at_key` at its key and `by_id` with its id.

    `copied` is the target's record of the first of the two as a copy. Only unchanged earlier copies are
    overwritten; without a record, only older versions of the same file.
    """
    other = at_key or by_id
    if other is None:
        return Action.COPY
    if other.size == source.size:
        # A copy has the time of the version that it was made from, to the millisecond.
        made_from_it = _is_copy(other, source)
        unknown = source.sha256 is None or other.sha256 is None
        if unknown and not made_from_it:
            return Action.HASH
        if unknown or source.sha256 == other.sha256:
            return Action.SKIP if at_key else Action.MOVE
    if other.id != source.id:
        leftover = at_key is not None and copied is not None and copied.is_untouched(at_key)
        return Action.SUPERSEDE if leftover else Action.CONFLICT
    if other.updated_at >= source.updated_at or not (copied is None or copied.is_version(other)):
        return Action.CONFLICT
    return Action.REPLACE if at_key else Action.MOVE


def _is_copy(other: FileInfo, source: FileInfo) -> bool:
    """Return whether a file of the same size was copied from this version, by its id and time."""
    return other.id == source.id and abs(other.updated_at - source.updated_at) < MILLISECOND


class CopyOutcome(Enum):
    COPIED = "copied"
    REPLACED = "replaced"
    MOVED = "moved"
    """An earlier copy was renamed like its source."""
    PRESENT = "already there"
    GONE = "gone meanwhile"
    CONFLICT = "in conflict"
    DAMAGED = "damaged"
    """Its bytes do not match its recorded hash."""
    FAILED = "failed"


LEFT_BEHIND = frozenset({CopyOutcome.CONFLICT, CopyOutcome.DAMAGED, CopyOutcome.FAILED})


@dataclass(frozen=True, slots=True)
class CopyResult:
    key: Key
    size: int
    """Bytes that were stored in the target."""
    outcome: CopyOutcome
    reason: str = ""
    """Why the file was not copied; empty if it was."""


@dataclass(frozen=True, slots=True)
class Target:
    """The library to copy to, and its records of earlier copies."""

    storage: Storage
    copies: CopyRecords
    source: str | None
    """The id of the library to copy from. If None, earlier copies cannot be recognised as its own."""

    def is_of_source(self, copied: CopyRecord) -> bool:
        """Return whether a copy came from the library to copy from."""
        return self.source is not None and copied.source == self.source

    async def records(self, infos: Sequence[FileInfo]) -> dict[str, CopyRecord]:
        """Return the copy records of those files that earlier runs copied from any library, by file id."""
        return {**await _in_thread(self.copies.find, [info.id for info in infos])}

    async def hashed(self, info: FileInfo, copied: CopyRecord | None) -> FileInfo:
        """Return the file with its hash; not doubtful if the hash proves that it is the unchanged copy."""
        hashed = await _hashed(self.storage, info)
        proved = copied is not None and copied.seems_version(info) and copied.etag == hashed.sha256
        return replace(hashed, doubtful=hashed.doubtful and not proved)

    async def save_record(self, info: FileInfo, origin: str) -> None:
        await _in_thread(self.copies.save, CopyRecord.of(info, self.source or "", origin))

    async def remove_record(self, info: FileInfo) -> None:
        """Remove the record of a copy before the copy is changed, so that a crash leaves no wrong record."""
        await _in_thread(self.copies.remove, info.id)


async def copy(
    source: Storage, target: Target, advance: Callable[[int], None]
) -> AsyncGenerator[CopyResult, None]:
    """Copy every file of every library to the target, and yield the result of each. `advance` receives the
    number of processed bytes: for each file, the listed size in total.

    Raises OutOfSpace, and StorageUnavailable if either library is unavailable; copied files stay. May be
    interrupted and restarted at any time.
    """
    async with aclosing(_pages(source)) as pages:
        async for page in pages:
            for listed in page.items:
                progress = _FileProgress(advance, listed.size)
                yield await _FileCopy(source, target, progress.add).run(listed)
                progress.finish()


async def _pages(storage: Storage) -> AsyncGenerator[Page, None]:
    """Yield the files of all libraries. Ignored ones come first, so that one that loses its ignored name
    meanwhile, as a finished download does, is not skipped."""
    libraries = sorted({SHARED, *await storage.libraries()}, key=str.encode)
    for library, ignored in product(libraries, (True, False)):
        listing = Listing(library, recursive=True, ignored=ignored)
        async for page in all_pages(storage, listing, limit=PAGE_SIZE):
            yield page


async def find_gone(source: Storage, target: Target) -> AsyncGenerator[FileInfo, None]:
    """Yield unchanged copies of deleted files, except those that `copy` replaces by a file of that name."""
    async with aclosing(_pages(target.storage)) as pages:
        async for page in pages:
            records = await target.records(page.items)
            for info in page.items:
                if await _is_gone(source, target, info, records.get(info.id)):
                    yield info


async def remove_gone(source: Storage, target: Target, info: FileInfo) -> bool:
    """Delete a file that `find_gone` yielded, if it still would. Return whether it was deleted."""
    records = await target.records([info])
    if not await _is_gone(source, target, info, records.get(info.id)):
        return False
    try:
        await target.storage.delete(info.key, expect=info.etag)
    except (NotFound, VersionMismatch):
        return False
    await target.remove_record(info)
    return True


async def _is_gone(source: Storage, target: Target, info: FileInfo, copied: CopyRecord | None) -> bool:
    if copied is None or not target.is_of_source(copied):
        return False
    try:
        origin = FileId(info.key.library, copied.origin)
        if await find_file(source, origin) is not None or await find_file(source, info.key) is not None:
            return False
        return copied.is_untouched(await target.hashed(info, copied) if info.doubtful else info)
    except (Unfinished, Unreadable, NotFound, _Changed, _Damaged):
        return False  # the source file exists, or this is not its copy


async def _in_thread(function: Callable[..., T], *arguments: object) -> T:
    return await wait_for_result(asyncio.get_running_loop().run_in_executor(None, function, *arguments))


class _FileProgress:
    """Reports exactly the listed size of a file, even if it changes or is read twice."""

    def __init__(self, advance: Callable[[int], None], size: int) -> None:
        self._advance = advance
        self._left = size

    def add(self, size: int) -> None:
        size = min(size, self._left)
        self._left -= size
        self._advance(size)

    def finish(self) -> None:
        self.add(self._left)


class _Changed(Exception):
    """The file changed after the decision."""


class _Damaged(Exception):
    """The bytes do not match the recorded hash."""


class _FileCopy:
    def __init__(
        self,
        source: Storage,
        to: Target,
        advance: Callable[[int], None],
        waiting: frozenset[str] = frozenset(),
    ) -> None:
        """`waiting` are the ids of the files that wait for this one to free their names."""
        self._source = source
        self._to = to
        self._target = to.storage
        self._advance = advance
        self._waiting = waiting
        self._moved = False

    async def run(self, info: FileInfo) -> CopyResult:
        """Copy the file. Tries again, with its current state, if concurrent changes make an attempt fail."""
        failed = CopyResult(info.key, 0, CopyOutcome.FAILED)
        for _ in range(ATTEMPTS):
            try:
                return await self._attempt(info)
            except OutOfSpace as error:
                raise OutOfSpace(f"There is no room for {info.key.path}: {error}") from error
            except _Damaged:
                return CopyResult(info.key, 0, CopyOutcome.DAMAGED, "Its bytes do not match its hash.")
            except _Changed:
                failed = CopyResult(info.key, 0, CopyOutcome.FAILED, "It changed while it was being read.")
            except (AlreadyExists, PathConflict, VersionMismatch) as error:
                failed = CopyResult(info.key, 0, CopyOutcome.CONFLICT, str(error))
            except StorageError as error:
                failed = CopyResult(info.key, 0, CopyOutcome.FAILED, str(error))
                await self._check_answers()
            try:  # it may have another name now, or another file its name
                now = await find_file(self._source, _id(info)) or await find_file(self._source, info.key)
            except StorageError as error:
                await self._check_answers()
                return CopyResult(info.key, 0, CopyOutcome.FAILED, str(error))
            if now is None:
                return CopyResult(info.key, 0, CopyOutcome.GONE)
            info = now
        return failed

    async def _check_answers(self) -> None:
        """Raise StorageUnavailable if a library is unavailable: all further files would fail as well."""
        for which, storage in (("from", self._source), ("to", self._target)):
            try:
                await storage.ping()
            except StorageUnavailable as error:
                raise StorageUnavailable(f"The library to copy {which} is unavailable: {error}") from error

    async def _attempt(self, info: FileInfo) -> CopyResult:
        at_key = await find_file(self._target, info.key)
        other = at_key or await find_file(self._target, _id(info))
        copied = None if other is None else (await self._to.records([other])).get(other.id)
        if other is not None and copied is not None and other.doubtful and other.size != info.size:
            other = await self._to.hashed(other, copied)
            at_key = at_key and other
        action = decide(info, at_key, other, copied)
        if action is Action.HASH:
            assert other is not None
            info = await _hashed(self._source, info, self._advance)
            other = await self._to.hashed(other, copied)
            at_key = at_key and other
            action = decide(info, at_key, other, copied)
        if action is Action.MOVE:
            assert other is not None
            await self._to.remove_record(other)
            await self._target.move(other.key, info.key, expect=other.etag)
            self._moved = True
            return await self._attempt(info)
        if action is Action.SKIP:
            if at_key is not None and _is_copy(at_key, info) and not self._is_recorded(at_key, copied):
                await self._to.save_record(at_key, info.id)
            return CopyResult(info.key, 0, CopyOutcome.MOVED if self._moved else CopyOutcome.PRESENT)
        if action in (Action.CONFLICT, Action.SUPERSEDE):
            assert other is not None
            if await self._move_away(other, info, copied):
                return await self._attempt(info)
            if action is Action.CONFLICT or not await self._is_leftover(other, copied):
                return CopyResult(info.key, 0, CopyOutcome.CONFLICT, _why(info, other))
            await self._copy(info, Expect.ABSENT, instead_of=other)
            return CopyResult(info.key, info.size, CopyOutcome.REPLACED)
        await self._copy(info, Expect.ABSENT if at_key is None else at_key.etag, over=at_key)
        return CopyResult(info.key, info.size, CopyOutcome.COPIED if at_key is None else CopyOutcome.REPLACED)

    def _is_recorded(self, info: FileInfo, copied: CopyRecord | None) -> bool:
        return copied is not None and copied.source == (self._to.source or "") and copied.is_untouched(info)

    async def _is_leftover(self, other: FileInfo, copied: CopyRecord | None) -> bool:
        """Return whether the file is a copy of a file that this source no longer has."""
        if copied is None or not self._to.is_of_source(copied):
            return False
        return await find_file(self._source, FileId(other.key.library, copied.origin)) is None

    async def _move_away(self, other: FileInfo, info: FileInfo, copied: CopyRecord | None) -> bool:
        """Free the name by copying `other` first, if its source was renamed. Return whether it is free."""
        waiting = self._waiting | {info.id}
        origin = other.id if copied is None else copied.origin
        if origin in waiting or len(waiting) > MAX_CHAIN:  # a cycle: they swapped their names
            return False
        now = await find_file(self._source, FileId(other.key.library, origin))
        if now is None or now.key == other.key:
            return False
        result = await _FileCopy(self._source, self._to, lambda size: None, waiting).run(now)
        return result.outcome not in LEFT_BEHIND

    async def _copy(
        self,
        info: FileInfo,
        expect: Expectation,
        *,
        over: FileInfo | None = None,
        instead_of: FileInfo | None = None,
    ) -> None:
        """Store the file `over` an earlier version, or `instead_of` another file, which is deleted first."""
        async with (
            self._source.open(_id(info)) as file,
            self._target.stage(size=info.size) as staged,
        ):
            _check_same(info, file.info)
            async with aclosing(file.read(0, info.size)) as chunks:
                async for data in chunks:
                    await staged.write(bytes(data))  # no copy, unless from MongoDB
                    self._advance(len(data))
            await staged.flush()
            await _check_read(self._source, info, staged.sha256)
            if instead_of is not None:
                await self._target.delete(instead_of.key, expect=instead_of.etag)
            if before := over or instead_of:
                await self._to.remove_record(before)
            committed = await self._target.commit(
                info.key, staged, content_type=info.content_type, expect=expect, origin=info
            )
            await self._to.save_record(committed.info, info.id)


async def _hashed(storage: Storage, info: FileInfo, advance: Callable[[int], None] | None = None) -> FileInfo:
    """Return the file with its hash, which is computed if it is unknown."""
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
    """Raise _Damaged or _Changed if the hash of the bytes that were read is not the recorded one."""
    if sha256 == info.sha256:
        return
    # Only other programs change a file that is being read.
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
    return "Another file has this name." if other.id != info.id else "The file there is not an older version."
