"""Route of a version's evaluation: how it did on held-out examples, and what the promotion gate said."""

from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from moodfood.trainer.v1 import trainer_pb2
from msgspec import UNSET, Meta, Struct, UnsetType

from services.gateway.peers import Peers
from services.gateway.problems import describe
from services.gateway.routes.fields import Number, read

TAG = "Versions"

Share = Annotated[Number, Meta(description="0 to 1")]
Micros = Annotated[Number, Meta(description="Microseconds")]


class Rule(Struct):
    """One rule of the gate."""

    rule: Annotated[str, Meta(description="Its name")]
    passed: bool
    measured: Number
    threshold: Annotated[Number, Meta(description="What was measured is compared with this")]
    detail: Annotated[str, Meta(description="One sentence with the numbers")]
    low: Annotated[Number, Meta(description="Lower end of the interval of what was measured; 0 without one")]
    high: Annotated[Number, Meta(description="Upper end of it")]


class PartComparison(Struct):
    """Champion and challenger on one label or slice of the held-out examples."""

    kind: Annotated[str, Meta(description="label or slice")]
    name: str
    examples: int
    champion: Annotated[Number, Meta(description="Share that the champion answers rightly")]
    challenger: Annotated[Number, Meta(description="Share that the challenger answers rightly")]
    surely_lost: Annotated[bool, Meta(description="Whether the challenger's loss is more than chance")]


class Decision(Struct):
    """Whether a version may serve, and why."""

    promoted: Annotated[bool, Meta(description="Whether every rule passed")]
    rules: list[Rule]
    champion_version: Annotated[int, Meta(description="The champion it was compared with; 0 if there was none")]
    parts: list[PartComparison]


class LabelScore(Struct):
    """How one label did."""

    label: str
    examples: Annotated[int, Meta(description="Held-out examples that carry it")]
    recall: Share
    f1: Share


class EscalationPoint(Struct):
    """The cascade at one margin between the linear stage's two best scores."""

    margin: Annotated[Number, Meta(description="Queries below it go to the transformer stage")]
    escalated: Share
    accuracy: Share


class AbstentionPoint(Struct):
    """The last model stage at one threshold of confidence."""

    threshold: Number
    coverage: Annotated[Number, Meta(description="Share of in-scope examples that are answered")]
    accuracy: Annotated[Number, Meta(description="Accuracy of those answers")]


class TrainingChoices(Struct):
    """What the trainer chose by cross-validation."""

    out_of_fold_examples: int
    linear_inverse_regularisation: Number
    head_inverse_regularisation: Annotated[Number, Meta(description="0 without a transformer stage")]
    temperature: Number
    embedding_share: Number
    linear_share: Number
    linear_accuracy: Annotated[Number, Meta(description="Accuracy of the linear stage alone")]
    transformer_accuracy: Annotated[Number, Meta(description="Accuracy of the transformer stage alone; 0 without one")]
    escalation: list[EscalationPoint]
    abstention: list[AbstentionPoint]


class Evaluation(Struct):
    """How a version did on examples that it did not learn."""

    accuracy: Annotated[Number, Meta(description="Share of held-out examples whose best label is one of theirs")]
    macro_f1: Annotated[Number, Meta(description="Mean F1 over labels")]
    recall_at_3: Annotated[Number, Meta(description="Mean share of an example's labels among the best three")]
    held_out_examples: int
    golden_queries: int
    golden_wrong: Annotated[list[str], Meta(description="Golden queries answered wrongly, as 'text -> answer'")]
    labels: Annotated[list[LabelScore], Meta(description="One for each label; empty where runs are listed")]
    query_micros: Annotated[Number, Meta(description="Median time of a query in the linear stage, microseconds")]
    model_bytes: Annotated[str, Meta(description="Size of the version, as digits", examples=["1843200"])]
    feedback_examples: int
    feedback_accuracy: Share
    expected_calibration_error: Share
    coverage: Annotated[Number, Meta(description="Share of held-out examples that are answered")]
    out_of_scope_examples: int
    out_of_scope_recall: Annotated[Number, Meta(description="Share of out-of-scope examples that are not answered")]
    out_of_scope_recall_at_95: Share
    escalated: Annotated[Number, Meta(description="Share of queries that the transformer stage answers")]
    transformer_query_micros: Micros
    mean_query_micros: Micros
    choices: TrainingChoices | UnsetType = UNSET


class VersionEvaluation(Struct):
    """A version's evaluation and the gate's decision."""

    version: int
    evaluation: Evaluation | UnsetType = UNSET
    decision: Decision | UnsetType = UNSET


@get("/retrain/metrics", tags=[TAG], summary="Show how a version did", responses=describe(400, 404, 409))
async def show_evaluation(
    peers: NamedDependency[Peers],
    version: Annotated[int, QueryParameter(ge=0, le=2**31 - 1, description="0 means the champion")] = 0,
) -> VersionEvaluation:
    """Return how a version did on held-out examples, and every rule of the promotion gate with its numbers."""
    response = await peers.trainer.GetEvaluation(
        trainer_pb2.GetEvaluationRequest(version=version), timeout=peers.training_seconds
    )
    return read(response, VersionEvaluation)
