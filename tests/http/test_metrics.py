"""GET /metrics after requests, on each backend."""

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


def read_metrics(http: httpx.Client) -> dict[str, float]:
    text = http.get("/metrics").raise_for_status().text
    samples = (re.fullmatch(r"(\w+(?:\{.*\})?) (\S+)", line) for line in text.splitlines() if line[:1] != "#")
    return {match[1]: float(match[2]) for match in samples if match is not None}


def has_grown(http: httpx.Client, before: dict[str, float], growths: dict[str, float]) -> bool:
    """Return whether all metrics grow by the wanted amounts within 10 s: the server counts after it
    responds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        now = read_metrics(http)
        if all(now.get(name, 0) - before.get(name, 0) == growth for name, growth in growths.items()):
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def own_http(tmp_path: Path, new_library: NewLibrary) -> Iterator[httpx.Client]:
    """A client of this test's own server: requests of other tests may still be counted on the shared one."""
    with running(tmp_path, **new_library()) as server, server.client() as http:
        yield http


@each_backend
def test_transfers_are_counted_to_the_byte(own_http: httpx.Client) -> None:
    http, folder = own_http, "films"
    before = read_metrics(http)
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

    def request_counter(method: str, status: int) -> str:
        return f'seekable_http_requests_total{{method="{method}",{template},status="{status}"}}'

    growths = {
        request_counter("PUT", 201): 1,
        request_counter("PUT", 412): 1,
        request_counter("GET", 200): 1,
        request_counter("GET", 206): 2,
        request_counter("HEAD", 200): 1,
        f"seekable_http_received_bytes_total{{{template}}}": len(FILM),
        f"seekable_http_sent_bytes_total{{{template}}}": sum(len(response.content) for response in responses),
        f'seekable_http_first_byte_seconds_count{{method="GET",{template}}}': 3,
        'seekable_backend_seconds_count{operation="commit"}': 1,
    }
    if not has_grown(http, before, growths):
        now = read_metrics(http)
        growth = {name: now.get(name, 0) - before.get(name, 0) for name in growths}
        assert {name: by for name, by in growth.items() if by != growths[name]} == {}
    assert not any(folder in name for name in read_metrics(http)), "label values are bounded"


def test_active_uploads_and_sockets_are_exposed(
    server: Server, http: httpx.Client, folder: str, connect: Callable[..., RawConnection]
) -> None:
    connection = connect()
    connection.send(
        f"PUT /files/{folder}/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n12345".encode()
    )
    socket = Socket(server, "/events")
    try:
        assert has_grown(http, {}, {"seekable_active_uploads": 1})
        assert read_metrics(http)['seekable_sockets{kind="events"}'] >= 1
        assert 'seekable_socket_queue_longest{kind="session"}' in read_metrics(http)
    finally:
        socket.socket.close()
        connection.close()


def test_metrics_are_served_in_prometheus_and_openmetrics_format(http: httpx.Client) -> None:
    plain = http.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    assert plain.headers["cache-control"] == "no-store"
    metrics = http.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert metrics.text.endswith("# EOF\n")
    assert http.head("/metrics").status_code == 200
