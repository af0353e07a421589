"""An upload is stored only when its body is as long as its Content-Length."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.database import open_stores
from app.events.feed import ChangeFeed
from app.http.errors import IncompleteBody
from app.library.service import Library
from app.settings import Settings
from app.storage.errors import NotFound
from app.storage.types import SHARED, Expect, Key
from app.uploads.service import Uploads
from tests.support import NewLibrary

FILM = Key(SHARED, "", "film.mp4")


async def body_of(data: bytes) -> AsyncIterator[bytes]:
    yield data


@pytest.mark.parametrize("length", [3, 5])
def test_body_of_another_length_is_refused_and_not_stored(
    tmp_path: Path, new_library: NewLibrary, length: int
) -> None:
    async def run() -> None:
        settings = Settings(_env_file=None, files_dir=tmp_path, **new_library())
        async with open_stores(settings) as stores:
            library = Library(stores.storage, ChangeFeed())
            uploads = Uploads(
                stores.storage, library, max_size=100, send=lambda message, *, across_processes: None
            )
            with pytest.raises(IncompleteBody):
                await uploads.receive_raw(
                    FILM,
                    body_of(b"film"),
                    length=length,
                    declared={},
                    content_type=None,
                    expect=Expect.ANY,
                    sid=None,
                )
            with pytest.raises(NotFound):
                await stores.storage.stat(FILM)

    asyncio.run(run())
