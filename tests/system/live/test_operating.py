"""Operating a server: metrics in Prometheus, logs in JSON, and delayed shutdown."""

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support import Server, find_external_addresses, need, noise, running
from tests.support.mongo import free_port
from tests.support.together import Outcomes, Together
from tests.system.live.clients import refuses_connections, until

pytestmark = pytest.mark.live

FILM = noise(1 << 20) * 12  # more than the buffers between server and client hold

slow = Together("slow")


@contextmanager
def prometheus(folder: Path, server: Server) -> Iterator[str]:
    """Run Prometheus, which scrapes the server five times a second. Yields its URL."""
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
        "scrape_configs:\n"
        f"- {{job_name: seekable, static_configs: [{{targets: ['127.0.0.1:{server.port}']}}]}}\n"
    )
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--scrape.discovery-reload-interval=100ms",  # the default is 5 s, twice
            ],
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def query_value(url: str, query: str) -> float | None:
    """Return the single value of a query. Returns None while Prometheus has no value or is starting."""
    try:
        response = httpx.get(f"{url}/api/v1/query", params={"query": query}, trust_env=False)
    except httpx.TransportError:
        return None
    if response.status_code == 503:  # Prometheus is starting
        return None
    result = response.raise_for_status().json()["data"]["result"]
    return float(result[0]["value"][1]) if len(result) == 1 else None


