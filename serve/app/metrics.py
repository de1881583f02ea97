"""Figures of a replica, which Ray exports for Prometheus (``ray_digiq_*``), each with its deployment and replica."""

from __future__ import annotations

from ray.serve import metrics

_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
_ROWS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]


class Metrics:
    """Requests, seconds, tokens and batch sizes."""

    def __init__(self) -> None:
        self._requests = metrics.Counter(
            "digiq_requests_total", description="Requests answered.", tag_keys=("route", "status")
        )
        self._seconds = metrics.Histogram(
            "digiq_request_seconds",
            description="Time to the end of an answer.",
            boundaries=_SECONDS,
            tag_keys=("route",),
        )
        self._tokens = metrics.Counter("digiq_tokens_total", description="Tokens read and written.", tag_keys=("kind",))
        self._rows = metrics.Histogram(
            "digiq_batch_rows", description="Rows of a batch.", boundaries=_ROWS, tag_keys=("engine",)
        )
        self._in_flight = metrics.Gauge("digiq_requests_in_flight", description="Requests under way.")

    def request(self, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        self._requests.inc(1.0, {"route": route, "status": str(status)})
        self._seconds.observe(seconds, {"route": route})

    def tokens(self, *, prompt: int, completion: int) -> None:
        """Tokens of one request."""
        for kind, count in (("prompt", prompt), ("completion", completion)):
            if count:
                self._tokens.inc(float(count), {"kind": kind})

    def batch(self, engine: str, rows: int) -> None:
        """A batch begins."""
        self._rows.observe(float(rows), {"engine": engine})

    def in_flight(self, requests: int) -> None:
        """So many requests are under way."""
        self._in_flight.set(float(requests))
