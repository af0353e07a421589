"""The library: every change of what is stored, and who is told of it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from app.events.event import RESYNC, Event
from app.http.media_types import media_type
from app.storage.contract import Staged, Storage
from app.storage.ignored_names import NOTHING, Ignored
from app.storage.types import Change, Committed, Expect, Expectation, FileInfo, Key, Kind

MAX_AT_ONCE = 32
"""Changes that are told of one by one."""


class Library:
    """Changes files, and publishes each change that has happened: never one that failed.

    `publish` must not wait. Raises the errors of storage.
    """

    def __init__(
        self, storage: Storage, publish: Callable[[Event], None], ignored: Ignored = NOTHING
    ) -> None:
        self._storage = storage
        self._publish = publish
        self._ignored = ignored

    async def add(self, key: Key, staged: Staged, *, content_type: str | None) -> FileInfo:
        """Store staged bytes as a new file. `content_type` is what the client said of them, if anything."""
        committed = await self.replace(key, staged, content_type=content_type, expect=Expect.ABSENT)
        return committed.info

    async def replace(
        self, key: Key, staged: Staged, *, content_type: str | None, expect: Expectation = Expect.ANY
    ) -> Committed:
        """Store staged bytes as a new file, or over the one that is there."""
        committed = await self._storage.commit(
            key, staged, content_type=media_type(content_type, key.filename), expect=expect
        )
        self._tell(Change(Kind.CREATED if committed.created else Kind.REPLACED, committed.info))
        return committed

    async def rename(self, source: Key, target: Key, *, expect: Expectation) -> FileInfo:
        """Give a file another name, folder, or both. `expect` is about the source."""
        info = await self._storage.move(source, target, expect=expect)
        if source != target:
            self._tell(Change(Kind.MOVED, info, source))
        return info

    async def remove(self, file: FileInfo, *, expect: Expectation) -> None:
        """Delete what is at the key of a file that was there a moment ago."""
        await self._storage.delete(file.key, expect=expect)
        self._tell(Change(Kind.DELETED, file))

    def tell(self, changes: Sequence[Change]) -> None:
        """Publish what became of files without anybody having asked for it here. Of more at once than a
        listener has time for, it is only said that the library is to be listed again."""
        if len(changes) > MAX_AT_ONCE:
            for library in {change.info.key.library for change in changes}:
                self._publish(Event(RESYNC, library))
        else:
            for change in changes:
                self._tell(change)

    def _tell(self, change: Change) -> None:
        event = event_of(change, self._ignored)
        if event is not None:
            self._publish(event)


def event_of(change: Change, ignored: Ignored = NOTHING) -> Event | None:
    """Return the event of a change, for those who keep a list; None if no list shows the file."""
    was_hidden = change.previous is not None and ignored.file(change.previous)
    if ignored.file(change.info.key):
        if change.previous is None or was_hidden:
            return None
        change = Change(Kind.DELETED, replace(change.info, key=change.previous))
    elif was_hidden:
        change = Change(Kind.CREATED, change.info)
    elif change.previous is not None and change.previous.library != change.info.key.library:
        change = Change(Kind.CREATED, change.info)  # those who keep this list never saw it
    file = change.info
    data = {"id": file.id, "path": file.key.path, "etag": file.etag}
    if change.previous is not None:
        data["previous_path"] = change.previous.path
    return Event(f"file.{change.kind.value}", file.key.library, data)
