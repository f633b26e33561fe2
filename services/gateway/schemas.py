"""The JSON bodies that callers send and get. Field names are fixed: existing callers depend on them."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

# The owner of this limit is inference; a contract test proves that both say the same.
MAX_TEXT_CHARS = 10_000
MAX_BATCH_TEXTS = 256

Text = Annotated[
    str,
    Meta(
        max_length=MAX_TEXT_CHARS,
        description="What the user said",
        examples=["rainy day, I want something warm and cozy"],
    ),
]
TopK = Annotated[int, Meta(ge=1, le=100, description="How many intents to return")]
Label = Annotated[str, Meta(min_length=1, max_length=200, examples=["goal_comfort"])]


class UserContext(Struct, forbid_unknown_fields=False):
    """What is known about the person who asks."""

    time_of_day: Annotated[str, Meta(max_length=200, examples=["evening"])] = ""
    weather: Annotated[str, Meta(max_length=200, examples=["cold"])] = ""
    mood: Annotated[str, Meta(max_length=200, examples=["tired"])] = ""
    dietary_restrictions: Annotated[list[str], Meta(max_length=20, examples=[["vegan"]])] = msgspec.field(
        default_factory=list
    )


class RecommendBody(Struct):
    """A query for dishes; `query` is accepted for `text_input`."""

    text_input: Text | None = None
    query: Text | None = None
    user_context: UserContext | None = None
    top_k: TopK = 5
    max_dishes: Annotated[int, Meta(ge=1, le=50, description="How many dishes to return")] = 5


class ClassifyBody(Struct):
    """One query as `text`, or several as `texts`."""

    text: Text | None = None
    texts: Annotated[list[Text], Meta(min_length=1, max_length=MAX_BATCH_TEXTS)] | None = None
    top_k: TopK = 5
    explain: Annotated[bool, Meta(description="say what spoke for the answer; for one text only")] = False


class FeedbackBody(Struct):
    """What a query means: the answer's `query_id` or the `text` itself, and its labels."""

    labels: Annotated[list[Label], Meta(min_length=1, max_length=10)]
    query_id: Annotated[str, Meta(max_length=200)] | None = None
    text: Text | None = None
    user_id: Annotated[str, Meta(max_length=128)] = ""
    request_id: Annotated[str, Meta(max_length=128, description="the same id is stored once")] = ""


class ReviewBody(Struct):
    """What a review item means: exactly one of the first three."""

    labels: Annotated[list[Label], Meta(max_length=10)] = msgspec.field(default_factory=list)
    out_of_scope: Annotated[bool, Meta(description="no label fits")] = False
    dismiss: Annotated[bool, Meta(description="show it no more, learn nothing")] = False
    user_id: Annotated[str, Meta(max_length=128)] = ""


class RetrainBody(Struct):
    """How to retrain; every field is optional."""

    force: bool = False
    trigger: Annotated[str, Meta(examples=["api_triggered", "cron_triggered", "manual"])] = "api_triggered"
    validate_only: bool = False
    request_id: Annotated[str, Meta(max_length=128)] = ""
    snapshot_id: Annotated[str, Meta(max_length=128, description="learn from this snapshot again")] = ""


class ScheduleBody(Struct):
    """When to ask whether a training run is due; times are UTC."""

    kind: Annotated[str, Meta(examples=["weekly", "monthly", "adaptive"])]
    day: Annotated[str, Meta(description="weekly: sunday; monthly: 1 to 31, the last day in shorter months")] = ""
    hour: Annotated[int, Meta(ge=0, le=23)] = 3
    minute: Annotated[int, Meta(ge=0, le=59)] = 0
    check_minutes: Annotated[int, Meta(ge=1, le=1440, description="adaptive: minutes between questions")] = 15


class ExperimentBody(Struct):
    """Which version to try on real traffic, and how."""

    kind: Annotated[str, Meta(examples=["shadow", "canary"])]
    version: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    share: Annotated[
        float, Meta(ge=0, le=1, description="of the callers; 0 means 1 for a shadow, 0.1 for a canary")
    ] = 0
    by: Annotated[str, Meta(max_length=128)] = ""


