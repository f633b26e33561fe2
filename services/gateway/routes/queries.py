"""Routes of the people who ask: intents and dishes."""

import time
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from moodfood.inference.v1 import inference_pb2
from msgspec import Meta, Struct

from services.gateway.peers import Peers
from services.gateway.problems import FIELD_NAMES, describe
from services.gateway.refusals import InvalidBody
from services.gateway.routes.fields import Body, Text

TAG = "Ask"
CALLER_HEADER = "x-caller-key"
MAX_BATCH_TEXTS = 256

AnyRequest = Request[Any, Any, Any]
TopK = Annotated[int, Meta(ge=1, le=100, description="How many intents to return")]
Word = Annotated[str, Meta(max_length=200)]
Method = Literal["ml_classifier", "transformer", "keyword_fallback"]
GramKind = Literal["words", "characters"]

_METHODS: dict[int, Method] = {
    inference_pb2.STAGE_LINEAR: "ml_classifier",
    inference_pb2.STAGE_TRANSFORMER: "transformer",
}
_KINDS: dict[int, GramKind] = {
    inference_pb2.GRAM_KIND_WORDS: "words",
    inference_pb2.GRAM_KIND_CHARACTERS: "characters",
}


class UserContext(Body):
    """What is known about the person who asks."""

    time_of_day: Annotated[Word, Meta(examples=["evening"])] = ""
    weather: Annotated[Word, Meta(examples=["cold"])] = ""
    mood: Annotated[Word, Meta(examples=["tired"])] = ""
    dietary_restrictions: Annotated[
        list[str],
        Meta(max_length=20, description="Diets that every dish must satisfy", examples=[["vegan", "nut_free"]]),
    ] = msgspec.field(default_factory=list)


class RecommendBody(Body):
    """A query for dishes; `query` is accepted for `text_input`."""

    text_input: Text | None = None
    query: Text | None = None
    user_context: UserContext | None = None
    top_k: TopK = 5
    max_dishes: Annotated[int, Meta(ge=1, le=50, description="How many dishes to return")] = 5


class ClassifyBody(Body):
    """One query as `text`, or several as `texts`."""

    text: Text | None = None
    texts: Annotated[list[Text], Meta(min_length=1, max_length=MAX_BATCH_TEXTS)] | None = None
    top_k: TopK = 5
    explain: Annotated[bool, Meta(description="Say which words led to the answer; for one text only")] = False


class ClassifyAnswer(Struct):
    """Ranked intents of one query."""

    primary_intent: str
    confidence: Annotated[float, Meta(description="Probability of the primary intent; 0 from keywords")]
    method: Annotated[Method, Meta(description="What answered")]
    all_intents: Annotated[list[tuple[str, float]], Meta(description="[label, confidence], best first")]
    model_version: Annotated[int, Meta(description="0 while no model is loaded")]
    query_id: Annotated[str, Meta(description="Names this answer when you send feedback about it")]
    processing_time: Annotated[float, Meta(description="Seconds")]


class GramWeight(Struct):
    """What a word or n-gram adds to the score of the explained label, beyond the mean over all labels."""

    gram: str
    kind: GramKind
    weight: float


class Explanation(Struct):
    """Why the best label was chosen."""

    label: str
    summary: str
    intercept: Annotated[float, Meta(description="The label's score before any word")]
    grams: Annotated[list[GramWeight], Meta(description="Strongest first")]


class PassedStage(Struct):
    """A stage that was asked and did not answer."""

    method: Method
    reason: str


class ExplainedAnswer(ClassifyAnswer):
    """Ranked intents of one query, and why."""

    passed: list[PassedStage]
    explanation: Explanation | None


class BatchAnswer(Struct):
    """Ranked intents of several queries, in their order."""

    results: list[ClassifyAnswer]


class Dish(Struct):
    """One recommended dish."""

    food_name: str
    food_category: str
    food_region: str
    food_culture: str
    food_tags: list[str]
    score: Annotated[float, Meta(description="0 to 1; comparable within one answer only")]
    reasoning: Annotated[str, Meta(description="Why it was chosen, in one sentence for the user")]
    diets: Annotated[list[str], Meta(description="Every diet that the dish satisfies")]


class RecommendAnswer(ClassifyAnswer):
    """Ranked intents and the dishes for them."""

    recommendations: Annotated[
        list[Dish], Meta(description="Best first; empty when no dish satisfies the dietary restrictions")
    ]


