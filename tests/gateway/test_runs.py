"""Retraining over REST."""

import pytest
from moodfood.trainer.v1 import trainer_pb2

from services.trainer import errors
from tests.gateway.fakes import Answering, fill, gateway

pytestmark = pytest.mark.anyio


async def test_retrain_starts_with_and_without_a_body() -> None:
    trainer = Answering()
    async with gateway(trainer=trainer) as client:
        bare = await client.post("/retrain")
        asked = await client.post("/retrain", json={"trigger": "cron_triggered", "force": True})
    assert (bare.status_code, asked.status_code) == (200, 200)
    assert {
        "status": "started",
        "message": "Model retraining started in background",
        "operation": "operations/run-1",
    }.items() <= bare.json().items()
    assert [request.trigger for request in trainer.requests] == [
        trainer_pb2.TRIGGER_API_TRIGGERED,
        trainer_pb2.TRIGGER_CRON_TRIGGERED,
    ]


async def test_second_retrain_is_a_conflict_that_names_the_running_operation() -> None:
    async with gateway(trainer=Answering(error=errors.RetrainInProgress("operations/run-1"))) as client:
        response = await client.post("/retrain")
    assert (response.status_code, response.json()["operation"]) == (409, "operations/run-1")


async def test_a_thousand_runs_are_listed_though_they_are_more_than_grpc_takes_by_default() -> None:
    def list_many(response: trainer_pb2.ListTrainingRunsResponse) -> None:
        run = trainer_pb2.TrainingRun()
        fill(run)
        run.reasons.append("x" * 6000)
        response.runs.extend([run] * 1000)

    async with gateway(trainer=Answering(list_many)) as client:
        answer = await client.get("/retrain/runs", params={"limit": 1000})
    assert (answer.status_code, len(answer.json()["runs"])) == (200, 1000)
