"""Routes of experiments: a challenger meets real queries before it serves everybody."""

from typing import Annotated, Literal

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import experiments_pb2
from msgspec import UNSET, Meta, Struct, UnsetType

from services.gateway.peers import Peers
from services.gateway.problems import describe
from services.gateway.routes.evaluation import Decision
from services.gateway.routes.fields import Body, By, Instant, Number, OptionalBody, Reason, VersionNumber, read

TAG = "Experiment"

ExperimentKind = Literal["unspecified", "shadow", "canary"]


class ExperimentResult(Struct):
    """What was seen of both sides, on queries that both answered."""

    queries: int
    agreement: Annotated[Number, Meta(description="Share of them answered alike")]
    judged: Annotated[int, Meta(description="Those that people gave labels to")]
    champion_accuracy: Annotated[Number, Meta(description="Share of the judged that the champion answered rightly")]
    challenger_accuracy: Annotated[Number, Meta(description="The same for the challenger")]
    champion_micros: Annotated[Number, Meta(description="Median time of the champion's answers, microseconds")]
    challenger_micros: Annotated[Number, Meta(description="The same for the challenger")]
    errors: Annotated[int, Meta(description="Queries that the challenger failed to answer")]
    challenger_answered: Annotated[int, Meta(description="Canary: queries that the challenger answered to callers")]
    decision: Decision | UnsetType = UNSET


class Experiment(Struct):
    """An experiment and what was seen of it."""

    experiment_id: str
    kind: ExperimentKind
    challenger_version: Annotated[int, Meta(description="The version on trial")]
    champion_version: Annotated[int, Meta(description="The champion when it began")]
    share: Annotated[Number, Meta(description="Share of the callers that it concerns")]
    running: bool
    by: Annotated[str, Meta(description="Who began it")]
    reason: Annotated[str, Meta(description="Why it ended")]
    started_at: Instant | UnsetType = UNSET
    ended_at: Instant | UnsetType = UNSET
    result: ExperimentResult | UnsetType = UNSET


class StartExperimentBody(Body):
    """Which version to try on real traffic, and how."""

    kind: Annotated[
        Literal["shadow", "canary"], Meta(description="shadow: its answers are only logged; canary: callers get them")
    ]
    version: VersionNumber
    share: Annotated[
        float, Meta(ge=0, le=1, description="Share of the callers; 0 means 1 for a shadow, 0.1 for a canary")
    ] = 0
    by: By = ""


class StartExperimentAnswer(Struct):
    """The experiment was begun."""

    status: Literal["started"]
    experiment: Experiment


@post(
    "/retrain/abtest/start",
    status_code=200,
    tags=[TAG],
    summary="Try a version on real traffic",
    responses=describe(400, 404, 409, 413),
)
async def start_experiment(data: JSONBody[StartExperimentBody], peers: NamedDependency[Peers]) -> StartExperimentAnswer:
    """Begin an experiment with a version that passed the gate. 409 while another one goes on."""
    response = await peers.experiments.StartExperiment(
        experiments_pb2.StartExperimentRequest(
            kind=manifest_pb2.ExperimentKind.Value(f"EXPERIMENT_KIND_{data.kind.upper()}"),
            version=data.version,
            share=data.share,
            by=data.by,
        ),
        timeout=peers.promotion_seconds,
    )
    return StartExperimentAnswer("started", read(response.experiment, Experiment))


class ExperimentStatus(Struct):
    """The experiment that goes on, or the last one."""

    status: Annotated[Literal["running", "none"], Meta(description="Whether an experiment goes on")]
    experiment: Annotated[Experiment | None, Meta(description="null if there never was one")]


@get("/retrain/abtest/status", tags=[TAG], summary="Show the experiment", responses=describe(400))
async def show_experiment(peers: NamedDependency[Peers]) -> ExperimentStatus:
    """Return agreement, accuracy on feedback, times, errors and the verdict so far."""
    response = await peers.experiments.GetExperiment(
        experiments_pb2.GetExperimentRequest(), timeout=peers.training_seconds
    )
    shown = read(response.experiment, Experiment) if response.HasField("experiment") else None
    return ExperimentStatus("running" if response.experiment.running else "none", shown)


class StopExperimentBody(Body):
    """Whether to promote the challenger if the verdict allows it, who asks and why."""

    promote: bool = False
    by: By = ""
    reason: Reason = ""


class StopExperimentAnswer(Struct):
    """The experiment was ended."""

    status: Literal["promoted", "stopped"]
    experiment: Experiment


@post(
    "/retrain/abtest/stop",
    status_code=200,
    tags=[TAG],
    summary="End the experiment",
    operation_class=OptionalBody,
    responses=describe(400, 404, 409, 413),
)
async def stop_experiment(
    peers: NamedDependency[Peers], data: JSONBody[StopExperimentBody | None] = None
) -> StopExperimentAnswer:
    """End the experiment. With `promote` the challenger becomes the champion if every rule of the verdict passes."""
    asked = data or StopExperimentBody()
    response = await peers.experiments.StopExperiment(
        experiments_pb2.StopExperimentRequest(promote=asked.promote, by=asked.by, reason=asked.reason),
        timeout=peers.promotion_seconds,
    )
    return StopExperimentAnswer("promoted" if response.promoted else "stopped", read(response.experiment, Experiment))
