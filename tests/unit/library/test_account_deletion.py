"""The storage of accounts: quotas, and the files of a deleted account."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from app.accounts.errors import NotSignedIn
from app.accounts.models import Account, Destination, new_account
from app.database import Stores, open_stores
from app.events.feed import ChangeFeed
from app.library.account_deletion import AccountDeletion
from app.library.quotas import Quotas
from app.library.service import Library
from app.settings import Settings
from app.storage.types import RESERVED, SHARED, Expect, Key, Listing
from tests.support import NewLibrary, each_backend

pytestmark = pytest.mark.anyio

ANNA, BEN = (new_account(f"{name}@example.org", "a hash") for name in ("anna", "ben"))


async def always(_: str) -> bool:
    return True


def new_quotas(stores: Stores, may_store: Callable[[str], Awaitable[bool]] = always) -> Quotas:
    return Quotas(stores.storage, default=None, may_store=may_store, acquire=stores.leases.acquire)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[tuple[Stores, Library, Quotas]]:
    async with open_stores(settings) as stores:
        library = Library(stores.storage, ChangeFeed())
        yield stores, library, new_quotas(stores)


@pytest.fixture
def settings(tmp_path: Path, new_library: NewLibrary) -> Settings:
    return Settings(files_dir=tmp_path, **new_library())


class Uploads:
    """Uploads of Anna that are being stored until each is told to end."""

    def __init__(self, quotas: Quotas, account: Account = ANNA) -> None:
        self._quotas = quotas
        self._account = account
        self._tasks: list[tuple[asyncio.Task[None], asyncio.Event, asyncio.Event]] = []

    def begin(self) -> None:
        entered, may_end = asyncio.Event(), asyncio.Event()

        async def store() -> None:
            async with (
                self._quotas.reserve(self._account) as reservation,
                reservation.storing(Key(self._account.library, "", "film.mp4"), 1),
            ):
                entered.set()
                await may_end.wait()

        self._tasks.append((asyncio.create_task(store()), entered, may_end))

    async def wait_until_stored(self, number: int) -> None:
        await asyncio.wait_for(self._tasks[number][1].wait(), 5)

    async def is_waiting(self, number: int) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._tasks[number][1].wait(), 0.2)
        return not self._tasks[number][1].is_set()

    async def end(self, number: int) -> None:
        task, _, may_end = self._tasks[number]
        may_end.set()
        await asyncio.wait_for(task, 5)

    async def cancel(self, number: int) -> None:
        task, _, _ = self._tasks[number]
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@each_backend
async def test_upload_waits_while_another_task_holds_the_library(settings: Settings) -> None:
    async with opened(settings) as (_, _, quotas):
        uploads = Uploads(quotas)
        async with quotas.exclusive(ANNA.library):
            uploads.begin()
            assert await uploads.is_waiting(0)
        await uploads.end(0)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let uploads share a library however long a busy machine takes."""
    monkeypatch.setattr("app.library.quotas.MAX_SHARED_S", 3600)


@each_backend
async def test_uploads_without_quota_are_stored_together(settings: Settings, patient: None) -> None:
    async with opened(settings) as (_, _, quotas):
        uploads = Uploads(quotas)
        for number in range(3):
            uploads.begin()
            await uploads.wait_until_stored(number)
        for number in (1, 0, 2):  # the first one does not have to stay
            await uploads.end(number)
        uploads.begin()
        await uploads.end(3)


async def test_no_upload_is_stored_after_a_look_up_that_began_before_it(
    settings: Settings, patient: None
) -> None:
    """Those that wait at the same time share the next one."""
    is_active, asked, may_answer = True, 0, asyncio.Event()

    async def may_store(_: str) -> bool:
        nonlocal asked
        asked += 1
        answer = is_active
        await may_answer.wait()
        return answer

    async with opened(settings) as (stores, _, _):
        uploads = Uploads(new_quotas(stores, may_store))
        uploads.begin()
        assert await uploads.is_waiting(0)
        assert asked == 1
        for _ in range(3):
            uploads.begin()
        assert await uploads.is_waiting(3)
        is_active = False
        may_answer.set()
        await uploads.end(0)
        for number in (1, 2, 3):
            with pytest.raises(NotSignedIn):
                await uploads.end(number)
        assert asked == 2
        is_active = True
        uploads.begin()
        await uploads.end(4)


async def test_uploads_with_quota_are_stored_one_after_another(settings: Settings) -> None:
    async with opened(settings) as (_, _, quotas):
        uploads = Uploads(quotas, replace(ANNA, quota=1000))
        uploads.begin()
        await uploads.wait_until_stored(0)
        uploads.begin()
        assert await uploads.is_waiting(1)
        await uploads.end(0)
        await uploads.end(1)


