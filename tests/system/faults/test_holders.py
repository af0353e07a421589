"""Of servers over one library one looks after it, and another goes on when that one is killed or stopped."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.storage.leases import LASTS_S
from tests.support import NewLibrary, Server, each_backend, running

pytestmark = [pytest.mark.campaign, each_backend]  # tests/contracts/test_leases.py has shorter leases

Until = Callable[..., bool]


@pytest.fixture
def two(tmp_path: Path, new_library: NewLibrary) -> Iterator[list[Server]]:
    settings = {"files_dir": tmp_path / "files", "scan_interval": 1, **new_library()}
    with ExitStack() as stack:
        yield [stack.enter_context(running(tmp_path / name, **settings)) for name in ("one", "two")]


def scans(server: Server) -> float:
    """How many it has ended since it was started."""
    with server.client() as http:
        lines = http.get("/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("seekable_scans_total{"))


def holder(two: list[Server], until: Until) -> tuple[Server, Server]:
    """Who scans, and the other."""
    assert until(lambda: any(map(scans, two)))
    return (two[0], two[1]) if scans(two[0]) else (two[1], two[0])


def test_another_goes_on_at_once_when_the_one_is_stopped(two: list[Server], until: Until) -> None:
    first, other = holder(two, until)
    time.sleep(1.2)
    assert scans(other) == 0
    first.stop()
    assert until(lambda: scans(other) > 0, within=LASTS_S / 3 + 3)


def test_another_goes_on_when_the_one_is_killed(two: list[Server], until: Until) -> None:
    first, other = holder(two, until)
    first.kill()
    killed = time.monotonic()
    assert until(lambda: scans(other) > 0, within=LASTS_S * 4 / 3 + 5)
    first.start()
    assert time.monotonic() < killed + 60
    before = scans(other)
    assert until(lambda: scans(other) > before)
    assert scans(first) == 0