@pytest.fixture(scope="module", name="slow")
def begun_slow(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    with slow.begun(request, lambda name: (tmp_path_factory.mktemp(name),)) as outcomes:
        yield outcomes


@slow
def test_prometheus_scrapes_metrics(folder: Path) -> None:
    """Prometheus begins to scrape 5 s after its start."""
    need("prometheus", "promtool")
    with running(folder / "server") as server, server.client() as http:
        http.put("/files/films/film.mp4", content=FILM).raise_for_status()
        for start in range(3):
            http.get("/files/films/film.mp4", headers={"Range": f"bytes={start}-{start + 65535}"})
        http.get("/files/none").read()
        text = http.get("/metrics").text
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
        with prometheus(folder, server) as url:
            up = 'up{job="seekable"}'
            until(lambda: query_value(url, up) == 1, "a scrape")
            requests = 'seekable_http_requests_total{route="/files/{path}", status="206"}'
            until(lambda: query_value(url, requests) == 3, "the earlier requests are counted")
            assert query_value(url, 'seekable_http_sent_bytes_total{route="/files/{path}"}') >= 3 * 65536
            http.get("/files/films/film.mp4", headers={"Range": "bytes=0-0"})
            until(lambda: query_value(url, requests) == 4, "the next request is counted")
            quantile = "histogram_quantile(0.9, sum by (le) (seekable_backend_seconds_bucket))"
            assert 0 < query_value(url, quantile) < 10


@pytest.mark.parametrize(
    ("settings", "statuses"),
    [
        ({}, {"192.0.2.1": 403, "127.0.0.1": 403, None: 200}),
        ({"metrics": "open"}, {"127.0.0.1": 403}),
        ({"metrics": "off"}, {None: 404}),
        ({"access": "accounts"}, {"127.0.0.1": 403, None: 200}),
    ],
)
def test_metrics_access_depends_on_address_that_proxy_names(
    tmp_path: Path, settings: dict[str, str], statuses: dict[str | None, int]
) -> None:
    with running(tmp_path, **({"access": "open"} | settings)) as server, server.client() as http:
        for peer, status in statuses.items():
            response = http.get("/metrics", headers={"X-Forwarded-For": peer} if peer else {})
            assert response.status_code == status, peer
            assert ("seekable_build_info" in response.text) == (status == 200)


def test_open_metrics_are_served_to_direct_clients_only(
    tmp_path: Path,
) -> None:
    with running(tmp_path, access="open", host="0.0.0.0", metrics="open") as server:
        for address in find_external_addresses():
            url = f"http://{address}:{server.port}/metrics"
            assert "seekable_build_info" in httpx.get(url, trust_env=False).text
            for header in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Via"):
                assert httpx.get(url, headers={header: "1.1 a"}, trust_env=False).status_code == 403


# Logs


def test_request_id_is_equal_in_response_and_log(tmp_path: Path) -> None:
    with running(tmp_path) as server, server.client() as http:
        valid = http.get("/files/none", headers={"X-Request-ID": "given-1"})
        assert valid.headers["x-request-id"] == "given-1"
        invalid = http.get("/files/none2", headers={"X-Request-ID": 'odd "name'})
        generated = invalid.headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{12}-\d+", generated)
        assert "x-request-id" not in http.get("/health").headers
        health = http.get("/health", headers={"X-Request-ID": "given-0"})
        assert health.headers["x-request-id"] == "given-0"
        with socket.create_connection(("127.0.0.1", server.port)) as broken:
            broken.sendall(b"GET / HTTP/1.1\r\nX-Request-ID: given-2\r\nno colon\r\n\r\n")
            refused = broken.recv(4096)
        assert b" 400 " in refused
        assert b"x-request-id: " in refused
        until(lambda: server.log().count("/files/none") == 2, "both requests are logged")
        assert re.search(r'"GET /files/none HTTP/1.1" 404 in=0 out=\d+ s=\d.* id=given-1\n', server.log())
        assert re.search(rf'"GET /files/none2 HTTP/1.1" 404 .* id={generated}\n', server.log())


def test_json_log_has_one_object_per_line(tmp_path: Path) -> None:
    with running(tmp_path, log_format="json", prot="1") as server, server.client() as http:
        http.put("/files/film.mp4", content=FILM).raise_for_status()
        http.get("/files/film.mp4?link=secretsecret", headers={"X-Request-ID": "given"}).raise_for_status()
        http.get("/files/a%0A%1B%E2%80%A8").read()
        until(lambda: server.log().count('"GET"') >= 2, "both GETs are logged")
    lines = [json.loads(line) for line in server.log().splitlines()]
    assert all({"time", "level", "message"} <= line.keys() for line in lines)
    by_method = {line["method"]: line for line in lines if line.get("path", "").startswith("/files/film")}
    put, get = by_method["PUT"], by_method["GET"]
    assert (put["status"], put["received"]) == (201, len(FILM))
    assert (get["status"], get["bytes"], get["id"]) == (200, len(FILM), "given")
    assert get["path"] == "/files/film.mp4?link=..."
    assert 0 < get["duration"] < 60
    messages = " ".join(line["message"] for line in lines)
    assert "secretsecret" not in server.log()
    assert "SEEKABLE_PROT" in messages
    assert "Application shutdown complete" in messages


# Shutdown


@slow
def test_port_stays_open_until_shutdown_delay_ends(folder: Path) -> None:
    check_port_stays_open(folder, 5)


@slow
def test_second_signal_closes_port_at_once(folder: Path) -> None:
    check_port_stays_open(folder, 60, again=True)


def check_port_stays_open(folder: Path, delay: int, *, again: bool = False) -> None:
    """Check that the port accepts clients for `delay` seconds after the first signal, or until the second."""
    server = Server(folder, shutdown_delay=delay, shutdown_timeout=30).start()
    try:
        with server.client() as http, closing(socket.socket()) as stream:
            http.put("/files/film.mp4", content=FILM).raise_for_status()
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
            stream.settimeout(20)
            stream.connect(("127.0.0.1", server.port))
            stream.sendall(b"GET /files/film.mp4 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = stream.recv(1000)
            began = time.monotonic()
            server.process.terminate()
            until(lambda: http.get("/health/ready").status_code == 503, "the server is not ready")
            assert "stopped" in http.get("/health/ready").json()["detail"]
            with server.client() as new:
                assert new.get("/health/live").status_code == 200
                assert new.get("/files/film.mp4", headers={"Range": "bytes=0-9"}).content == FILM[:10]
            assert time.monotonic() - began < delay
            if again:
                server.process.send_signal(signal.SIGTERM)
            until(lambda: refuses_connections(server), "the port is closed", within=20)
            assert again or time.monotonic() - began >= delay
            assert server.process.poll() is None, "the server waits for the stream"
            while data := stream.recv(1 << 20):
                received += data
        assert received.partition(b"\r\n\r\n")[2] == FILM
        assert server.process.wait(10) == 0
        assert "broken off" not in server.log()
    finally:
        server.kill()
