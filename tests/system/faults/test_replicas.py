"""Several servers of one library behind nginx, while many clients upload, download, replace, delete and list.
Servers restart and the database crashes; no response is wrong, and no acknowledged change is lost."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import filesystem
from tests.support import Server, running
from tests.support.mongo import three_nodes
from tests.support.postgres import postgres
from tests.support.sockets import Socket
from tests.system.faults.crowd import Crowd
from tests.system.live.clients import until
from tests.system.live.proxies import HOST, Proxy, proxy

SHORT = 9, 2.0
LONG = 30, 60.0
"""Clients, and the least duration in seconds."""

SETTINGS = {"allowed_hosts": HOST, "shutdown_timeout": 1}  # short, so that restarts abort downloads

ATTEMPTS = 10

MAX_LOG_BYTES = 64 << 20
"""Bytes that nginx may log about servers that it cannot reach."""


@contextmanager
def replicas(folder: Path, number: int, **settings: Any) -> Iterator[tuple[list[Server], Proxy]]:
    """Run servers of one library, and nginx with the sample configuration in front of them."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running(folder / str(each), **SETTINGS, **settings)) for each in range(number)
        ]
        first = f"server 127.0.0.1:{servers[0].port};"
        upstreams = "".join(f"server 127.0.0.1:{each.port} fail_timeout=1s;" for each in servers)
        front = proxy(
            "nginx", servers[0], folder / "front", edit=(first, upstreams), max_file_size=MAX_LOG_BYTES
        )
        yield servers, stack.enter_context(front)


def restart(server: Server) -> None:
    """Stop and start a server on the same port, as a rollout does."""
    port = server.port
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=60) == 0
    server.start("--port", str(port))


def check_survival(
    servers: list[Server], front: Proxy, clients: int, seconds: float, crash_database: Callable[[], None]
) -> None:
    """Restart a server, crash the database, and restart another server, while the clients run."""
    crowd = Crowd(front.client, clients)
    with crowd.working():
        for disturb in (
            lambda: restart(servers[1]),
            crash_database,
            lambda: restart(servers[0]),
        ):
            time.sleep(seconds / 4)
            before = crowd.succeeded()
            disturb()
            until(lambda minimum=before + clients: crowd.succeeded() > minimum, "more requests succeed")
        time.sleep(seconds / 4)
        for number in range(ATTEMPTS):  # perhaps no client was downloading the film from that server
            if crowd.interrupted:
                break
            restart(servers[number % len(servers)])
            time.sleep(seconds / 4)
        assert crowd.interrupted, "no download of the long film was interrupted"
        until(lambda: crowd.resumed > 0, "an interrupted download completes", within=60)
        until(
            lambda: min(crowd.outcomes[status] for status in (200, 201, 204)) > clients // 3,
            "requests of each kind succeed",
        )
    print(dict(crowd.outcomes), "resumed by a range:", crowd.resumed)
    for server in servers:
        with server.client() as http:
            crowd.check_stored(http)
        assert "Traceback" not in server.log()
    print(*crowd.violations, sep="\n")
    assert crowd.violations == []


def check_events_of_another_server(servers: list[Server]) -> None:
    """Assert that the event of an upload reaches a client of another server within a second, in ten tries."""
    listening_server, uploading_server = servers[0], servers[-1]
    with Socket(listening_server, "/events") as events, uploading_server.client() as http:
        assert events.json() == {"type": "resync"}
        time.sleep(0.5)  # for late events of the crowd's changes
        took = []
        while not took or (took[-1] >= 1 and len(took) < ATTEMPTS):
            name = f"event {len(took)}.mp4"
            began = time.monotonic()
            http.put(f"/files/{name}", content=b"film").raise_for_status()
            while (event := events.json()).get("path") != name:
                pass
            assert event["type"] == "file.created"
            took.append(time.monotonic() - began)
        assert took[-1] < 1, took


def three_servers_on_three_mongods(folder: Path, clients: int, seconds: float) -> None:
    with three_nodes() as nodes:
        settings = {"storage": "gridfs", "mongodb_url": nodes.url("films")}
        with replicas(folder, 3, **settings) as (servers, front):

            def crash_database() -> None:
                primary = nodes.primary()
                primary.kill()
                assert nodes.primary() is not primary

            check_survival(servers, front, clients, seconds, crash_database)
            check_events_of_another_server(servers)


def two_servers_on_one_postgresql(folder: Path, clients: int, seconds: float) -> None:
    with postgres() as database:
        settings = {**filesystem(), "database_url": database.new_library(), "files_dir": folder / "films"}
        with replicas(folder, 2, **settings) as (servers, front):

            def crash_database() -> None:
                database.crash()
                time.sleep(1)
                database.start()

            check_survival(servers, front, clients, seconds, crash_database)
            check_events_of_another_server(servers)


def test_two_servers_on_one_postgresql_survive_failures(tmp_path: Path) -> None:
    """The short version; test_gridfs_failover.py has that of a failover of MongoDB."""
    two_servers_on_one_postgresql(tmp_path, *SHORT)


@pytest.mark.campaign
@pytest.mark.parametrize("case", [three_servers_on_three_mongods, two_servers_on_one_postgresql])
def test_servers_survive_failures_for_a_minute(
    tmp_path: Path, case: Callable[[Path, int, float], None]
) -> None:
    case(tmp_path, *LONG)
