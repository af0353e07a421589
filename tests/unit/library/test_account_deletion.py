"""The storage of accounts: quotas, and the files of a deleted account."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

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


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[tuple[Stores, Library, Quotas]]:
    async def may_store(_: str) -> bool:
        return True

    async with open_stores(settings) as stores:
        library = Library(stores.storage, ChangeFeed())
        quotas = Quotas(stores.storage, default=None, may_store=may_store, acquire=stores.leases.acquire)
        yield stores, library, quotas


@pytest.fixture
def settings(tmp_path: Path, new_library: NewLibrary) -> Settings:
    return Settings(files_dir=tmp_path, **new_library())


@each_backend
async def test_upload_waits_while_another_task_holds_the_library(settings: Settings) -> None:
    async with opened(settings) as (_, _, quotas):
        stored = asyncio.Event()

        async def store() -> None:
            async with (
                quotas.reserve(ANNA) as reservation,
                reservation.storing(Key(ANNA.library, "", "film.mp4"), 1),
            ):
                stored.set()

        async with quotas.exclusive(ANNA.library):
            storing = asyncio.create_task(store())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(stored.wait()), 0.2)
        await asyncio.wait_for(storing, 5)


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
