"""Small uploads, of which those that wait at the same time are written together, by one task or thread."""

import asyncio
import threading
from collections.abc import Sequence
from copy import copy
from typing import Any

from app.database.gridfs.connection import MongoDatabase
from app.database.gridfs.lease_stock import LeaseStock
from app.database.gridfs.loop_client import LoopClient
from app.database.gridfs.upload_steps import GroupedUpload, Step, Steps, UploadGroup, has_timed_out
from app.database.gridfs.writes import MediaWrites, OccupiedPaths
from app.storage.errors import StorageError
from app.storage.ignored_names import IgnoredNames
from app.storage.types import Committed
from app.storage.workers import wait_until_done

MAX_GROUP_BYTES = 2 << 20
"""Bytes of all files of a group, unless it has only one."""

MAX_GROUP = 64
"""Uploads of a group: the event loop prepares and compares all of them in one go."""

MAX_SILENT_GROUPS = 2
"""Groups in a row that the database does not answer, after which all waiting uploads fail. One may have lost
its connection only."""


def choose_group(waiting: Sequence[GroupedUpload]) -> list[GroupedUpload]:
    """Return the first upload and those that can be committed with it: of no equal or conflicting path."""
    group: list[GroupedUpload] = []
    paths = OccupiedPaths()
    size = 0
    for upload in waiting:
        size += len(upload.data)
        if group and (size > MAX_GROUP_BYTES or len(group) == MAX_GROUP):
            break
        if not (paths.has(upload.key) or paths.conflicts_with(upload.key)):
            paths.add(upload.key)
            group.append(upload)
    return group


class UploadGroups:
    """Commits small uploads, from threads and from one event loop.

    The thread that finds no other at work commits all uploads that wait, then hands over to one of those that
    arrived meanwhile. In the event loop, a task does that.
    """

    def __init__(
        self,
        database: MongoDatabase,
        writes: MediaWrites,
        ignored: IgnoredNames,
        stock: LeaseStock,
        client: LoopClient,
        chunk_size: int,
    ) -> None:
        self._database = database
        self._writes = writes
        self._ignored = ignored
        self._stock = stock
        self._client = client
        self._chunk_size = chunk_size
        self._lock = threading.Lock()  # guards the following
        self._waiting: list[GroupedUpload] = []
        self._is_busy = False
        self._queue: dict[GroupedUpload, asyncio.Future[None]] = {}  # of the event loop, as is the task
        self._task: asyncio.Task[None] | None = None

    def commit(self, upload: GroupedUpload) -> Committed | None:
        """Return when the upload is durable; None if it must be committed alone, from its beginning.

        Raises AlreadyExists, VersionMismatch, PathConflict, StorageUnavailable, OutOfSpace.
        """
        with self._lock:
            self._waiting.append(upload)
            is_first, self._is_busy = not self._is_busy, True
        if not is_first:
            upload.turn.wait()
        if not upload.has_ended:
            self._commit_waiting()
        return _result(upload)

    def _commit_waiting(self) -> None:
        with self._lock:
            group = choose_group(self._waiting)
            self._waiting = [upload for upload in self._waiting if upload not in group]
        try:
            self._run(self._steps(group))
        except Exception as error:
            _fail(group, error)
        finally:
            with self._lock:
                successor = next(iter(self._waiting), None)
                self._is_busy = successor is not None
            if successor is not None:
                successor.turn.set()
            for upload in group:
                upload.has_ended = True
                upload.turn.set()

    async def commit_async(self, upload: GroupedUpload) -> Committed | None:
        """As `commit`, from the event loop. A cancellation is delayed until the upload has its result."""
        ended = self._queue[upload] = asyncio.get_running_loop().create_future()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._commit_queue())
        await wait_until_done(ended)
        return _result(upload)

    async def _commit_queue(self) -> None:
        silent_groups = 0
        while self._queue:
            group = choose_group(list(self._queue))
            ended = [self._queue.pop(upload) for upload in group]
            try:
                await self._run_async(self._steps(group))
            except BaseException as error:
                _fail(group, error)
                if not isinstance(error, Exception):
                    raise
            finally:
                for future in ended:
                    future.set_result(None)
            timeouts = [upload.error for upload in group if has_timed_out(upload.error)]
            silent_groups = silent_groups + 1 if timeouts else 0
            if silent_groups == MAX_SILENT_GROUPS:
                self._fail_queue(timeouts[0])

    def _fail_queue(self, error: BaseException | None) -> None:
        """Fail all uploads that wait: those of one path would wait for the database one after another."""
        queue, self._queue = self._queue, {}
        _fail(list(queue), error)
        for future in queue.values():
            future.set_result(None)

    def _steps(self, group: Sequence[GroupedUpload]) -> Steps[None]:
        return UploadGroup(
            self._database, self._writes, self._ignored, self._stock, self._chunk_size, group
        ).steps()

    def _run(self, steps: Steps[None], step: Step | None = None) -> None:
        """Run the steps, from this one on, in this thread: commands through PyMongo."""
        step = step or _resume(steps)
        while step is not None:
            try:
                result = step() if callable(step) else self._database.run(step)
            except StorageError as error:
                step = _resume(steps, error=error)
            else:
                step = _resume(steps, result)

    async def _run_async(self, steps: Steps[None]) -> None:
        """Run the steps from the event loop, but continue in a thread after anything unusual."""
        step = _resume(steps)
        while step is not None:
            try:
                replies = None if callable(step) else await self._client.run(step)
            except StorageError as error:
                step = _resume(steps, error=error)
                continue
            if replies is None:
                await asyncio.to_thread(self._run, steps, step)
                return
            step = _resume(steps, replies)


def _resume(steps: Steps[None], result: Any = None, error: StorageError | None = None) -> Step | None:
    """Pass the outcome of the last step on, and return the next step; None at the end."""
    try:
        return steps.send(result) if error is None else steps.throw(error)
    except StopIteration:
        return None


def _fail(group: Sequence[GroupedUpload], error: BaseException | None) -> None:
    for upload in group:
        if upload.committed is None and upload.error is None:
            upload.error = error


def _result(upload: GroupedUpload) -> Committed | None:
    if upload.error is not None:
        raise copy(upload.error) from upload.error  # other callers may raise the same one
    return upload.committed