@post(
    "/enhanced-recommend",
    status_code=200,
    tags=[TAG],
    summary="Recommend dishes for how somebody feels",
    opt={FIELD_NAMES: {"text": "text_input", "context": "user_context"}},
    responses=describe(400, 413),
)
async def recommend(
    data: JSONBody[RecommendBody], peers: NamedDependency[Peers], request: AnyRequest
) -> RecommendAnswer:
    """Return the intents of a text and dishes for them.

    A dish that breaks one of the dietary restrictions is never returned. A restriction that the catalogue does not know
    is an error.
    """
    began = time.perf_counter()
    context = data.user_context or UserContext()
    response = await peers.inference.Recommend(
        inference_pb2.RecommendRequest(
            text=choose_text(data),
            context=inference_pb2.UserContext(**msgspec.structs.asdict(context)),
            top_k=data.top_k,
            max_dishes=data.max_dishes,
            caller_key=caller_key(request),
        ),
        timeout=peers.query_seconds,
    )
    return RecommendAnswer(
        **_translate(response.classification, time.perf_counter() - began),
        recommendations=[_translate_dish(dish) for dish in response.recommendations],
    )


@post(
    "/classify",
    status_code=200,
    tags=[TAG],
    summary="Find the intents of one text or several",
    responses=describe(400, 413),
)
async def classify(
    data: JSONBody[ClassifyBody], peers: NamedDependency[Peers], request: AnyRequest
) -> ClassifyAnswer | ExplainedAnswer | BatchAnswer:
    """Return the intents of `text`, or a list of them for `texts`; with `explain` also why the best one."""
    began = time.perf_counter()
    check_classify(data)
    if data.texts is not None:
        batch = await peers.inference.BatchClassify(
            inference_pb2.BatchClassifyRequest(texts=data.texts, top_k=data.top_k, caller_key=caller_key(request)),
            timeout=peers.query_seconds,
        )
        seconds = (time.perf_counter() - began) / len(data.texts)
        return BatchAnswer([ClassifyAnswer(**_translate(message, seconds)) for message in batch.classifications])
    response = await peers.inference.Classify(
        inference_pb2.ClassifyRequest(
            text=data.text or "", top_k=data.top_k, explain=data.explain, caller_key=caller_key(request)
        ),
        timeout=peers.query_seconds,
    )
    fields = _translate(response.classification, time.perf_counter() - began)
    return _explain(response.classification, fields) if data.explain else ClassifyAnswer(**fields)


def caller_key(request: AnyRequest) -> str:
    """Return who asks, for experiments: the header X-Caller-Key, else the caller's address."""
    return request.headers.get(CALLER_HEADER) or (request.client.host if request.client else "")


def choose_text(body: RecommendBody) -> str:
    """Return the query of a body.

    Raises:
        InvalidBody: the body has no query, or two.

    """
    if body.text_input is not None and body.query is not None:
        raise InvalidBody("text_input", "send either text_input or query")
    text = body.query if body.text_input is None else body.text_input
    if text is None:
        raise InvalidBody("text_input", "is missing; send the text to classify")
    return text


def check_classify(body: ClassifyBody) -> None:
    """Check what the types of the fields cannot say.

    Raises:
        InvalidBody: the body has neither text nor texts, or both, or asks for an explanation of several.

    """
    if (body.text is None) == (body.texts is None):
        raise InvalidBody("text", "send either text or texts")
    if body.explain and body.texts is not None:
        raise InvalidBody("explain", "is for one text; send text instead of texts")


def _translate(message: inference_pb2.Classification, seconds: float) -> dict[str, Any]:
    """Return the fields that every classification has."""
    best = message.intents[0]
    return {
        "primary_intent": best.label,
        "confidence": round(best.confidence, 4),
        "method": _method(message.stage),
        "all_intents": [(intent.label, round(intent.confidence, 4)) for intent in message.intents],
        "model_version": message.model_version,
        "query_id": message.query_id,
        "processing_time": round(seconds, 6),
    }


def _explain(message: inference_pb2.Classification, fields: dict[str, Any]) -> ExplainedAnswer:
    found = message.explanation
    explanation = Explanation(
        label=found.label,
        summary=found.summary,
        intercept=round(found.intercept, 4),
        grams=[GramWeight(gram.gram, _KINDS[gram.kind], round(gram.weight, 4)) for gram in found.grams],
    )
    return ExplainedAnswer(
        **fields,
        passed=[PassedStage(_method(stage.stage), stage.reason) for stage in message.passed],
        explanation=explanation if message.HasField("explanation") else None,
    )


def _method(stage: int) -> Method:
    return _METHODS.get(stage, "keyword_fallback")


def _translate_dish(message: inference_pb2.Recommendation) -> Dish:
    return Dish(
        food_name=message.food_name,
        food_category=message.food_category,
        food_region=message.food_region,
        food_culture=message.food_culture,
        food_tags=list(message.food_tags),
        score=message.score,
        reasoning=message.reasoning,
        diets=list(message.diets),
    )
