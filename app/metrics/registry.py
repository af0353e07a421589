"""Everything that is counted, as Prometheus reads it. Names are an interface: dashboards hold on to them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from app.metrics.request_counters import BUCKETS, Answers, Requests
from app.storage.async_storage import Observer
from app.storage.maintenance import ScanOutcome, ScanStep

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Those that are told apart; there are thirty more that the HTTP parser knows."""

BACKEND_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

Queues = Callable[[], Iterable[tuple[str, Sequence[int]]]]
"""By kind of socket, how many messages wait for each one that is open."""


class Metrics(Observer):
    """The metrics that `GET /metrics` returns."""

    def __init__(self, requests: Requests, queues: Queues, *, version: str) -> None:
        # Or each of ours would have another that says when it began.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_Edge(requests, queues))
        build = Gauge("seekable_build_info", "1, with the version.", ["version"], registry=registry)
        build.labels(version).set(1)
        self._operations = Histogram(
            "seekable_backend_seconds",
            "Seconds that database and disk took, by operation. Opens that were answered from memory are not "
            "among them.",
            ["operation"],
            buckets=BACKEND_BUCKETS,
            registry=registry,
        )
        self._failed = Counter(
            "seekable_backend_failures_total",
            "Operations that database or disk did not carry out: no answer, no room, a gap.",
            ["operation"],
            registry=registry,
        )
        self._scans = Counter(
            "seekable_scans_total", "Scans of everything, by how they ended.", ["result"], registry=registry
        )
        self._scanned_at = Gauge(
            "seekable_last_scan_timestamp_seconds", "When a scan was last complete.", registry=registry
        )
        self._scanned = Counter(
            "seekable_scanned_files_total", "Stored files that scans looked at.", registry=registry
        )
        self._found = Counter(
            "seekable_scan_findings_total",
            "Files about which a scan did something, or would have, by what.",
            ["outcome"],
            registry=registry,
        )
        self._swept = Counter(
            "seekable_swept_total",
            "Pieces of debris that scans removed: of crashed uploads, and of versions that are over.",
            registry=registry,
        )
        self._hashed = Counter(
            "seekable_hashed_bytes_total", "Bytes hashed of files that nobody uploaded.", registry=registry
        )
        for outcome in ScanOutcome:
            self._found.labels(outcome.value)  # so that there is a 0 to begin with
        for result in ("complete", "failed"):
            self._scans.labels(result)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All of it in a format that this Accept takes, and its media type. Called by the event loop."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type

    def operation_ended(self, operation: str, seconds: float, *, failed: bool) -> None:
        self._operations.labels(operation).observe(seconds)
        if failed:
            self._failed.labels(operation).inc()

    def scanned(self, step: ScanStep) -> None:
        self._scanned.inc(step.files)
        self._swept.inc(step.swept)
        for finding in step.findings:
            self._found.labels(finding.outcome.value).inc()

    def scan_ended(self, *, failed: bool) -> None:
        self._scans.labels("failed" if failed else "complete").inc()
        if not failed:
            self._scanned_at.set_to_current_time()

    def hashed(self, size: int) -> None:
        self._hashed.inc(size)


class _Edge(Collector):
    """What the server counts by itself, and what can be seen of it at any moment."""

    def __init__(self, requests: Requests, queues: Queues) -> None:
        self._requests = requests
        self._queues = queues

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from _answered(self._requests.answers)
        yield from _moved(self._requests.moved())
        streams, uploads = self._requests.transfers()
        yield GaugeMetricFamily("seekable_active_streams", "Files that are being sent.", streams)
        yield GaugeMetricFamily("seekable_active_uploads", "Files that are being received.", uploads)
        yield from _waiting(self._queues())


def _answered(answers: dict[tuple[str, str, int], Answers]) -> Iterator[Metric]:
    """Requests, and how long they waited; both by method and route."""
    requests = CounterMetricFamily(
        "seekable_http_requests_total",
        "Requests that ended, by route; of those without a route none was found, or the server refused them. "
        "Status 0: the client left before there was an answer.",
        labels=["method", "route", "status"],
    )
    first_byte = HistogramMetricFamily(
        "seekable_http_first_byte_seconds",
        "Seconds from the end of a request's head to the first byte of the body of its answer.",
        labels=["method", "route"],
    )
    counts: dict[tuple[str, str, int], int] = {}
    waits: dict[tuple[str, str], tuple[list[int], float]] = {}
    for (method, route, status), found in answers.items():
        known = method if method in METHODS else "other"
        counts[known, route, status] = counts.get((known, route, status), 0) + found.count
        if any(found.buckets):
            buckets, waited = waits.get((known, route), ([0] * len(found.buckets), 0.0))
            total = [one + other for one, other in zip(buckets, found.buckets, strict=True)]
            waits[known, route] = total, waited + found.waited
    for (method, route, status), count in counts.items():
        requests.add_metric([method, route, str(status)], count)
    ends = [*map(str, BUCKETS), "+Inf"]
    for labels, (buckets, waited) in waits.items():
        first_byte.add_metric(labels, [*zip(ends, accumulate(buckets), strict=True)], waited)
    yield requests
    yield first_byte


def _moved(moved: dict[str, tuple[int, int]]) -> Iterator[Metric]:
    received = CounterMetricFamily(
        "seekable_http_received_bytes_total", "Bytes of the bodies of requests, by route.", labels=["route"]
    )
    sent = CounterMetricFamily(
        "seekable_http_sent_bytes_total",
        "Bytes of the bodies of answers, by route, with those that the kernel sent without a copy.",
        labels=["route"],
    )
    for route, (came, went) in moved.items():
        received.add_metric([route], came)
        sent.add_metric([route], went)
    yield received
    yield sent


def _waiting(queues: Iterable[tuple[str, Sequence[int]]]) -> Iterator[Metric]:
    sockets = GaugeMetricFamily("seekable_sockets", "WebSockets that are open, by kind.", labels=["kind"])
    messages = GaugeMetricFamily(
        "seekable_socket_queue_messages", "Messages that wait for WebSockets to take them.", labels=["kind"]
    )
    longest = GaugeMetricFamily(
        "seekable_socket_queue_longest", "Messages that wait for the slowest WebSocket.", labels=["kind"]
    )
    for kind, lengths in queues:
        sockets.add_metric([kind], len(lengths))
        messages.add_metric([kind], sum(lengths))
        longest.add_metric([kind], max(lengths, default=0))
    yield sockets
    yield messages
    yield longest