@each_backend
@pytest.mark.parametrize("same_process", [True, False])
async def test_holder_of_library_waits_for_uploads_and_later_ones_wait_for_it(
    settings: Settings, same_process: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not same_process:  # as when the uploads have shared the library for long
        monkeypatch.setattr("app.library.quotas.MAX_SHARED_S", 0)
    async with opened(settings) as (stores, _, quotas):
        uploads = Uploads(quotas)
        uploads.begin()
        await uploads.wait_until_stored(0)
        held, may_end = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            other = quotas if same_process else new_quotas(stores)  # of another process
            async with other.exclusive(ANNA.library):
                held.set()
                await may_end.wait()

        holding = asyncio.create_task(hold())
        await asyncio.sleep(0)
        uploads.begin()
        assert await uploads.is_waiting(1)
        assert not held.is_set()
        await uploads.end(0)
        if same_process:  # in another, the lease goes to the first that asks
            await asyncio.wait_for(held.wait(), 5)
            assert await uploads.is_waiting(1)
        may_end.set()
        await uploads.end(1)
        await asyncio.wait_for(holding, 5)


@each_backend
async def test_upload_that_is_cancelled_keeps_no_hold(settings: Settings) -> None:
    async with opened(settings) as (_, _, quotas):
        uploads = Uploads(quotas)
        async with quotas.exclusive(ANNA.library):
            for _ in range(3):
                uploads.begin()
            assert await uploads.is_waiting(2)
            await uploads.cancel(0)
        await uploads.wait_until_stored(1)
        await uploads.cancel(1)
        await uploads.end(2)
        async with asyncio.timeout(5), quotas.exclusive(ANNA.library):
            uploads.begin()
            assert await uploads.is_waiting(3)
            await uploads.cancel(3)
        async with asyncio.timeout(5), quotas.exclusive(ANNA.library):
            pass


@each_backend
async def test_deletion_continues_when_one_account_fails(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    removed: list[str] = []

    async def leaving() -> Sequence[Account]:
        return [ANNA, BEN]

    async def remove(account_id: str) -> None:
        if account_id == ANNA.id:
            raise OSError("the database is not in the mood")
        removed.append(account_id)

    async with opened(settings) as (stores, library, quotas):
        storage = stores.storage
        async with storage.stage() as staged:
            await staged.write(b"a film")
            key = Key(BEN.library, "", "film.mp4")
            await library.replace(key, staged, content_type=None, expect=Expect.ABSENT)
        deletion = AccountDeletion(
            storage, library, quotas, leaving=leaving, remove=remove, leases=stores.leases
        )
        running = asyncio.create_task(deletion.run())
        with caplog.at_level(logging.ERROR, "app"):
            async with asyncio.timeout(10):
                while not removed:
                    await asyncio.sleep(0.02)
        running.cancel()
        assert removed == [BEN.id]
        page = await storage.page(Listing(BEN.library, recursive=True), cursor=None, limit=10)
        assert not page.items
    assert "not in the mood" in str(caplog.records[0].exc_info)


@each_backend
async def test_deletion_includes_upload_in_progress_in_another_process(settings: Settings) -> None:
    """The other process admitted the request before the account was deleted."""
    removed = asyncio.Event()

    async def leaving() -> Sequence[Account]:
        return [] if removed.is_set() else [ANNA]

    async def remove(account_id: str) -> None:
        removed.set()

    key = Key(ANNA.library, "", "film.mp4")
    async with opened(settings) as (one, library, quotas), opened(settings) as (two, others, elsewhere):
        deletion = AccountDeletion(
            one.storage, library, quotas, leaving=leaving, remove=remove, leases=one.leases
        )
        async with two.storage.stage() as staged, elsewhere.reserve(ANNA) as reservation:
            await staged.write(b"a film")
            async with reservation.storing(key, 6):
                running = asyncio.create_task(deletion.run())
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(removed.wait(), 0.3)
                await others.replace(key, staged, content_type=None, expect=Expect.ABSENT)
        await asyncio.wait_for(removed.wait(), 10)
        running.cancel()
        page = await one.storage.page(Listing(ANNA.library, recursive=True), cursor=None, limit=10)
        assert not page.items


@each_backend
async def test_only_one_process_deletes_an_account(settings: Settings) -> None:
    removed: list[str] = []

    async def leaving() -> Sequence[Account]:
        return [ANNA]

    async def remove(account_id: str) -> None:
        removed.append(account_id)
        await asyncio.sleep(0.5)

    async with opened(settings) as (one, library, quotas), opened(settings) as (two, others, elsewhere):
        given = {"leaving": leaving, "remove": remove}
        both = [
            AccountDeletion(one.storage, library, quotas, leases=one.leases, **given),
            AccountDeletion(two.storage, others, elsewhere, leases=two.leases, **given),
        ]
        running = [asyncio.create_task(deletion.run()) for deletion in both]
        async with asyncio.timeout(10):
            while not removed:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    assert removed == [ANNA.id]


@pytest.mark.parametrize("keep", [None, Destination(SHARED, "anna")], ids=["deleted", "kept"])
async def test_deletion_removes_ignored_files_of_other_programs(
    tmp_path: Path, keep: Destination | None
) -> None:
    """Lists leave them out, but the folder that holds them belongs to the account alone."""
    leaver = replace(
        ANNA,
        keep_library=keep.library if keep else None,
        keep_folder=keep.folder if keep else None,
    )
    removed = asyncio.Event()

    async def leaving() -> Sequence[Account]:
        return [] if removed.is_set() else [leaver]

    async def remove(account_id: str) -> None:
        removed.set()

    paths = {"film.mp4.part", "@eaDir/film.jpg", "series/Thumbs.db", "series/film.mp4"}
    async with opened(Settings(_env_file=None, files_dir=tmp_path)) as (stores, library, quotas):
        private = tmp_path / RESERVED / "libraries" / ANNA.library
        for path in paths:
            file = private / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"by hand")
        deletion = AccountDeletion(
            stores.storage, library, quotas, leaving=leaving, remove=remove, leases=stores.leases
        )
        running = asyncio.create_task(deletion.run())
        await asyncio.wait_for(removed.wait(), 10)
        running.cancel()
    assert [file for file in private.rglob("*") if file.is_file()] == []
    to = tmp_path / "anna"
    kept = {str(file.relative_to(to)) for file in to.rglob("*") if file.is_file()}
    assert kept == (paths if keep else set())
