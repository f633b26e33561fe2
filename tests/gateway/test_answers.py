"""The JSON of every route, compared with what callers have always got."""

import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from google.protobuf.message import Message
from moodfood.inference.v1 import inference_pb2
from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import scheduler_pb2, trainer_pb2
from msgspec import Struct

from services.gateway.routes import evaluation, experiments, labels, queries, runs, schedule, serving, versions
from services.gateway.routes.fields import read, to_json
from tests.gateway.calls import CALLS
from tests.gateway.fakes import Answering, Change, fill, gateway

pytestmark = pytest.mark.anyio

# Recorded before the answers had types: by how the messages were filled, then by route.
GOLDEN = json.loads((Path(__file__).parent / "golden_answers.json").read_text())
VARYING = ("timestamp", "processing_time")
PAIRS: tuple[tuple[Any, type[Struct], dict[str, Any]], ...] = (
    (trainer_pb2.TrainingRun, runs.TrainingRun, {"operation": "operations/1"}),
    (trainer_pb2.DriftStatus, runs.DriftStatus, {}),
    (trainer_pb2.GetEvaluationResponse, evaluation.VersionEvaluation, {}),
    (trainer_pb2.ModelVersion, versions.ModelVersion, {}),
    (manifest_pb2.ChampionAlias, versions.Champion, {}),
    (manifest_pb2.HistoryEntry, versions.HistoryEntry, {}),
    (trainer_pb2.PromoteModelResponse, versions.ChangeAnswer, {"status": "deployed"}),
    (trainer_pb2.RollbackModelResponse, versions.ChangeAnswer, {"status": "rolled_back"}),
    (manifest_pb2.Experiment, experiments.Experiment, {}),
    (scheduler_pb2.Schedule, schedule.Schedule, {}),
    (trainer_pb2.ReviewItem, labels.ReviewItem, {}),
    (trainer_pb2.ImportError, labels.BadLine, {}),
    (trainer_pb2.DeleteUserDataResponse, labels.DeletionAnswer, {"status": "deleted"}),
    (inference_pb2.Recommendation, queries.Dish, {}),
    (
        inference_pb2.GetModelStatusResponse,
        serving.ModelStatus,
        {"ml_classifier_loaded": True, "ml_labels_count": 1, "transformer_loaded": False},
    ),
)


def leave_empty(message: Message) -> None:
    """Set nothing but the one intent that every classification has."""
    if isinstance(message, inference_pb2.ClassifyResponse | inference_pb2.RecommendResponse):
        message.classification.intents.add(label="unknown")
    elif isinstance(message, inference_pb2.BatchClassifyResponse):
        message.classifications.add().intents.add(label="unknown")


FILLINGS: dict[str, Change] = {"full": fill, "empty": leave_empty}


@pytest.mark.parametrize("filling", FILLINGS)
async def test_answers_are_what_callers_have_always_got(filling: str) -> None:
    async with gateway(Answering(FILLINGS[filling]), Answering(FILLINGS[filling])) as client:
        answers = {call.name: show(await client.request(**call.arguments)) for call in CALLS}
    assert GOLDEN[filling] == answers


def show(response: httpx.Response) -> dict[str, Any]:
    is_json = response.headers["content-type"] == "application/json"
    body = response.json(object_hook=without_times) if is_json else response.text
    return {"status": response.status_code, "body": body}


def without_times(shown: dict[str, Any]) -> dict[str, Any]:
    return {name: "<varies>" if name in VARYING else value for name, value in shown.items()}


@pytest.mark.parametrize(("message", "answer", "more"), PAIRS, ids=lambda value: getattr(value, "__name__", ""))
def test_no_field_of_a_message_is_lost(message: type[Message], answer: type[Struct], more: dict[str, Any]) -> None:
    filled = message()
    fill(filled)
    assert {**to_json(filled), **more} == msgspec.to_builtins(read(filled, answer, **more))
