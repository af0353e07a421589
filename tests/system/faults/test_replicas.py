"""Equal servers behind nginx, which are stopped and started again, and whose database is lost, while a crowd
uploads, watches, replaces, deletes and lists: no answer is wrong, and nothing acknowledged is lost."""

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
from tests.support.together import Outcomes, Together
from tests.system.faults.crowd import Crowd
from tests.system.live.clients import until
from tests.system.live.proxies import HOST, Proxy, proxy

SHORTLY = 9, 2.0
A_MINUTE = 30, 60.0
"""So many clients, for at least so many seconds."""

together = Together("crowds")

USUAL = {"allowed_hosts": HOST, "shutdown_timeout": 1}  # so that downloads are broken off

TRIES = 10

LOGS = 64 << 20
"""Bytes that nginx may write of servers that it cannot reach."""


@contextmanager
def replicas(folder: Path, number: int, **settings: Any) -> Iterator[tuple[list[Server], Proxy]]:
    """Equal servers, and nginx with the sample configuration in front of them."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running(folder / str(each), **USUAL, **settings)) for each in range(number)
        ]
        first = f"server 127.0.0.1:{servers[0].port};"
        all_of_them = "".join(f"server 127.0.0.1:{each.port} fail_timeout=1s;" for each in servers)
        front = proxy("nginx", servers[0], folder / "front", edit=(first, all_of_them), max_file_size=LOGS)
        yield servers, stack.enter_context(front)


def stopped_and_started(server: Server) -> None:
    """As a rollout does."""
    port = server.port
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=60) == 0
    server.start("--port", str(port))


def survives(
    servers: list[Server], front: Proxy, clients: int, seconds: float, harm: Callable[[], None]
) -> None:
    """A server is stopped and started, then harm is done, and then another server is."""
    crowd = Crowd(front.client, clients)
    with crowd.busy():
        for happens in (
            lambda: stopped_and_started(servers[1]),
            harm,
            lambda: stopped_and_started(servers[0]),
        ):
            time.sleep(seconds / 4)
            before = crowd.succeeded()
            happens()
            until(lambda enough=before + clients: crowd.succeeded() > enough, "it goes on")
        time.sleep(seconds / 4)
        for number in range(TRIES):  # perhaps nobody watched it there just then
            if crowd.broken:
                break
            stopped_and_started(servers[number % len(servers)])
            time.sleep(seconds / 4)
        assert crowd.broken, "somebody watched, and it broke off"
        until(lambda: crowd.mended > 0, "it was watched to its end", within=60)
        until(lambda: min(crowd.outcomes[status] for status in (200, 201, 204)) > clients // 3, "of each")
    print(dict(crowd.outcomes), "mended by a range:", crowd.mended)
    for server in servers:
        with server.client() as http:
            crowd.check_stored(http)
        assert "Traceback" not in server.log()
    assert crowd.faults == []


def hears_of_an_upload_through_another(servers: list[Server]) -> None:
    """Within a second, unless all else on this machine is in the way."""
    here, there = servers[0], servers[-1]
    with Socket(here, "/events") as events, there.client() as http:
        assert events.json() == {"type": "resync"}
        time.sleep(0.5)  # for what is still told of the crowd
        took = []
        while not took or (took[-1] >= 1 and len(took) < TRIES):
            name = f"told {len(took)}.mp4"
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

            def harm() -> None:
                primary = nodes.primary()
                primary.kill()
                assert nodes.primary() is not primary

            survives(servers, front, clients, seconds, harm)
            hears_of_an_upload_through_another(servers)


def two_servers_on_one_postgresql_and_one_folder(folder: Path, clients: int, seconds: float) -> None:
    with postgres() as database:
        settings = {**filesystem(), "database_url": database.new_library(), "files_dir": folder / "films"}
        with replicas(folder, 2, **settings) as (servers, front):

            def harm() -> None:
                database.crash()
                time.sleep(1)
                database.start()

            survives(servers, front, clients, seconds, harm)
            hears_of_an_upload_through_another(servers)


@pytest.fixture(scope="module")
def crowds(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    with together.begun(request, lambda name: (tmp_path_factory.mktemp(name),)) as outcomes:
        yield outcomes


@together
def test_three_servers_on_three_mongods(folder: Path) -> None:
    three_servers_on_three_mongods(folder, *SHORTLY)


@together
def test_two_servers_on_one_postgresql_and_one_folder(folder: Path) -> None:
    two_servers_on_one_postgresql_and_one_folder(folder, *SHORTLY)


@pytest.mark.campaign
@pytest.mark.parametrize(
    "case", [three_servers_on_three_mongods, two_servers_on_one_postgresql_and_one_folder]
)
def test_for_a_minute(tmp_path: Path, case: Callable[[Path, int, float], None]) -> None:
    case(tmp_path, *A_MINUTE)
