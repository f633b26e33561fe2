"""Probes in every state of the services."""

import pytest
from moodfood.inference.v1 import inference_pb2

from tests.gateway.fakes import Answering, gateway, give

pytestmark = pytest.mark.anyio

LOADED = give(
    inference_pb2.GetModelStatusResponse(model="m", version=3, label_count=138, stages=[inference_pb2.STAGE_LINEAR])
)


async def test_health_answers_with_the_same_fields_in_every_state() -> None:
    async with gateway(Answering(LOADED), Answering()) as client:
        good = await client.get("/health")
        ready = await client.get("/readyz")
    async with gateway(Answering(LOADED)) as client:
        without_trainer = await client.get("/health")
    async with gateway() as client:
        nobody = await client.get("/health")
        alive, not_ready = await client.get("/livez"), await client.get("/readyz")
    assert [answer.status_code for answer in (good, without_trainer, nobody)] == [200, 200, 503]
    assert [answer.json()["status"] for answer in (good, without_trainer, nobody)] == [
        "healthy",
        "degraded",
        "unhealthy",
    ]
    assert good.json().keys() == nobody.json().keys()
    assert good.json()["enhanced_classifier"] == {
        "ml_classifier_loaded": True,
        "ml_labels_count": 138,
        "transformer_loaded": False,
        "ml_classifier_available": True,
    }
    assert [ready.status_code, alive.status_code, not_ready.status_code] == [200, 200, 503]
