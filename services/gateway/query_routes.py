"""Routes of the people who ask: intents, dishes, and what was wrong about them."""

import time
from typing import Any

from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from moodfood.inference.v1 import inference_pb2
from moodfood.trainer.v1 import trainer_pb2

from services.gateway import answers, schemas
from services.gateway.peers import Peers
from services.gateway.problems import FIELD_NAMES, InvalidBody

TAG = "Ask"
CALLER_HEADER = "x-caller-key"

AnyRequest = Request[Any, Any, Any]


@post(
    "/enhanced-recommend",
    status_code=200,
    tags=[TAG],
    summary="Dishes for how somebody feels",
    opt={FIELD_NAMES: {"text": "text_input", "context": "user_context"}},
)
async def recommend(
    data: JSONBody[schemas.RecommendBody], peers: NamedDependency[Peers], request: AnyRequest
) -> schemas.RecommendAnswer:
    """Rank intents and dishes; dietary restrictions are a hard filter."""
    began = time.perf_counter()
    context = data.user_context or schemas.UserContext()
    response = await peers.inference.Recommend(
        inference_pb2.RecommendRequest(
            text=exactly_one("text_input", data.text_input, "query", data.query),
            context=inference_pb2.UserContext(
                time_of_day=context.time_of_day,
                weather=context.weather,
                mood=context.mood,
                dietary_restrictions=context.dietary_restrictions,
            ),
            top_k=data.top_k,
            max_dishes=data.max_dishes,
            caller_key=caller_key(request),
        ),
        timeout=peers.query_seconds,
    )
    return schemas.RecommendAnswer(
        **answers.classification(response.classification, time.perf_counter() - began),
        recommendations=[answers.dish(each) for each in response.recommendations],
    )


@post("/classify", status_code=200, tags=[TAG], summary="Intents for one text or several")
async def classify(
    data: JSONBody[schemas.ClassifyBody], peers: NamedDependency[Peers], request: AnyRequest
) -> schemas.ClassifyAnswer | schemas.ExplainedAnswer | schemas.BatchAnswer:
    """Rank intents without dishes."""
    began = time.perf_counter()
    if (data.text is None) == (data.texts is None):
        raise InvalidBody("text", "send either text or texts")
    if data.explain and data.texts is not None:
        raise InvalidBody("explain", "is for one text; send text instead of texts")
    if data.texts is not None:
        batch = await peers.inference.BatchClassify(
            inference_pb2.BatchClassifyRequest(texts=data.texts, top_k=data.top_k, caller_key=caller_key(request)),
            timeout=peers.query_seconds,
        )
        seconds = (time.perf_counter() - began) / len(data.texts)
        return schemas.BatchAnswer([_answer(each, seconds) for each in batch.classifications])
    response = await peers.inference.Classify(
        inference_pb2.ClassifyRequest(
            text=data.text or "", top_k=data.top_k, explain=data.explain, caller_key=caller_key(request)
        ),
        timeout=peers.query_seconds,
    )
    if data.explain:
        return answers.explained(response.classification, time.perf_counter() - began)
    return _answer(response.classification, time.perf_counter() - began)


@post("/feedback", status_code=201, tags=[TAG], summary="Say what a query means")
async def feedback(data: JSONBody[schemas.FeedbackBody], peers: NamedDependency[Peers]) -> schemas.FeedbackAnswer:
    """Store labels for an answered query or for a text; the next retraining learns them."""
    if (data.query_id is None) == (data.text is None):
        raise InvalidBody("query_id", "send either query_id or text")
    response = await peers.trainer.SubmitFeedback(
        trainer_pb2.SubmitFeedbackRequest(
            query_id=data.query_id or "",
            text=data.text or "",
            labels=data.labels,
            user_id=data.user_id,
            request_id=data.request_id,
        ),
        timeout=peers.training_seconds,
    )
    return schemas.FeedbackAnswer(status="recorded", feedback_id=response.feedback_id)


def caller_key(request: AnyRequest) -> str:
    """Return who asks, for experiments: the header X-Caller-Key, else the caller's address."""
    return request.headers.get(CALLER_HEADER) or (request.client.host if request.client else "")


def exactly_one(name: str, value: str | None, other_name: str, other: str | None) -> str:
    """Return the one of two fields that is set.

    Raises:
        InvalidBody: none or both are set.

    """
    if value is None and other is None:
        raise InvalidBody(name, "is missing; say what you feel like")
    if value is not None and other is not None:
        raise InvalidBody(name, f"send either {name} or {other_name}")
    return value if value is not None else other or ""


def _answer(message: Any, seconds: float) -> schemas.ClassifyAnswer:
    return schemas.ClassifyAnswer(**answers.classification(message, seconds))
