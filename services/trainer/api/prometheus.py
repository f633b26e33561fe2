"""The Prometheus metrics of the trainer. They are read from the stores at each scrape."""

from collections.abc import Callable, Iterator, Mapping

import structlog
from moodfood.trainer.v1 import trainer_pb2 as pb
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.trainer.errors import StorageFailed

_log = structlog.get_logger()


class TrainerCollector(Collector):
    """Collects the metrics of the champion, the feedback, the training runs and drift."""

    def __init__(
        self,
        status: Callable[[], pb.GetRetrainStatusResponse],
        count_ended: Callable[[], Mapping["pb.RunState.ValueType", int]],
    ) -> None:
        self._status = status
        self._count_ended = count_ended

    def collect(self) -> Iterator[Metric]:
        """Yield every metric. Prometheus calls this at each scrape, in a thread of the metrics server."""
        reachable, meaning = "moodfood_storage_reachable", "1 when database and models can be read; else 0, and no more"
        try:
            status, ended = self._status(), self._count_ended()
        except StorageFailed as error:
            _log.warning("cannot read the metrics", problem=str(error))
            yield GaugeMetricFamily(reachable, meaning, value=0)
            return
        yield GaugeMetricFamily(reachable, meaning, value=1)
        drift = status.drift
        values = {
            "champion_version": ("Version of the champion, 0 when there is none", status.model_status.version),
            "champion_age_days": ("Whole days since the champion was registered", status.model_status.days_old),
            "new_samples": (
                "Texts that people labelled since the champion's data was collected",
                status.logged_data_status.sample_count,
            ),
            "retrain_due": ("1 when retraining is due, else 0", float(status.due)),
            "drift_detected": ("1 when labels or confidences have drifted, else 0", float(drift.drifted)),
            "unknown_share": ("Share of recent queries that were answered unknown", drift.unknown),
            "escalated_share": ("Share of recent queries that the transformer answered", drift.escalated),
        }
        for name, (meaning, value) in values.items():
            yield GaugeMetricFamily(f"moodfood_{name}", meaning, value=value)
        index = GaugeMetricFamily(
            "moodfood_drift_index",
            "Population stability index of recent queries against those at promotion",
            labels=["of"],
        )
        index.add_metric(["labels"], drift.label_index)
        index.add_metric(["confidences"], drift.confidence_index)
        yield index
        runs = CounterMetricFamily(
            "moodfood_training_runs", "Training runs that have ended, by state", labels=["state"]
        )
        for state, count in ended.items():
            runs.add_metric([pb.RunState.Name(state).removeprefix("RUN_STATE_").lower()], count)
        yield runs


def serve_metrics(collector: Collector, host: str, port: int) -> Callable[[], None]:
    """Serve the metrics over HTTP in separate threads, and return the function that stops the server.

    Port 0 serves no metrics. A port that is already in use is only logged, because a trainer without metrics is better
    than no trainer.
    """
    if port == 0:
        return lambda: None
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        _log.error("serving no metrics", port=port, problem=error.strerror, change="MOODFOOD_TRAINER_METRICS_PORT")
        return lambda: None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