class StopExperimentBody(Struct):
    """Whether to promote the challenger if the verdict allows it, who asks and why."""

    promote: bool = False
    by: Annotated[str, Meta(max_length=128)] = ""
    reason: Annotated[str, Meta(max_length=1000)] = ""


class DeployBody(Struct):
    """Which version to promote, who asks and why."""

    version: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    by: Annotated[str, Meta(max_length=128)] = ""
    reason: Annotated[str, Meta(max_length=1000)] = ""


class RollbackBody(Struct):
    """Who asks for the former champion and why."""

    by: Annotated[str, Meta(max_length=128)] = ""
    reason: Annotated[str, Meta(max_length=1000)] = ""


class ClassifyAnswer(Struct):
    """Ranked intents of one query."""

    primary_intent: str
    confidence: float
    method: Annotated[str, Meta(description="ml_classifier, transformer or keyword_fallback")]
    all_intents: Annotated[list[tuple[str, float]], Meta(description="[label, confidence], best first")]
    model_version: int
    query_id: str
    processing_time: Annotated[float, Meta(description="seconds")]


class GramWeight(Struct):
    """What a word or n-gram adds to the score of the explained label, beyond the mean over all labels."""

    gram: str
    kind: Annotated[str, Meta(description="words or characters")]
    weight: float


class Explanation(Struct):
    """Why the best label was chosen."""

    label: str
    summary: str
    intercept: float
    grams: Annotated[list[GramWeight], Meta(description="strongest first")]


class PassedStage(Struct):
    """A stage that was asked and did not answer."""

    method: str
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
    score: float
    reasoning: str
    diets: list[str]


class RecommendAnswer(ClassifyAnswer):
    """Ranked intents and the dishes for them."""

    recommendations: list[Dish]


class FeedbackAnswer(Struct):
    """The feedback is on disk."""

    status: str
    feedback_id: str


class ImportAnswer(Struct):
    """All examples of a file were stored, or none."""

    status: Annotated[str, Meta(description="imported, or refused when a line is bad")]
    imported: int
    errors: Annotated[list[dict[str, Any]], Meta(description="line, field and description of the first 100 bad lines")]


class RetrainAnswer(Struct):
    """A training run was started, or skipped because it was not due."""

    status: str
    message: str
    timestamp: str
    operation: str


class ClassifierState(Struct):
    """What inference has loaded."""

    ml_classifier_loaded: bool
    ml_labels_count: int
    transformer_loaded: bool


class HealthClassifierState(ClassifierState):
    """What inference has loaded and whether it can answer by it."""

    ml_classifier_available: bool


class DataState(Struct):
    """The labelled data since the champion's snapshot."""

    last_updated: str | None
    days_old: int
    sample_count: int


class ModelState(Struct):
    """The champion."""

    last_updated: str | None
    days_old: int
    exists: bool
    version: int


class RetrainState(Struct):
    """Whether retraining is due and what is going on."""

    last_retrain: str | None
    next_retrain_recommended: str
    logged_data_status: DataState
    model_status: ModelState
    recommendations: list[str]
    due: bool
    running: dict[str, Any] | None
    drift: dict[str, Any]


class RetrainStatusAnswer(Struct):
    """Answer of GET /retrain/status."""

    status: str
    retrain_status: RetrainState
    current_model_status: ClassifierState
    timestamp: str


class HealthAnswer(Struct):
    """Answer of GET /health."""

    status: Annotated[str, Meta(description="healthy, degraded (the trainer is away) or unhealthy")]
    enhanced_classifier: HealthClassifierState
    services: dict[str, Any]
    timestamp: str


class Problem(Struct, omit_defaults=True):
    """Problem details as in RFC 9457; `errors` names the fields at fault."""

    title: str
    status: int
    detail: str
    reason: str
    type: str = "about:blank"
    errors: list[dict[str, str]] = msgspec.field(default_factory=list)
    operation: str = ""
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
