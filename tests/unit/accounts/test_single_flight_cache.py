"""The cache of authentication: one load for concurrent look-ups, and no value from before an invalidation."""

import asyncio
from collections.abc import Callable

import pytest

from app.accounts.principals import SingleFlightCache

pytestmark = pytest.mark.anyio


class Source:
    """A source of values whose loads wait until they are released."""

    def __init__(self, *values: str | None) -> None:
        self._values = [*values]
        self.loads = 0
        self.released = asyncio.Event()

    async def load(self) -> str | None:
        value = self._values[self.loads]
        self.loads += 1
        await self.released.wait()
        return value


def new_cache(ttl_s: float = 60.0) -> SingleFlightCache[str, str]:
    return SingleFlightCache(ttl_s, 2)


async def test_concurrent_look_ups_share_one_load() -> None:
    cache, source = new_cache(), Source("value")
    tasks = [asyncio.create_task(cache.get("key", source.load)) for _ in range(5)]
    await asyncio.sleep(0)
    source.released.set()
    assert await asyncio.gather(*tasks) == ["value"] * 5
    assert await cache.get("key", source.load) == "value"
    assert source.loads == 1


async def test_load_continues_for_others_when_first_look_up_is_cancelled() -> None:
    cache, source = new_cache(), Source("value")
    first = asyncio.create_task(cache.get("key", source.load))
    await asyncio.sleep(0)
    second = asyncio.create_task(cache.get("key", source.load))
    await asyncio.sleep(0)
    first.cancel()
    source.released.set()
    assert await second == "value"
    assert source.loads == 1


@pytest.mark.parametrize("invalidate", [SingleFlightCache.clear, lambda cache: cache.discard("key")])
async def test_value_is_not_cached_when_key_is_invalidated_during_load(
    invalidate: Callable[[SingleFlightCache[str, str]], None],
) -> None:
    cache, source = new_cache(), Source("old", "new")
    first = asyncio.create_task(cache.get("key", source.load))
    await asyncio.sleep(0)
    invalidate(cache)
    source.released.set()
    assert await first == "old"
    assert await cache.get("key", source.load) == "new"
    assert source.loads == 2


async def test_none_is_not_cached() -> None:
    cache, source = new_cache(), Source(None, "value")
    source.released.set()
    assert await cache.get("key", source.load) is None
    assert await cache.get("key", source.load) == "value"


async def test_error_is_not_cached() -> None:
    cache, source = new_cache(), Source("value")
    source.released.set()

    async def fail() -> str:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await cache.get("key", fail)
    assert await cache.get("key", source.load) == "value"


async def test_value_is_loaded_again_when_it_has_expired() -> None:
    cache, source = new_cache(ttl_s=0.02), Source("old", "new")
    source.released.set()
    assert await cache.get("key", source.load) == "old"
    await asyncio.sleep(0.03)
    assert await cache.get("key", source.load) == "new"


async def test_cache_keeps_most_recently_used_keys() -> None:
    cache, source = new_cache(), Source(*"abcd")
    source.released.set()
    for key in ("a", "b", "a", "c"):
        assert await cache.get(key, source.load) == key
    assert await cache.get("a", source.load) == "a"
    assert source.loads == 3
    assert await cache.get("b", source.load) == "d"
