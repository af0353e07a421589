"""Metrics of requests: which are counted, and that clients cannot add label values."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from app.metrics.registry import METHODS, Metrics
from app.metrics.request_counters import BUCKETS, STREAMS, UPLOADS, RequestCounters
from app.resources.application import routes
from app.storage.maintenance import ScanFinding, ScanOutcome, ScanStep


class FakeRequest:
    def __init__(self, method: str, route: str | None, *, received: int = 0, sent: int = 0) -> None:
        self.scope: dict[str, Any] = {"method": method}
        if route is not None:
            self.scope["route"] = SimpleNamespace(path_format=route)
        self.received, self.sent = received, sent


@pytest.fixture
def requests() -> RequestCounters:
    return RequestCounters()


@pytest.fixture
def metrics(requests: RequestCounters) -> Metrics:
    return Metrics(requests, lambda: [("session", [0, 3]), ("events", [])], version="1.2.3")


def samples(metrics: Metrics) -> Iterator[str]:
    text, media_type = metrics.exposition("")
    assert media_type.startswith("text/plain")
    return (line for line in text.decode().splitlines() if not line.startswith("#"))


def finish(requests: RequestCounters, request: FakeRequest, status: int, first_byte_s: float | None) -> None:
    requests.request_ended(request, status, first_byte_s, request.sent)


def test_requests_are_counted_by_route_and_status(requests: RequestCounters, metrics: Metrics) -> None:
    for status in (206, 206, 404):
        finish(requests, FakeRequest("GET", "/files/{path}", sent=1000), status, 0.002)
    finish(requests, FakeRequest("PUT", "/files/{path}", received=5000), 201, 0.3)
    finish(requests, FakeRequest("GET", None), 0, None)
    requests.request_refused(431)
    found = set(samples(metrics))
    assert {
        'seekable_http_requests_total{method="GET",route="/files/{path}",status="206"} 2.0',
        'seekable_http_requests_total{method="GET",route="/files/{path}",status="404"} 1.0',
        'seekable_http_requests_total{method="PUT",route="/files/{path}",status="201"} 1.0',
        'seekable_http_requests_total{method="GET",route="",status="0"} 1.0',
        'seekable_http_requests_total{method="other",route="",status="431"} 1.0',
        'seekable_http_sent_bytes_total{route="/files/{path}"} 3000.0',
        'seekable_http_received_bytes_total{route="/files/{path}"} 5000.0',
        'seekable_http_first_byte_seconds_bucket{le="0.001",method="GET",route="/files/{path}"} 0.0',
        'seekable_http_first_byte_seconds_bucket{le="0.0025",method="GET",route="/files/{path}"} 3.0',
        'seekable_http_first_byte_seconds_count{method="GET",route="/files/{path}"} 3.0',
        'seekable_http_first_byte_seconds_bucket{le="0.25",method="PUT",route="/files/{path}"} 0.0',
        'seekable_http_first_byte_seconds_bucket{le="0.5",method="PUT",route="/files/{path}"} 1.0',
    } <= found
    assert not any('method="GET",route=""' in line and "first_byte" in line for line in found)


def test_active_requests_and_sockets_are_exposed(requests: RequestCounters, metrics: Metrics) -> None:
    for request in (
        FakeRequest("GET", "/files/{path}", sent=70),
        FakeRequest("GET", "/stream/{id}", sent=5),
        FakeRequest("HEAD", "/stream/{id}"),
        FakeRequest("PUT", "/files/{path}", received=9),
        FakeRequest("GET", "/files"),
        FakeRequest("POST", None),
    ):
        requests.active.add(request)
    found = set(samples(metrics))
    assert {
        "seekable_active_streams 2.0",
        "seekable_http_repeated_total 0.0",
        "seekable_active_uploads 1.0",
        'seekable_http_sent_bytes_total{route="/files/{path}"} 70.0',
        'seekable_http_received_bytes_total{route="/files/{path}"} 9.0',
        'seekable_sockets{kind="session"} 2.0',
        'seekable_socket_queue_messages{kind="session"} 3.0',
        'seekable_socket_queue_longest{kind="session"} 3.0',
        'seekable_socket_queue_longest{kind="events"} 0.0',
    } <= found


@pytest.mark.parametrize("seconds", [0.0, *BUCKETS, 11.0, 1e6])
def test_every_duration_falls_into_its_buckets(
    requests: RequestCounters, metrics: Metrics, seconds: float
) -> None:
    finish(requests, FakeRequest("GET", "/files"), 200, seconds)
    within = {}
    for line in samples(metrics):
        if line.startswith("seekable_http_first_byte_seconds_bucket"):
            within[float(line.split('le="')[1].split('"')[0])] = line.endswith(" 1.0")
    assert within == {edge: seconds <= edge for edge in within}
    assert len(within) == len(BUCKETS) + 1


def test_unknown_methods_share_one_label(requests: RequestCounters, metrics: Metrics) -> None:
    for method in ("MKCOL", "PROPFIND", "SEARCH"):
        finish(requests, FakeRequest(method, None), 405, 0.001)
    assert 'seekable_http_requests_total{method="other",route="",status="405"} 3.0' in set(samples(metrics))


def test_stream_and_upload_routes_exist() -> None:
    existing = {
        (method, route.path_format)  # type: ignore[attr-defined]
        for route in routes(accounts=True, metrics="local")
        for method in getattr(route, "methods", None) or ()
    }
    assert {("GET", path) for path in STREAMS} | UPLOADS <= existing
    assert {method for method, _ in existing} <= METHODS


def test_scans_hashes_and_backend_calls_are_counted(metrics: Metrics) -> None:
    metrics.scanned(
        ScanStep(7, (ScanFinding("a", ScanOutcome.CREATED), ScanFinding("b", ScanOutcome.SKIPPED, "why")))
    )
    metrics.scan_ended(failed=False)
    metrics.hashed(4096)
    metrics.operation_ended("commit", 0.2, failed=True)
    found = set(samples(metrics))
    assert {
        "seekable_scanned_files_total 7.0",
        'seekable_scan_findings_total{outcome="created"} 1.0',
        'seekable_scan_findings_total{outcome="deleted"} 0.0',
        'seekable_scans_total{result="complete"} 1.0',
        'seekable_scans_total{result="failed"} 0.0',
        "seekable_hashed_bytes_total 4096.0",
        'seekable_backend_failures_total{operation="commit"} 1.0',
        'seekable_backend_seconds_bucket{le="0.25",operation="commit"} 1.0',
        'seekable_backend_seconds_bucket{le="0.1",operation="commit"} 0.0',
        'seekable_build_info{version="1.2.3"} 1.0',
    } <= found
