"""Routes of training runs: start one, ask whether one is due, and look at those that were."""

import asyncio
from typing import Annotated, Literal

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from moodfood.inference.v1 import inference_pb2
from moodfood.trainer.v1 import trainer_pb2
from msgspec import UNSET, Meta, Struct, UnsetType

from services.gateway.peers import Peers
from services.gateway.problems import describe
from services.gateway.routes.evaluation import Decision, Evaluation
from services.gateway.routes.fields import Body, Instant, Limit, Moment, Number, OptionalBody, moment, now, read
from services.gateway.routes.serving import ClassifierState, translate_state
from services.gateway.routes.versions import ReplicaOutcome

TAG = "Retrain"
STARTED = "Model retraining started in background"

Trigger = Literal["unspecified", "api_triggered", "cron_triggered", "manual", "first_model", "scheduled", "drift"]
RunState = Literal["unspecified", "running", "succeeded", "rejected", "failed", "cancelled", "skipped"]
RunStage = Literal[
    "unspecified",
    "collect",
    "clean",
    "snapshot",
    "train",
    "export",
    "parity",
    "evaluate",
    "decide",
    "register",
    "promote",
    "rehearse",
]


class RetrainBody(Body):
    """How to retrain; every field is optional."""

    force: Annotated[bool, Meta(description="Run even if a run triggered by cron is not due")] = False
    trigger: Literal["api_triggered", "cron_triggered", "manual"] = "api_triggered"
    validate_only: Annotated[bool, Meta(description="Stop after the gate's decision and promote nothing")] = False
    request_id: Annotated[str, Meta(max_length=128, description="The same id starts one run only")] = ""
    snapshot_id: Annotated[str, Meta(max_length=128, description="Learn this dataset snapshot again")] = ""


class RetrainAnswer(Struct):
    """A training run was started, or skipped because it was not due."""

    status: Literal["started", "skipped"]
    message: str
    timestamp: Moment
    operation: Annotated[str, Meta(examples=["operations/20250820-143000-4f2a"])]


@post(
    "/retrain",
    status_code=200,
    tags=[TAG],
    summary="Retrain in the background",
    operation_class=OptionalBody,
    responses=describe(400, 404, 409, 413),
)
async def retrain(peers: NamedDependency[Peers], data: JSONBody[RetrainBody | None] = None) -> RetrainAnswer:
    """Start a training run and answer at once. While another run is going: 409, and `operation` names that run."""
    asked = data or RetrainBody()
    operation = await peers.trainer.Retrain(
        trainer_pb2.RetrainRequest(
            force=asked.force,
            trigger=trainer_pb2.Trigger.Value(f"TRIGGER_{asked.trigger.upper()}"),
            validate_only=asked.validate_only,
            request_id=asked.request_id,
            snapshot_id=asked.snapshot_id,
        ),
        timeout=peers.training_seconds,
    )
    run = trainer_pb2.TrainingRun()
    operation.metadata.Unpack(run)
    skipped = run.state == trainer_pb2.RUN_STATE_SKIPPED
    return RetrainAnswer(
        status="skipped" if skipped else "started",
        message=f"Retraining is not due: {'; '.join(run.reasons)}" if skipped else STARTED,
        timestamp=now(),
        operation=operation.name,
    )


class Snapshot(Struct):
    """The dataset of a run."""

    id: str
    train_examples: int
    held_out_examples: int
    feedback_records: int
    dropped: Annotated[dict[str, int], Meta(description="Dropped examples by reason")]
    collected_at: Instant | UnsetType = UNSET


class TrainingRun(Struct):
    """A training run: where it stands and what came of it."""

    run_id: str
    operation: Annotated[str, Meta(description="Name of the run as a long-running operation")]
    trigger: Annotated[Trigger, Meta(description="Who or what asked for it")]
    state: Annotated[RunState, Meta(description="Where it stands; rejected: the gate refused the version")]
    stage: Annotated[RunStage, Meta(description="The stage it is in, or ended in")]
    percent: Annotated[int, Meta(description="0 to 100")]
    reasons: Annotated[list[str], Meta(description="Why it failed, was refused or skipped")]
    version: Annotated[int, Meta(description="The version it registered; 0 before")]
    champion_version: Annotated[int, Meta(description="The champion it was compared with; 0 if there was none")]
    new_samples: Annotated[int, Meta(description="Feedback that the champion had not seen and the version learned")]
    validate_only: bool
    request_id: str
    replicas: Annotated[list[ReplicaOutcome], Meta(description="What each replica did during the promotion")]
    started_at: Instant | UnsetType = UNSET
    updated_at: Instant | UnsetType = UNSET
    finished_at: Instant | UnsetType = UNSET
    snapshot: Snapshot | UnsetType = UNSET
    decision: Decision | UnsetType = UNSET
    evaluation: Evaluation | UnsetType = UNSET


class RunList(Struct):
    """Training runs, newest first."""

    runs: list[TrainingRun]


