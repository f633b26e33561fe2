"""Routes of versions: which ones there are, which one is the champion, and changing that."""

from typing import Annotated, Literal

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from moodfood.trainer.v1 import trainer_pb2
from msgspec import UNSET, Meta, Struct, UnsetType

from services.gateway.peers import Peers
from services.gateway.problems import describe
from services.gateway.routes.evaluation import TAG, Rule
from services.gateway.routes.fields import Body, By, Instant, Limit, Number, OptionalBody, Reason, VersionNumber, read

VersionState = Literal["unspecified", "champion", "ready", "refused"]
HistoryAction = Literal["unspecified", "promoted", "rolled_back", "refused", "reasserted"]


class ModelVersion(Struct):
    """A version in the registry."""

    version: int
    state: Annotated[VersionState, Meta(description="ready: it passed the gate and does not serve")]
    accuracy: Annotated[Number, Meta(description="On held-out examples, 0 to 1")]
    macro_f1: Number
    recall_at_3: Number
    label_count: int
    snapshot_id: Annotated[str, Meta(description="The dataset it learned")]
    training_run: Annotated[str, Meta(description="The run that produced it")]
    created_at: Instant | UnsetType = UNSET


class Champion(Struct):
    """Which version serves."""

    version: int
    generation: Annotated[int, Meta(description="Grows with every change")]
    previous: Annotated[int, Meta(description="The champion before it; 0 if there was none")]
    by: str
    reason: str
    promoted_at: Instant | UnsetType = UNSET


class VersionList(Struct):
    """The versions in the registry, newest first."""

    model: str
    versions: list[ModelVersion]
    champion: Champion | None


@get("/retrain/versions", tags=[TAG], summary="List the versions", responses=describe(400))
async def list_versions(peers: NamedDependency[Peers]) -> VersionList:
    """List the versions in the registry, newest first, and say which one is the champion."""
    response = await peers.trainer.ListModelVersions(
        trainer_pb2.ListModelVersionsRequest(), timeout=peers.training_seconds
    )
    return VersionList(
        model=response.model,
        versions=[read(version, ModelVersion) for version in response.versions],
        champion=read(response.champion, Champion) if response.HasField("champion") else None,
    )


class HistoryEntry(Struct):
    """A change of the champion, or a version that was refused."""

    action: HistoryAction
    from_version: Annotated[int, Meta(description="The champion before")]
    to_version: Annotated[int, Meta(description="The champion after, or the refused version")]
    generation: int
    by: str
    reason: str
    rules: Annotated[list[Rule], Meta(description="What the gate measured")]
    at: Instant | UnsetType = UNSET


class History(Struct):
    """Promotions, rollbacks and refusals, newest first."""

    history: list[HistoryEntry]


@get("/retrain/history", tags=[TAG], summary="List promotions, rollbacks and refusals", responses=describe(400))
async def list_history(peers: NamedDependency[Peers], limit: Limit = 50) -> History:
    """Say which version served when, who changed it and why; newest first."""
    response = await peers.trainer.ListPromotions(
        trainer_pb2.ListPromotionsRequest(page_size=limit), timeout=peers.training_seconds
    )
    return History([read(entry, HistoryEntry) for entry in response.entries])


class ReplicaOutcome(Struct):
    """What one replica of inference did."""

    target: Annotated[str, Meta(description="Its address")]
    version: Annotated[int, Meta(description="The version it serves now; 0 if unknown")]
    error: Annotated[str, Meta(description="Why it did not change; empty if it did")]


ExpectedChampion = Annotated[
    int,
    Meta(ge=0, le=2**31 - 1, description="The champion that you have seen; 409 when another one serves. 0: any"),
]


class DeployBody(Body):
    """Which version to promote, who asks and why."""

    version: VersionNumber
    by: By = ""
    reason: Reason = ""
    expected_champion: ExpectedChampion = 0


class RollbackBody(Body):
    """Who asks for the former champion and why."""

    by: By = ""
    reason: Reason = ""
    expected_champion: ExpectedChampion = 0


class ChangeAnswer(Struct):
    """The champion was changed."""

    status: Literal["deployed", "rolled_back"]
    replicas: list[ReplicaOutcome]
    champion: Champion | UnsetType = UNSET


@post(
    "/retrain/deploy",
    status_code=200,
    tags=[TAG],
    summary="Make a version the champion",
    responses=describe(400, 404, 409, 413),
)
async def deploy(data: JSONBody[DeployBody], peers: NamedDependency[Peers]) -> ChangeAnswer:
    """Bring a version that passed the gate to every replica. 409 if the gate or a replica refuses it."""
    response = await peers.trainer.PromoteModel(
        trainer_pb2.PromoteModelRequest(
            version=data.version, by=data.by, reason=data.reason, expected_champion=data.expected_champion
        ),
        timeout=peers.promotion_seconds,
    )
    return read(response, ChangeAnswer, status="deployed")


@post(
    "/retrain/rollback",
    status_code=200,
    tags=[TAG],
    summary="Bring the former champion back",
    operation_class=OptionalBody,
    responses=describe(400, 404, 409, 413),
)
async def roll_back(peers: NamedDependency[Peers], data: JSONBody[RollbackBody | None] = None) -> ChangeAnswer:
    """Bring the champion before this one back to every replica. 409 if there is none."""
    asked = data or RollbackBody()
    response = await peers.trainer.RollbackModel(
        trainer_pb2.RollbackModelRequest(by=asked.by, reason=asked.reason, expected_champion=asked.expected_champion),
        timeout=peers.promotion_seconds,
    )
    return read(response, ChangeAnswer, status="rolled_back")
