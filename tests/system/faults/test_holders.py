"""Of several servers over one library, one holds the maintenance lease; another takes over when it ends."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.storage.leases import LEASE_S
from tests.support import NewLibrary, Server, each_backend, running

pytestmark = [pytest.mark.campaign, each_backend]  # tests/contracts/test_leases.py covers shorter leases

Until = Callable[..., bool]


@pytest.fixture
def servers(tmp_path: Path, new_library: NewLibrary) -> Iterator[list[Server]]:
    settings = {"files_dir": tmp_path / "files", "scan_interval": 1, **new_library()}
    with ExitStack() as stack:
        yield [stack.enter_context(running(tmp_path / name, **settings)) for name in ("one", "two")]


def scans(server: Server) -> float:
    """Return the number of scans that the server has completed since its start."""
    with server.client() as http:
        lines = http.get("/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("seekable_scans_total{"))


def holder(servers: list[Server], until: Until) -> tuple[Server, Server]:
    """Return the server that scans, and the other one."""
    assert until(lambda: any(map(scans, servers)))
    return (servers[0], servers[1]) if scans(servers[0]) else (servers[1], servers[0])


def test_other_server_takes_over_at_once_when_holder_is_stopped(servers: list[Server], until: Until) -> None:
    holding, other = holder(servers, until)
    time.sleep(1.2)
    assert scans(other) == 0
    holding.stop()
    assert until(lambda: scans(other) > 0, within=LEASE_S / 3 + 3)


def test_other_server_takes_over_when_holder_is_killed(servers: list[Server], until: Until) -> None:
    holding, other = holder(servers, until)
    holding.kill()
    killed = time.monotonic()
    assert until(lambda: scans(other) > 0, within=LEASE_S * 4 / 3 + 5)
    holding.start()
    assert time.monotonic() < killed + 60
    before = scans(other)
    assert until(lambda: scans(other) > before)
    assert scans(holding) == 0
