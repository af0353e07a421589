"""Connection limits: excess connections are refused, and the others are served."""

import contextlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from app.server.connection_limits import connections_within
from tests.http.conftest import RawConnection
from tests.support import Server, find_external_addresses, need, noise, running
from tests.support.sockets import Socket
from tests.system.live.clients import until

pytestmark = pytest.mark.live

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def request_health(connection: RawConnection) -> int | None:
    """Return the status of GET /health on the connection, or None if the server closes it instead."""
    with contextlib.suppress(ConnectionError):
        connection.send(GET)
        return connection.receive_response().status_code
    return None


def connect_for_health(server: Server, address: str = "127.0.0.1") -> int | None:
    with closing(RawConnection(address, server.port)) as connection:
        return request_health(connection)


def test_connections_of_one_address_are_limited_and_others_are_served(tmp_path: Path) -> None:
    (outside, *_) = find_external_addresses() or pytest.skip("This machine has no address but loopback.")
    settings = {"access": "open", "host": "0.0.0.0", "keepalive_timeout": 60}
    with running(tmp_path, max_connections_per_peer=5, **settings) as server, ExitStack() as stack:
        before = server.logged()
        held = [stack.enter_context(closing(RawConnection(outside, server.port))) for _ in range(4)]
        assert [request_health(connection) for connection in held] == [200] * 4
        socket = stack.enter_context(Socket(server, "/events", address=outside))
        assert socket.status == 101, "a WebSocket counts as well"
        began = time.monotonic()
        assert {connect_for_health(server, outside) for _ in range(50)} <= {503, None}
        assert [connect_for_health(server) for _ in range(50)] == [200] * 50, "loopback is exempt"
        assert time.monotonic() - began < 5
        lines = [line for line in server.log(before).splitlines() if "was refused" in line]
        assert f"A connection from {outside} was refused: At most 5 connections" in lines[0]
        assert len(lines) <= 1 + (time.monotonic() - began)
        held[0].close()
        until(lambda: connect_for_health(server, outside) == 200, "a connection is accepted again")
        held.append(stack.enter_context(closing(RawConnection(outside, server.port))))
        assert request_health(held[-1]) == 200
        socket.socket.close()
        until(
            lambda: connect_for_health(server, outside) == 200,
            "a connection is accepted in place of the WebSocket",
        )


def test_trusted_proxy_has_no_connection_limit(tmp_path: Path) -> None:
    (outside, *_) = find_external_addresses() or pytest.skip("This machine has no address but loopback.")
    settings = {"access": "open", "host": "0.0.0.0", "trusted_proxies": outside}
    with running(tmp_path, max_connections_per_peer=1, **settings) as server, ExitStack() as stack:
        for _ in range(3):
            connection = stack.enter_context(closing(RawConnection(outside, server.port)))
            assert request_health(connection) == 200


def test_refused_connection_gets_503_with_reason(tmp_path: Path) -> None:
    with running(tmp_path, max_connections=1) as server:
        with closing(RawConnection("127.0.0.1", server.port)) as held:
            assert request_health(held) == 200
            with closing(RawConnection("127.0.0.1", server.port)) as refused:
                response = refused.receive_response()
                assert response.status_code == 503
                assert (
                    response.json()["detail"] == "Too many connections are open. Try again in a few seconds."
                )
                assert response.headers["retry-after"] == "5"
                assert refused.is_closed()
        until(lambda: connect_for_health(server) == 200, "a connection is accepted again")


@pytest.fixture
def limited_server(tmp_path: Path) -> Iterator[Server]:
    """A server with a low limit of open file descriptors."""
    need("prlimit")
    server = Server(tmp_path)
    server.wrapper = ("prlimit", f"--nofile={DESCRIPTORS}")
    try:
        yield server.start()
    finally:
        server.stop()


DESCRIPTORS = 464
MAX_CONNECTIONS = connections_within(DESCRIPTORS)


def test_descriptors_suffice_for_every_accepted_reader(limited_server: Server) -> None:
    """Each stalled reader holds an open file as well, and the server can still open one more."""
    film = noise(8 << 20)
    with limited_server.client() as http:
        http.put("/files/film.mp4", content=film).raise_for_status()
    with ExitStack() as stack:
        readers = []
        for _ in range(MAX_CONNECTIONS - 1):
            reader = stack.enter_context(closing(RawConnection("127.0.0.1", limited_server.port, 4096)))
            reader.request("GET", "/files/film.mp4")
            reader.receive_more()
            readers.append(reader)
        with httpx.Client(base_url=limited_server.url, trust_env=False) as http:
            assert http.get("/files/film.mp4").content == film
            assert http.put("/files/new.mp4", content=film).status_code == 201
            assert {connect_for_health(limited_server) for _ in range(300)} <= {503, None}
            assert http.get("/health").status_code == 200
        readers[0].close()
        until(lambda: connect_for_health(limited_server) == 200, "a connection is accepted again")
    assert "Too many open files" not in limited_server.log()
