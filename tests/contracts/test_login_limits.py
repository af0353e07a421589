"""The contract of login limit stores (app/accounts/login_limits.py), on every database, across processes."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count

import pytest

from app.accounts.login_limits import Bucket, LoginLimitStore
from app.database import open_accounts
from app.settings import Settings
from tests.conftest import BACKENDS
from tests.support.together import Outcomes, Together

NUMBERS = count(1)


Stores = list[LoginLimitStore]

waiting = Together("waiting")


@pytest.fixture(scope="module")
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Stores]]:
    """Open two stores on each database for which a test is selected."""
    selected = {
        item.callspec.params.get("backend") for item in request.session.items if hasattr(item, "callspec")
    }
    with ExitStack() as stack:

        def two(backend: str) -> Stores:
            options = BACKENDS[backend]()
            # All tests share one MongoDB, but each module needs a `users` database of its own.
            if "mongodb_url" in options:
                options["users_url"] = str(options["mongodb_url"]).replace("library", "attempts")
            folder = tmp_path_factory.mktemp("attempts")
            settings = Settings(_env_file=None, files_dir=folder / "files", **options)
            return [stack.enter_context(open_accounts(settings, create=True)).login_limits for _ in range(2)]

        yield {backend: two(backend) for backend in BACKENDS if backend in selected}


@pytest.fixture(scope="module")
def everywhere(request: pytest.FixtureRequest, opened: dict[str, Stores]) -> Iterator[dict[str, Outcomes]]:
    """Start all tests that wait, for all databases at the same time."""
    with ExitStack() as stack:

        def start_tests(stores: Stores) -> Outcomes:
            return stack.enter_context(waiting.begun(request, lambda _: (stores,)))

        yield {backend: start_tests(stores) for backend, stores in opened.items()}


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module", name="waiting")
def start_tests(backend: str, everywhere: dict[str, Outcomes]) -> Outcomes:
    return everywhere[backend]


@pytest.fixture(scope="module")
def stores(backend: str, opened: dict[str, Stores]) -> Stores:
    return opened[backend]


def make_bucket(limit: int = 3, window_s: float = 900.0, unless: str = "") -> Bucket:
    return Bucket(f"bucket-{next(NUMBERS)}", limit, window_s, unless)


def is_full(store: LoginLimitStore, bucket: Bucket) -> bool:
    """Return whether the bucket is full; if it is not, this adds an attempt."""
    return store.attempt([bucket]) is not None


def fill(store: LoginLimitStore, bucket: Bucket) -> None:
    for _ in range(bucket.limit):
        assert store.attempt([bucket]) is None


def test_bucket_counts_attempts_of_all_processes(stores: Stores) -> None:
    bucket, other = make_bucket(), make_bucket()
    for number in range(bucket.limit):
        assert stores[number % 2].attempt([bucket]) is None
    for store in stores * 3:
        refused = store.attempt([bucket])
        assert refused is not None
        assert refused[0] == bucket
        assert 290 < refused[1] <= 300
    assert stores[0].attempt([other]) is None


def test_bucket_admits_exactly_its_limit_of_concurrent_attempts(stores: Stores) -> None:
    one, total = make_bucket(7), make_bucket(20)

    def attempt(number: int) -> bool:
        return stores[number % 2].attempt([one, total]) is None

    with ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(attempt, range(30))) == 7
    assert [stores[0].attempt([total]) for _ in range(13)] == [None] * 13
    assert is_full(stores[1], total)


@waiting
def test_bucket_drains_with_time(stores: Stores) -> None:
    bucket, brief = make_bucket(2, 3.0), make_bucket(1, 1.4)
    for one in (brief, bucket):  # the brief one first: its window ends before a slot of the other is free
        fill(stores[0], one)
    refused = stores[1].attempt([bucket])
    assert refused is not None
    time.sleep(refused[1] + 0.02)
    assert stores[1].attempt([bucket]) is None
    assert is_full(stores[0], bucket)
    fill(stores[1], brief)  # its window is over, so it is empty
    assert is_full(stores[0], brief)


def test_refused_attempt_counts_in_no_bucket(stores: Stores) -> None:
    full, before, behind = make_bucket(), make_bucket(), make_bucket()
    fill(stores[0], full)
    for _ in range(10):
        refused = stores[1].attempt([before, full, behind])
        assert refused is not None
        assert refused[0] == full
    for bucket in (before, behind):
        fill(stores[0], bucket)


def test_forgiven_attempt_does_not_count(stores: Stores) -> None:
    bucket, other, never = make_bucket(), make_bucket(), make_bucket()
    for _ in range(10):
        assert stores[0].attempt([bucket, other]) is None
        stores[1].forgive([bucket, other, never], note="x", for_s=1)
    for one in (bucket, other, never):
        fill(stores[0], one)
        assert is_full(stores[1], one), "forgiving must not raise the limit"


@waiting
def test_bucket_is_skipped_while_its_note_lasts(stores: Stores) -> None:
    note = f"note-{next(NUMBERS)}"
    bucket = make_bucket(unless=note)
    fill(stores[0], bucket)
    stores[0].forgive([], note=note, for_s=1.5)
    stores[1].forgive([], note="another", for_s=600)
    for _ in range(5):
        assert stores[1].attempt([bucket]) is None
    assert is_full(stores[1], Bucket(bucket.key, bucket.limit, bucket.window_s, unless="a third"))
    time.sleep(1.6)
    assert is_full(stores[1], bucket)


def test_sweep_keeps_full_buckets_up_to_limit(stores: Stores) -> None:
    full, others = make_bucket(), [make_bucket() for _ in range(5)]
    fill(stores[0], full)
    for bucket in others:
        assert stores[0].attempt([bucket]) is None
    stores[0].sweep(1000)
    for bucket in others[:2]:
        assert [stores[0].attempt([bucket]) for _ in range(2)] == [None, None]
        assert is_full(stores[0], bucket)
    stores[1].sweep(1)
    assert any(is_full(stores[0], bucket) for bucket in (full, *others[:2]))
    for bucket in others[2:]:
        fill(stores[0], bucket)
