"""Intents and dishes over REST."""

import pytest
from moodfood.inference.v1 import inference_pb2

from tests.gateway.fakes import Answering, gateway, give

pytestmark = pytest.mark.anyio

ANSWER = inference_pb2.Classification(
    query_id="q1",
    intents=[
        inference_pb2.Intent(label="goal_comfort", confidence=0.8),
        inference_pb2.Intent(label="taste_rich", confidence=0.1),
    ],
    stage=inference_pb2.STAGE_LINEAR,
    model_version=3,
)
DISH = inference_pb2.Recommendation(
    food_name="Dal tadka", food_category="main", food_region="South Asia", food_culture="Indian",
    food_tags=["lentils"], score=1.0, reasoning="Fits comfort (goal).", diets=["vegetarian"],
)  # fmt: skip
EXPLAINED = inference_pb2.Classification(
    explanation=inference_pb2.Explanation(
        label="goal_comfort",
        summary="because of soup",
        intercept=-1.5,
        grams=[inference_pb2.GramWeight(gram="soup", kind=inference_pb2.GRAM_KIND_WORDS, weight=2.25)],
    ),
    passed=[inference_pb2.PassedStage(stage=inference_pb2.STAGE_LINEAR, reason="too close")],
)
EXPLAINED.MergeFrom(ANSWER)
SERVED = give(
    inference_pb2.ClassifyResponse(classification=ANSWER),
    inference_pb2.BatchClassifyResponse(classifications=[ANSWER, ANSWER]),
    inference_pb2.RecommendResponse(classification=ANSWER, recommendations=[DISH]),
)


async def test_recommendation_has_every_field_of_the_contract() -> None:
    inference = Answering(SERVED)
    body = {"text_input": "comfort", "user_context": {"weather": "cold", "dietary_restrictions": ["vegan"]}}
    async with gateway(inference) as client:
        response = await client.post("/enhanced-recommend", json=body)
    answer = response.json()
    assert response.status_code == 200
    assert tuple(
        answer[field] for field in ("primary_intent", "confidence", "method", "model_version", "query_id")
    ) == ("goal_comfort", 0.8, "ml_classifier", 3, "q1")
    assert answer["all_intents"] == [["goal_comfort", 0.8], ["taste_rich", 0.1]]
    assert answer["processing_time"] > 0
    assert {
        "food_name", "food_category", "food_region", "food_culture", "food_tags", "score", "reasoning"
    } <= answer["recommendations"][0].keys()  # fmt: skip
    assert inference.requests[0].context.dietary_restrictions == ["vegan"]


async def test_query_is_accepted_for_text_input() -> None:
    inference = Answering(SERVED)
    async with gateway(inference) as client:
        response = await client.post("/enhanced-recommend", json={"query": "soup"})
    assert (response.status_code, inference.requests[0].text) == (200, "soup")


async def test_classify_takes_one_text_or_several() -> None:
    async with gateway(Answering(SERVED)) as client:
        one = (await client.post("/classify", json={"text": "soup"})).json()
        many = (await client.post("/classify", json={"texts": ["soup", "cake"]})).json()
    assert one["primary_intent"] == "goal_comfort"
    assert len(many["results"]) == 2
    assert "recommendations" not in one


async def test_explanation_comes_only_when_asked_for() -> None:
    inference = Answering(give(inference_pb2.ClassifyResponse(classification=EXPLAINED)))
    async with gateway(inference) as client:
        explained = (await client.post("/classify", json={"text": "soup", "explain": True})).json()
        plain = (await client.post("/classify", json={"text": "soup"})).json()
    assert [request.explain for request in inference.requests] == [True, False]
    assert explained["explanation"] == {
        "label": "goal_comfort",
        "summary": "because of soup",
        "intercept": -1.5,
        "grams": [{"gram": "soup", "kind": "words", "weight": 2.25}],
    }
    assert explained["passed"] == [{"method": "ml_classifier", "reason": "too close"}]
    assert not {"explanation", "passed"} & plain.keys()
