import urllib.request
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.api.prometheus import TrainerCollector, serve_metrics
from services.trainer.errors import RetrainInProgress
from services.trainer.schedule.automation import Automation
from tests.system import free_ports

pytestmark = pytest.mark.anyio


@dataclass
class Trainer:
    """Stands for retrainer, status and run store."""

    status: pb.GetRetrainStatusResponse
    runs: list[pb.TrainingRun] = field(default_factory=list)
    busy: bool = False

    def now(self, _running: Any) -> pb.GetRetrainStatusResponse:
        return self.status

    def newest_first(self) -> list[pb.TrainingRun]:
        return self.runs

    def skip(self, trigger: pb.Trigger.ValueType, reason: str) -> None:
        self.runs.insert(0, pb.TrainingRun(run_id="skipped", trigger=trigger, state=pb.RUN_STATE_SKIPPED))

    async def start(self, trigger: pb.Trigger.ValueType) -> pb.TrainingRun:
        if self.busy:
            raise RetrainInProgress("operations/other")
        run = pb.TrainingRun(run_id="r1", trigger=trigger)
        run.started_at.GetCurrentTime()
        self.runs.insert(0, run)
        return run

    def automation(self, *, on_drift: bool = True) -> Automation:
        return Automation(cast("Any", self), cast("Any", self), cast("Any", self), on_drift=on_drift)


def status(*, due: bool = False, drifted: bool = False) -> pb.GetRetrainStatusResponse:
    answer = pb.GetRetrainStatusResponse(
        due=due, next_retrain_recommended="Not yet", drift=pb.DriftStatus(drifted=drifted, measured=True)
    )
    answer.model_status.last_updated.FromJsonString("2026-01-01T00:00:00Z")
    return answer


@pytest.mark.parametrize(
    ("due", "drifted", "on_drift", "expected"),
    [
        (True, False, True, [pb.TRIGGER_SCHEDULED]),
        (True, True, True, [pb.TRIGGER_SCHEDULED]),
        (False, True, True, [pb.TRIGGER_DRIFT]),
        (False, True, False, []),
        (False, False, True, []),
    ],
)
async def test_schedule_runs_when_it_is_due_or_queries_have_drifted(
    due: bool, drifted: bool, on_drift: bool, expected: list[int]
) -> None:
    trainer = Trainer(status(due=due, drifted=drifted))
    await trainer.automation(on_drift=on_drift).ask(False)
    assert expected == [run.trigger for run in trainer.runs]


async def test_drift_gets_one_run_for_each_champion() -> None:
    trainer = Trainer(status(drifted=True))
    automation = trainer.automation()
    assert await automation.ask(False) == "started run r1"
    assert (await automation.ask(False)).startswith("not due")
    trainer.status.model_status.last_updated.FromJsonString("2100-01-01T00:00:00Z")
    assert await automation.ask(False) == "started run r1"


async def test_moment_of_the_calendar_leaves_a_record_when_nothing_was_due() -> None:
    trainer = Trainer(status())
    await trainer.automation().ask(True)
    assert [run.state for run in trainer.runs] == [pb.RUN_STATE_SKIPPED]


async def test_run_that_is_going_on_is_not_doubled() -> None:
    trainer = Trainer(status(due=True), busy=True)
    assert "operations/other" in await trainer.automation().ask(False)
    assert trainer.runs == []


def test_metrics_tell_of_champion_runs_and_drift() -> None:
    answer = status(due=True, drifted=True)
    answer.model_status.version = 7
    answer.drift.label_index = 0.5
    (port,) = free_ports(1)
    failed = pb.TrainingRun(state=pb.RUN_STATE_FAILED)
    stop = serve_metrics(TrainerCollector(lambda _: answer, lambda: [failed, failed]), "127.0.0.1", port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
    finally:
        stop()
    assert {
        "moodfood_champion_version 7.0",
        "moodfood_retrain_due 1.0",
        "moodfood_drift_detected 1.0",
        'moodfood_drift_index{of="labels"} 0.5',
        'moodfood_training_runs_total{state="failed"} 2.0',
    } <= set(lines)


def test_metrics_port_that_is_taken_stops_nothing() -> None:
    (port,) = free_ports(1)
    collector = TrainerCollector(lambda _: status(), list)
    first = serve_metrics(collector, "127.0.0.1", port)
    second = serve_metrics(collector, "127.0.0.1", port)
    second()
    first()
