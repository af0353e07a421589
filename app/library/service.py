"""The library: changes of stored files that clients request, and their publication in the change feed."""

from app.events.feed import ChangeFeed
from app.http.media_types import media_type
from app.storage.contract import Staged, Storage
from app.storage.types import Change, ChangeKind, Committed, Expect, Expectation, FileInfo, Key


class Library:
    """Changes files, and publishes each change after it succeeded. Raises the errors of storage."""

    def __init__(self, storage: Storage, feed: ChangeFeed) -> None:
        self._storage = storage
        self._feed = feed

    async def add(self, key: Key, staged: Staged, *, content_type: str | None) -> FileInfo:
        """Store staged bytes as a new file. `content_type` is the type that the client declared, or None."""
        committed = await self.replace(key, staged, content_type=content_type, expect=Expect.ABSENT)
        return committed.info

    async def replace(
        self, key: Key, staged: Staged, *, content_type: str | None, expect: Expectation = Expect.ANY
    ) -> Committed:
        """Store staged bytes as a new file, or in place of the existing one."""
        committed = await self._storage.commit(
            key, staged, content_type=media_type(content_type, key.filename), expect=expect
        )
        self._feed.publish(
            [Change(ChangeKind.CREATED if committed.created else ChangeKind.REPLACED, committed.info)]
        )
        return committed

    async def rename(self, source: Key, target: Key, *, expect: Expectation) -> FileInfo:
        """Move a file to another name, folder, or both. `expect` applies to the source."""
        info = await self._storage.move(source, target, expect=expect)
        if source != target:
            self._feed.publish([Change(ChangeKind.MOVED, info, source)])
        return info

    async def remove(self, file: FileInfo, *, expect: Expectation) -> None:
        """Delete the file at the key of `file`. `expect` applies to its current version."""
        await self._storage.delete(file.key, expect=expect)
        self._feed.publish([Change(ChangeKind.DELETED, file)])
