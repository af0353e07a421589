"""Leases that are taken ahead for small uploads."""

import hashlib
from contextlib import ExitStack

from app.database.gridfs.lease_stock import MAX_AHEAD, USABLE_S, LeaseStock
from app.storage.types import SHARED, Expect, Key
from tests.unit.database.gridfs.conftest import Commands, Grid


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_leases_ahead_double_with_each_shortage_that_soon_follows_another(grid: Grid) -> None:
    clock = Clock()
    stock = LeaseStock(grid.backend.database, clock)
    assert [len(stock.order(1)) - 1 for _ in range(9)] == [0, 1, 2, 4, 8, 16, 32, 32, MAX_AHEAD]
    clock.now += USABLE_S
    assert [len(stock.order(3)) - 3 for _ in range(2)] == [0, 1]


def test_lease_is_used_once_and_only_in_its_first_half(grid: Grid) -> None:
    clock = Clock()
    stock = LeaseStock(grid.backend.database, clock)
    first, second = stock.order(1), stock.order(1)
    clock.now += USABLE_S / 2
    late = stock.order(2)
    stock.give([*first, *second, *late])
    assert stock.take(1) == first
    clock.now += USABLE_S / 2
    assert stock.take(10) == late
    assert stock.take(10) == []


def test_uploads_in_a_row_need_few_lease_commands_and_leave_none_at_the_end(commands: Commands) -> None:
    with ExitStack() as stack:
        grid = Grid(stack)
        for number in range(20):
            key, digest = Key(SHARED, "", f"{number}.mp4"), hashlib.sha256(b"film").hexdigest()
            grid.backend.store(key, b"film", sha256=digest, content_type="video/mp4", expect=Expect.ANY)
        assert sum(each.get("update") == "media.uploads" for each in commands.sent) == 5
        assert len(grid.paths()) == 20
    assert grid.database["media.uploads"].count_documents({}) == 0
