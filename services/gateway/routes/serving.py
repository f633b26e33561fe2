"""Routes of what inference is doing: the version it serves, and its query log."""

from typing import Annotated, Literal

from litestar import get
from litestar.di import NamedDependency
from moodfood.inference.v1 import inference_pb2
from msgspec import UNSET, Meta, Struct, UnsetType

from services.gateway.peers import Peers
from services.gateway.problems import describe
from services.gateway.routes.fields import Instant, Moment, Number, moment, read

TAG = "Serving"

Stage = Literal["unspecified", "linear", "transformer", "keyword"]


class ClassifierState(Struct):
    """What inference has loaded."""

    ml_classifier_loaded: bool
    ml_labels_count: int
    transformer_loaded: bool


class ModelStatus(ClassifierState):
    """The version in service on the replica that answers."""

    model: str
    version: Annotated[int, Meta(description="0 while none is loaded; keywords answer then")]
    generation: Annotated[int, Meta(description="Generation of the champion that this replica follows")]
    champion_version: Annotated[int, Meta(description="0 if there is no champion")]
    stages: Annotated[list[Stage], Meta(description="Stages that can answer, in the order they are asked")]
    label_count: int
    last_reload_error: Annotated[str, Meta(description="Why the last reload failed; empty if it did not")]
    min_confidence: Annotated[Number, Meta(description="Below this confidence the model does not answer")]
    transformer_missing: Annotated[str, Meta(description="Why the transformer stage does not serve; empty if it does")]
    warm_versions: Annotated[list[int], Meta(description="Versions that are kept ready to serve at once")]
    experiment_id: Annotated[str, Meta(description="The experiment this replica takes part in; empty if none")]
    loaded_at: Instant | UnsetType = UNSET


class QueryLogStats(Struct):
    """The query log of the replica that answers."""

    written: Annotated[int, Meta(description="Queries written since the replica started")]
    dropped: Annotated[int, Meta(description="Queries lost because the disk was slow or full")]
    pending: Annotated[int, Meta(description="Queries not yet written")]
    file_bytes: Annotated[int, Meta(description="Size of the current file")]
    rotated_files: int
    last_written_at: Moment | None
    spooled: Annotated[int, Meta(description="Queries that wait until the trainer has stored them")]
    spool_dropped: Annotated[int, Meta(description="Queries lost before the trainer had stored them")]
    spool_bytes: Annotated[int, Meta(description="Size of what waits")]


def translate_state(status: inference_pb2.GetModelStatusResponse) -> ClassifierState:
    """Return what inference has loaded."""
    return ClassifierState(
        ml_classifier_loaded=status.version > 0,
        ml_labels_count=status.label_count,
        transformer_loaded=inference_pb2.STAGE_TRANSFORMER in status.stages,
    )


@get("/model/status", tags=[TAG], summary="Show what is serving", responses=describe(400))
async def show_model(peers: NamedDependency[Peers]) -> ModelStatus:
    """Return the version in service, its stages and why the last reload failed, if it did."""
    response = await peers.inference.GetModelStatus(inference_pb2.GetModelStatusRequest(), timeout=peers.query_seconds)
    state = translate_state(response)
    return read(
        response,
        ModelStatus,
        ml_classifier_loaded=state.ml_classifier_loaded,
        ml_labels_count=state.ml_labels_count,
        transformer_loaded=state.transformer_loaded,
    )


@get("/logging/stats", tags=[TAG], summary="Show how the query log is doing", responses=describe(400))
async def show_query_log(peers: NamedDependency[Peers]) -> QueryLogStats:
    """Return counts and sizes of the query log of the replica that answers."""
    response = await peers.inference.GetQueryLogStats(
        inference_pb2.GetQueryLogStatsRequest(), timeout=peers.query_seconds
    )
    return QueryLogStats(
        written=response.written,
        dropped=response.dropped,
        pending=response.pending,
        file_bytes=response.file_bytes,
        rotated_files=response.rotated_files,
        last_written_at=moment(response.last_written_at),
        spooled=response.spooled,
        spool_dropped=response.spool_dropped,
        spool_bytes=response.spool_bytes,
    )
