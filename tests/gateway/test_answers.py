"""The JSON of every route, compared with what callers have always got."""

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from moodfood.inference.v1 import inference_pb2

from tests.gateway.calls import CALLS, Call
from tests.gateway.fakes import Answering, Change, fill, gateway

pytestmark = pytest.mark.anyio

# Recorded before the answers had types. A key is the route and how the messages were filled.
GOLDEN = json.loads((Path(__file__).parent / "golden_answers.json").read_text())
VARYING = ("timestamp", "processing_time")


def leave_empty(message: Message) -> None:
    """Set nothing but the one intent that every classification has."""
    if isinstance(message, inference_pb2.ClassifyResponse | inference_pb2.RecommendResponse):
        message.classification.intents.add(label="unknown")
    elif isinstance(message, inference_pb2.BatchClassifyResponse):
        message.classifications.add().intents.add(label="unknown")


FILLINGS: dict[str, Change] = {"full": fill, "empty": leave_empty}


async def answer_of(call: Call, filling: str) -> dict[str, Any]:
    async with gateway(Answering(FILLINGS[filling]), Answering(FILLINGS[filling])) as client:
        response = await client.request(**call.arguments)
    is_json = response.headers["content-type"] == "application/json"
    body = response.json(object_hook=without_times) if is_json else response.text
    return {"status": response.status_code, "body": body}


def without_times(shown: dict[str, Any]) -> dict[str, Any]:
    return {name: "<varies>" if name in VARYING else value for name, value in shown.items()}


@pytest.mark.parametrize("filling", FILLINGS)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
async def test_answer_is_what_callers_have_always_got(call: Call, filling: str) -> None:
    assert GOLDEN[f"{call.name}, {filling}"] == await answer_of(call, filling)
