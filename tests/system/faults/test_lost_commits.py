"""The connection to PostgreSQL is lost during a COMMIT."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.storage.errors import NotFound, StorageUnavailable
from app.storage.types import SHARED, Expect, Key
from tests.support.postgres import shared
from tests.system.faults.lossy_proxy import Loss, LossyProxy
from tests.unit.database import foreign_changes
from tests.unit.database.foreign_changes import wait_for_tick
from tests.unit.database.library import FILM, Library, store_together

MOVED = Key(SHARED, "other", "film.mp4")

State = dict[Key, bytes]

BEFORE: dict[str, State] = {
    "store": {},
    "store over": {FILM: b"old"},
    "store together": {FILM: b"old"},
    "create": {},
    "replace": {FILM: b"old"},
    "delete": {FILM: b"old"},
    "move": {FILM: b"old"},
}
AFTER: dict[str, State] = {
    "store": {FILM: b"new"},
    "store over": {FILM: b"new"},
    "store together": {FILM: b"new", MOVED: b"other"},
    "create": {FILM: b"new"},
    "replace": {FILM: b"new"},
    "delete": {},
    "move": {MOVED: b"old"},
}


@pytest.fixture
def shorten_waits(library: Library) -> None:
    """Shorten the time after which a file counts as finished."""
    foreign_changes.shorten_waits(library)


@pytest.fixture
def proxy() -> Iterator[LossyProxy]:
    proxy = LossyProxy(shared().port)
    yield proxy
    proxy.close()


@pytest.fixture
def library(tmp_path: Path, proxy: LossyProxy) -> Iterator[Library]:
    url = shared().new_library().replace(str(shared().port), str(proxy.port))
    library = Library(tmp_path / "files", url, outcome_timeout_s=0.2)
    yield library
    library.close()


def change(library: Library, kind: str) -> None:
    match kind:
        case "create" | "replace":
            library.put(b"new")
        case "store" | "store over":
            library.store(b"new")
        case "store together":
            uploads = (FILM.path, b"new", Expect.ANY), (MOVED.path, b"other", Expect.ABSENT)
            for result in store_together(library, *uploads):
                result.result()
        case "delete":
            library.backend.delete(FILM, Expect.ANY)
        case "move":
            library.backend.move(FILM, MOVED, Expect.ANY)


def found(library: Library) -> State:
    state = {}
    for key in (FILM, MOVED):
        try:
            state[key], info = library.get(key)
        except NotFound:
            continue
        assert info.size == len(state[key])
    return state


@pytest.fixture(params=sorted(BEFORE))
def kind(request: pytest.FixtureRequest, library: Library, proxy: LossyProxy) -> str:
    """Return a kind of change, and store the file that it needs."""
    kind: str = request.param
    if BEFORE[kind]:
        library.put(b"old")
    return kind


def test_change_succeeds_when_only_the_reply_to_its_commit_is_lost(
    library: Library, proxy: LossyProxy, kind: str
) -> None:
    proxy.loss = Loss.REPLY
    change(library, kind)
    assert proxy.lost.is_set()
    assert found(library) == AFTER[kind]


@pytest.mark.parametrize("kind", sorted(BEFORE.keys() - {"store together"}), indirect=True)
def test_change_is_undone_when_its_commit_is_lost(library: Library, proxy: LossyProxy, kind: str) -> None:
    proxy.loss = Loss.COMMIT
    with pytest.raises(StorageUnavailable):
        change(library, kind)
    assert found(library) == BEFORE[kind]
    assert library.staging() == []


@pytest.mark.parametrize("kind", ["store together"], indirect=True)
def test_uploads_are_committed_one_by_one_when_their_common_commit_is_lost(
    library: Library, proxy: LossyProxy, kind: str
) -> None:
    proxy.loss = Loss.COMMIT
    change(library, kind)
    assert proxy.lost.is_set()
    assert found(library) == AFTER[kind]
    assert library.staging() == []


@pytest.mark.parametrize("loss", Loss)
def test_change_of_unknown_outcome_is_completed_later(
    library: Library, proxy: LossyProxy, kind: str, loss: Loss, shorten_waits: None
) -> None:
    proxy.loss, proxy.reachable = loss, False
    with pytest.raises(StorageUnavailable):
        change(library, kind)
    assert proxy.lost.is_set()
    proxy.reachable = True
    wait_for_tick()
    assert found(library) == AFTER[kind]
    assert found(library) == AFTER[kind], "a second read found another state"
    assert library.staging() == []
