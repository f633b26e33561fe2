"""What Prometheus may scrape of the trainer, read from the files at the moment of the scrape."""

from collections.abc import Callable, Iterator

import structlog
from moodfood.trainer.v1 import trainer_pb2 as pb
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_ENDED = (
    pb.RUN_STATE_SUCCEEDED,
    pb.RUN_STATE_REJECTED,
    pb.RUN_STATE_FAILED,
    pb.RUN_STATE_CANCELLED,
    pb.RUN_STATE_SKIPPED,
)

_log = structlog.get_logger()


class TrainerCollector(Collector):
    """Champion, data, runs and drift."""

    def __init__(
        self, status: Callable[[], pb.GetRetrainStatusResponse], runs: Callable[[], list[pb.TrainingRun]]
    ) -> None:
        self._status = status
        self._runs = runs

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        status = self._status()
        drift = status.drift
        values = {
            "champion_version": ("Version of the champion, 0 without one", status.model_status.version),
            "champion_age_days": ("Whole days since the champion was registered", status.model_status.days_old),
            "new_samples": (
                "Usable labelled examples since the champion's data",
                status.logged_data_status.sample_count,
            ),
            "retrain_due": ("1 when retraining is due", float(status.due)),
            "drift_detected": ("1 when labels or confidences have surely and much changed", float(drift.drifted)),
            "unknown_share": ("Share of recent queries that no stage knew a label for", drift.unknown),
            "escalated_share": ("Share of recent queries that the transformer stage answered", drift.escalated),
        }
        for name, (meaning, value) in values.items():
            yield GaugeMetricFamily(f"moodfood_{name}", meaning, value=value)
        index = GaugeMetricFamily("moodfood_drift_index", "Population stability index", labels=["of"])
        index.add_metric(["labels"], drift.label_index)
        index.add_metric(["confidences"], drift.confidence_index)
        yield index
        runs = CounterMetricFamily("moodfood_training_runs", "Training runs that ended", labels=["state"])
        states = [run.state for run in self._runs()]
        for state in _ENDED:
            name = pb.RunState.Name(state).removeprefix("RUN_STATE_").lower()
            runs.add_metric([name], states.count(state))
        yield runs


def serve_metrics(collector: Collector, host: str, port: int) -> Callable[[], None]:
    """Serve metrics over HTTP from threads of their own and return what ends that; port 0 serves none.

    A port that is taken is logged: a trainer without metrics is better than none.
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
