"""What GET /metrics says after requests, over each backend."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.http.conftest import RawConnection
from tests.support import NewLibrary, Server, each_backend, noise, running
from tests.support.sockets import Socket

FILM = noise(1 << 20)


def read(http: httpx.Client) -> dict[str, float]:
    text = http.get("/metrics").raise_for_status().text
    found = (re.fullmatch(r"(\w+(?:\{.*\})?) (\S+)", line) for line in text.splitlines() if line[:1] != "#")
    return {match[1]: float(match[2]) for match in found if match is not None}


def grown(http: httpx.Client, before: dict[str, float], wanted: dict[str, float]) -> bool:
    """Whether each has grown by so much; a request is counted just after its client has its answer."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        now = read(http)
        if all(now.get(name, 0) - before.get(name, 0) == growth for name, growth in wanted.items()):
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def alone(tmp_path: Path, new_library: NewLibrary) -> Iterator[httpx.Client]:
    """A client of a server that no other test uses: requests of those may still be counted."""
    with running(tmp_path, **new_library()) as server, server.client() as http:
        yield http


@each_backend
def test_transfers_are_counted_to_the_byte(alone: httpx.Client) -> None:
    http, folder = alone, "films"
    before = read(http)
    path = f"/files/{folder}/film.mp4"
    responses = [
        http.put(path, content=FILM),
        http.put(path, content=b"refused", headers={"If-None-Match": "*"}),
        http.get(path),
        http.get(path, headers={"Range": "bytes=100000-165535"}),
        http.get(path, headers={"Range": "bytes=0-9,20-29"}),
        http.head(path),
    ]
    assert [response.status_code for response in responses] == [201, 412, 200, 206, 206, 200]
    assert len(responses[2].content) == len(FILM)
    template = 'route="/files/{path}"'

    def counted(method: str, status: int) -> str:
        return f'seekable_http_requests_total{{method="{method}",{template},status="{status}"}}'

    wanted = {
        counted("PUT", 201): 1,
        counted("PUT", 412): 1,
        counted("GET", 200): 1,
        counted("GET", 206): 2,
        counted("HEAD", 200): 1,
        f"seekable_http_received_bytes_total{{{template}}}": len(FILM),
        f"seekable_http_sent_bytes_total{{{template}}}": sum(len(response.content) for response in responses),
        f'seekable_http_first_byte_seconds_count{{method="GET",{template}}}': 3,
        'seekable_backend_seconds_count{operation="commit"}': 1,
    }
    if not grown(http, before, wanted):
        now = read(http)
        growth = {name: now.get(name, 0) - before.get(name, 0) for name in wanted}
        assert {name: by for name, by in growth.items() if by != wanted[name]} == {}
    assert not any(folder in name for name in read(http)), "labels are bounded"


def test_what_is_under_way_and_what_waits_is_seen(
    server: Server, http: httpx.Client, folder: str, connect: Callable[..., RawConnection]
) -> None:
    connection = connect()
    connection.send(
        f"PUT /files/{folder}/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n12345".encode()
    )
    socket = Socket(server, "/events")
    try:
        assert grown(http, {}, {"seekable_active_uploads": 1})
        assert read(http)['seekable_sockets{kind="events"}'] >= 1
        assert 'seekable_socket_queue_longest{kind="session"}' in read(http)
    finally:
        socket.socket.close()
        connection.close()


def test_they_are_for_programs_of_both_kinds(http: httpx.Client) -> None:
    plain = http.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    assert plain.headers["cache-control"] == "no-store"
    metrics = http.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert metrics.text.endswith("# EOF\n")
    assert http.head("/metrics").status_code == 200
