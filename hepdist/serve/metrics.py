"""Numbers about the server in Prometheus's text format; nothing about what it was sent."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Of one replica, since it started."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        """waiting: cases that wait for the model."""
        self._registry = CollectorRegistry()
        self._requests = Counter("hepdist_requests", "Requests answered.", ("path", "status"), registry=self._registry)
        self._seconds = Histogram(
            "hepdist_request_seconds", "From the first byte to the last.", ("path",), buckets=SECONDS, registry=self._registry
        )
        self._batch = Histogram("hepdist_batch_cases", "Cases of one forward pass.", buckets=SIZES, registry=self._registry)
        self._busy = Gauge("hepdist_requests_under_way", "Requests to predict that are not answered yet.", registry=self._registry)
        queue = Gauge("hepdist_queue_cases", "Cases that wait for the model.", registry=self._registry)
        queue.set_function(lambda: float(waiting()))

    def answered(self, path: str, status: int, seconds: float) -> None:
        """path: a route of the API, or 'other'."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, cases: int) -> None:
        self._batch.observe(cases)

    def under_way(self, requests: int) -> None:
        self._busy.set(requests)

    def text(self) -> bytes:
        return generate_latest(self._registry)
