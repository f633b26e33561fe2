import urllib.error
import urllib.request

import pytest
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.api.prometheus import TrainerCollector, serve_metrics
from services.trainer.errors import StorageFailed
from tests.system import free_ports


def status(*, due: bool = False, drifted: bool = False) -> pb.GetRetrainStatusResponse:
    return pb.GetRetrainStatusResponse(due=due, drift=pb.DriftStatus(drifted=drifted, measured=True))


def test_metrics_tell_of_champion_runs_and_drift() -> None:
    answer = status(due=True, drifted=True)
    answer.model_status.version = 7
    answer.drift.label_index = 0.5
    (port,) = free_ports(1)
    stop = serve_metrics(TrainerCollector(lambda: answer, lambda: {pb.RUN_STATE_FAILED: 2}), "127.0.0.1", port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
    finally:
        stop()
    assert {
        "moodfood_storage_reachable 1.0",
        "moodfood_champion_version 7.0",
        "moodfood_retrain_due 1.0",
        "moodfood_drift_detected 1.0",
        'moodfood_drift_index{of="labels"} 0.5',
        'moodfood_training_runs_total{state="failed"} 2.0',
    } <= set(lines)


def test_metrics_say_that_storage_is_away() -> None:
    def away() -> pb.GetRetrainStatusResponse:
        raise StorageFailed("the database cannot be reached")

    (port,) = free_ports(1)
    stop = serve_metrics(TrainerCollector(away, dict), "127.0.0.1", port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            lines = [line for line in page.read().decode().splitlines() if not line.startswith("#")]
    finally:
        stop()
    assert lines == ["moodfood_storage_reachable 0.0"]


def test_metrics_port_that_is_taken_stops_nothing() -> None:
    (port,) = free_ports(1)
    collector = TrainerCollector(status, dict)
    stop_first, stop_second = (serve_metrics(collector, "127.0.0.1", port) for _ in range(2))
    stop_second()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        assert page.status == 200
    stop_first()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)