@get("/retrain/runs", tags=[TAG], summary="List training runs", responses=describe(400))
async def list_runs(peers: NamedDependency[Peers], limit: Limit = 50) -> RunList:
    """List training runs, newest first, with their stages, reasons and numbers."""
    response = await peers.trainer.ListTrainingRuns(
        trainer_pb2.ListTrainingRunsRequest(page_size=limit), timeout=peers.training_seconds
    )
    return RunList([translate_run(run) for run in response.runs])


@get("/retrain/runs/{run_id:str}", tags=[TAG], summary="Show a training run", responses=describe(400, 404))
async def show_run(peers: NamedDependency[Peers], run_id: FromPath[str]) -> TrainingRun:
    """Return one training run with its stage, reasons and numbers."""
    response = await peers.trainer.GetTrainingRun(
        trainer_pb2.GetTrainingRunRequest(run_id=run_id), timeout=peers.training_seconds
    )
    return translate_run(response.run)


def translate_run(message: trainer_pb2.TrainingRun) -> TrainingRun:
    """Return a run without its scores of single labels, which /retrain/metrics shows."""
    trimmed = trainer_pb2.TrainingRun()
    trimmed.CopyFrom(message)
    if trimmed.HasField("evaluation"):
        trimmed.evaluation.ClearField("labels")
    return read(trimmed, TrainingRun, operation=f"operations/{message.run_id}")


class DataState(Struct):
    """The labelled data since the champion's snapshot."""

    last_updated: Annotated[Moment | None, Meta(description="When the last feedback came in")]
    days_old: int
    sample_count: Annotated[int, Meta(description="Usable new labelled examples")]


class ModelState(Struct):
    """The champion."""

    last_updated: Annotated[Moment | None, Meta(description="When it was registered")]
    days_old: int
    exists: bool
    version: int


class MovedLabel(Struct):
    """A label whose share of the answers changed."""

    label: str
    change: Annotated[Number, Meta(description="Its share now less its share at promotion, -1 to 1")]


class DriftStatus(Struct):
    """How far recent queries are from those at promotion."""

    measured: Annotated[bool, Meta(description="False while there are too few queries; the numbers then mean nothing")]
    drifted: bool
    reasons: list[str]
    label_index: Annotated[Number, Meta(description="Population stability index of the labels; above 0.2 is much")]
    confidence_index: Annotated[Number, Meta(description="The same of the confidences")]
    label_chance: Annotated[Number, Meta(description="Probability of labels this different by chance")]
    confidence_chance: Annotated[Number, Meta(description="The same of the confidences")]
    reference_queries: Annotated[int, Meta(description="Queries at promotion")]
    recent_queries: int
    unknown: Annotated[Number, Meta(description="Share of recent queries that no stage knew a label for")]
    unknown_at_promotion: Number
    escalated: Annotated[Number, Meta(description="Share of recent queries that the transformer stage answered")]
    escalated_at_promotion: Number
    moved: Annotated[list[MovedLabel], Meta(description="Labels whose share changed most")]


class RetrainState(Struct):
    """Whether retraining is due and what is going on."""

    last_retrain: Annotated[Moment | None, Meta(description="End of the last run that promoted a version")]
    next_retrain_recommended: Annotated[str, Meta(examples=["Not yet - need 25 more samples or 15 more days"])]
    logged_data_status: DataState
    model_status: ModelState
    recommendations: list[str]
    due: bool
    running: TrainingRun | None
    drift: DriftStatus


class RetrainStatus(Struct):
    """Whether retraining is due, and what is serving."""

    status: Literal["ok"]
    retrain_status: RetrainState
    current_model_status: ClassifierState
    timestamp: Moment


@get("/retrain/status", tags=[TAG], summary="Ask whether retraining is due", responses=describe(400))
async def show_retrain_status(peers: NamedDependency[Peers]) -> RetrainStatus:
    """Say how much new data there is, how old the model is, how far queries have drifted, and what is running."""
    status, model = await asyncio.gather(
        peers.trainer.GetRetrainStatus(trainer_pb2.GetRetrainStatusRequest(), timeout=peers.training_seconds),
        peers.inference.GetModelStatus(inference_pb2.GetModelStatusRequest(), timeout=peers.query_seconds),
    )
    return RetrainStatus("ok", translate_status(status), translate_state(model), now())


def translate_status(message: trainer_pb2.GetRetrainStatusResponse) -> RetrainState:
    """Return whether retraining is due."""
    data, model = message.logged_data_status, message.model_status
    return RetrainState(
        last_retrain=moment(message.last_retrain),
        next_retrain_recommended=message.next_retrain_recommended,
        logged_data_status=DataState(moment(data.last_updated), data.days_old, data.sample_count),
        model_status=ModelState(moment(model.last_updated), model.days_old, model.exists, model.version),
        recommendations=list(message.recommendations),
        due=message.due,
        running=translate_run(message.running) if message.HasField("running") else None,
        drift=read(message.drift, DriftStatus),
    )
