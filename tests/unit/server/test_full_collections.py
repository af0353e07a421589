"""Full garbage collections: none under an ordinary load, and bounded garbage."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from app.server.serving import FullCollections


class Node:
    """An object that refers to itself, and holds memory."""

    def __init__(self, blocks: int = 0) -> None:
        self.itself = self
        self.blocks = [[] for _ in range(blocks)]  # type: ignore[var-annotated]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.enable()
    gc.unfreeze()


def old_garbage(blocks: int) -> "weakref.ref[Node]":
    """Return a reference to garbage that only a full collection finds."""
    node = Node(blocks)
    gc.collect(1)
    gc.collect(1)
    return weakref.ref(node)


def test_garbage_waits_until_memory_has_grown() -> None:
    collections = FullCollections(growth=100_000)
    collections.begin()
    small = old_garbage(1)
    collections.collect_if_grown()
    assert small() is not None
    large = old_garbage(150_000)
    collections.collect_if_grown()
    assert (small(), large()) == (None, None)


def test_collections_begin_after_a_start_without_them() -> None:
    gc.disable()
    FullCollections().begin()
    assert gc.isenabled()


def test_young_garbage_is_collected_without_full_collections() -> None:
    FullCollections().begin()
    before = gc.get_stats()
    for _ in range(200_000):
        node = Node()
    after = gc.get_stats()
    assert after[2]["collections"] == before[2]["collections"]
    assert sum(each["collected"] for each in after) - sum(each["collected"] for each in before) > 190_000
    del node
