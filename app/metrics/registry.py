"""All metrics in Prometheus's format. Their names are an interface: dashboards depend on them."""

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

from app.metrics.request_counters import BUCKETS, RequestCounters, Totals
from app.storage.async_storage import Observer
from app.storage.maintenance import ScanOutcome, ScanStep

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Methods with a label of their own; the HTTP parser accepts thirty more."""

BACKEND_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds in seconds of the histogram of backend operations."""

Queues = Callable[[], Iterable[tuple[str, Sequence[int]]]]
"""Returns each kind of socket with the lengths of the queues of its open sockets."""


class Metrics(Observer):
    """The metrics that `GET /metrics` returns."""

    def __init__(self, requests: RequestCounters, queues: Queues, *, version: str) -> None:
        # Otherwise each counter has a second one for the time of its creation.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_RequestCollector(requests, queues))
        build = Gauge("seekable_build_info", "1, labelled with the version.", ["version"], registry=registry)
        build.labels(version).set(1)
        self._operations = Histogram(
            "seekable_backend_seconds",
            "Seconds of database and disk operations. Files that were opened from the cache are not counted.",
            ["operation"],
            buckets=BACKEND_BUCKETS,
            registry=registry,
        )
        self._failures = Counter(
            "seekable_backend_failures_total",
            "Operations that failed because the database or the disk was unavailable, full or damaged.",
            ["operation"],
            registry=registry,
        )
        self._scans = Counter("seekable_scans_total", "Scans by result.", ["result"], registry=registry)
        self._scanned_at = Gauge(
            "seekable_last_scan_timestamp_seconds",
            "Time at which the last complete scan ended.",
            registry=registry,
        )
        self._scanned = Counter(
            "seekable_scanned_files_total", "Stored files that scans examined.", registry=registry
        )
        self._findings = Counter(
            "seekable_scan_findings_total",
            "Files that scans acted on or could not, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self._swept = Counter(
            "seekable_swept_total",
            "Leftovers of crashed uploads and of replaced versions that scans removed.",
            registry=registry,
        )
        self._hashed = Counter(
            "seekable_hashed_bytes_total", "Bytes hashed of files that were not uploaded.", registry=registry
        )
        for outcome in ScanOutcome:
            self._findings.labels(outcome.value)  # so that each label starts at 0
        for result in ("complete", "failed"):
            self._scans.labels(result)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics in an accepted format, and its media type. Called from the event loop only."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type

    def operation_ended(self, operation: str, seconds: float, *, failed: bool) -> None:
        self._operations.labels(operation).observe(seconds)
        if failed:
            self._failures.labels(operation).inc()

    def scanned(self, step: ScanStep) -> None:
        self._scanned.inc(step.files)
        self._swept.inc(step.swept)
        for finding in step.findings:
            self._findings.labels(finding.outcome.value).inc()

    def scan_ended(self, *, failed: bool) -> None:
        self._scans.labels("failed" if failed else "complete").inc()
        if not failed:
            self._scanned_at.set_to_current_time()

    def hashed(self, size: int) -> None:
        self._hashed.inc(size)


class _RequestCollector(Collector):
    """Metrics of requests and sockets, which are computed when they are requested."""

    def __init__(self, requests: RequestCounters, queues: Queues) -> None:
        self._requests = requests
        self._queues = queues

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from _completed(self._requests.totals)
        repeated = (
            "Responses that the server repeated without the application, which differed in their range."
        )
        yield CounterMetricFamily("seekable_http_repeated_total", repeated, self._requests.repeated)
        yield from _bytes(self._requests.bytes_by_route())
        streams, uploads = self._requests.count_transfers()
        yield GaugeMetricFamily("seekable_active_streams", "Files that are being sent.", streams)
        yield GaugeMetricFamily("seekable_active_uploads", "Files that are being received.", uploads)
        yield from _sockets(self._queues())


def _completed(all_totals: dict[tuple[str, str, int], Totals]) -> Iterator[Metric]:
    """Yield the counter of requests and the histogram of first bytes, by method and route."""
    requests = CounterMetricFamily(
        "seekable_http_requests_total",
        "Completed requests. The route is empty if none matched or the server refused the request. "
        "The status is 0 if the client left before the response.",
        labels=["method", "route", "status"],
    )
    first_byte = HistogramMetricFamily(
        "seekable_http_first_byte_seconds",
        "Seconds from the end of a request's head to the first byte of the response's body.",
        labels=["method", "route"],
    )
    counts: dict[tuple[str, str, int], int] = {}
    histograms: dict[tuple[str, str], tuple[list[int], float]] = {}
    for (method, route, status), totals in all_totals.items():
        known = method if method in METHODS else "other"
        counts[known, route, status] = counts.get((known, route, status), 0) + totals.count
        if any(totals.buckets):
            buckets, seconds = histograms.get((known, route), ([0] * len(totals.buckets), 0.0))
            sums = [one + other for one, other in zip(buckets, totals.buckets, strict=True)]
            histograms[known, route] = sums, seconds + totals.first_bytes_s
    for (method, route, status), count in counts.items():
        requests.add_metric([method, route, str(status)], count)
    bounds = [*map(str, BUCKETS), "+Inf"]
    for labels, (buckets, seconds) in histograms.items():
        first_byte.add_metric(labels, [*zip(bounds, accumulate(buckets), strict=True)], seconds)
    yield requests
    yield first_byte


def _bytes(by_route: dict[str, tuple[int, int]]) -> Iterator[Metric]:
    received = CounterMetricFamily(
        "seekable_http_received_bytes_total", "Bytes received in the bodies of requests.", labels=["route"]
    )
    sent = CounterMetricFamily(
        "seekable_http_sent_bytes_total",
        "Bytes sent in the bodies of responses, those that the kernel sends without a copy included.",
        labels=["route"],
    )
    for route, (received_bytes, sent_bytes) in by_route.items():
        received.add_metric([route], received_bytes)
        sent.add_metric([route], sent_bytes)
    yield received
    yield sent


def _sockets(queues: Iterable[tuple[str, Sequence[int]]]) -> Iterator[Metric]:
    sockets = GaugeMetricFamily("seekable_sockets", "Open WebSockets by kind.", labels=["kind"])
    messages = GaugeMetricFamily(
        "seekable_socket_queue_messages", "Messages in the queues of WebSockets.", labels=["kind"]
    )
    longest = GaugeMetricFamily(
        "seekable_socket_queue_longest", "Messages in the queue of the slowest WebSocket.", labels=["kind"]
    )
    for kind, lengths in queues:
        sockets.add_metric([kind], len(lengths))
        messages.add_metric([kind], sum(lengths))
        longest.add_metric([kind], max(lengths, default=0))
    yield sockets
    yield messages
    yield longest
