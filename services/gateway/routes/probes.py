"""Routes of the probes: is the gateway alive, can it answer queries, and what state is everything in."""

from typing import Annotated, Literal

import grpc
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from moodfood.inference.v1 import inference_pb2
from msgspec import UNSET, Meta, Struct, UnsetType

from services.gateway.peers import HEALTH_DEADLINE_SECONDS, Peers
from services.gateway.routes.fields import Moment, now
from services.gateway.routes.serving import ClassifierState, translate_state

TAG = "Probe"


class Alive(Struct):
    """The gateway runs."""

    status: Literal["alive"]


@get("/livez", tags=[TAG], summary="Ask whether the gateway runs", sync_to_thread=False)
def livez() -> Alive:
    """Answer as long as the process does."""
    return Alive("alive")


class Ready(Struct):
    """Whether queries can be answered."""

    status: Literal["ready", "not_ready"]


@get(
    "/readyz",
    tags=[TAG],
    summary="Ask whether queries can be answered",
    responses={503: ResponseSpec(Ready, generate_examples=False, description="Inference does not serve.")},
)
async def readyz(peers: NamedDependency[Peers]) -> Response[Ready]:
    """Answer 200 when inference serves, else 503."""
    ready = await peers.serving(peers.inference_health)
    return Response(Ready("ready" if ready else "not_ready"), status_code=200 if ready else 503)


class HealthClassifierState(ClassifierState):
    """What inference has loaded and whether it can answer by it."""

    ml_classifier_available: bool


class TrainerState(Struct):
    """The trainer."""

    state: Literal["serving", "unreachable"]


class InferenceState(Struct):
    """Inference; the other fields are there when it can be reached."""

    state: Literal["serving", "unreachable"]
    model: str | UnsetType = UNSET
    model_version: Annotated[int, Meta(description="0 while none is loaded")] | UnsetType = UNSET
    champion_version: Annotated[int, Meta(description="0 if there is no champion")] | UnsetType = UNSET


class ServiceStates(Struct):
    """The services behind the gateway."""

    trainer: TrainerState
    inference: InferenceState


class Health(Struct):
    """State of every service."""

    status: Annotated[
        Literal["healthy", "degraded", "unhealthy"],
        Meta(description="degraded: the trainer is away; unhealthy: inference is away"),
    ]
    enhanced_classifier: HealthClassifierState
    services: ServiceStates
    timestamp: Moment


NOTHING_LOADED = HealthClassifierState(
    ml_classifier_loaded=False, ml_labels_count=0, transformer_loaded=False, ml_classifier_available=False
)


@get(
    "/health",
    tags=[TAG],
    summary="Show the state of every service",
    responses={503: ResponseSpec(Health, generate_examples=False, description="Inference cannot be reached.")},
)
async def health(peers: NamedDependency[Peers]) -> Response[Health]:
    """Answer 200 when inference can be reached, else 503; always with the same fields."""
    trainer = TrainerState("serving" if await peers.serving(peers.trainer_health) else "unreachable")
    try:
        model = await peers.inference.GetModelStatus(
            inference_pb2.GetModelStatusRequest(), timeout=HEALTH_DEADLINE_SECONDS
        )
    except grpc.aio.AioRpcError:
        services = ServiceStates(trainer, InferenceState("unreachable"))
        return Response(Health("unhealthy", NOTHING_LOADED, services, now()), status_code=503)
    status: Literal["healthy", "degraded"] = "healthy" if trainer.state == "serving" else "degraded"
    return Response(Health(status, _translate_classifier(model), _translate_services(trainer, model), now()))


def _translate_classifier(model: inference_pb2.GetModelStatusResponse) -> HealthClassifierState:
    state = translate_state(model)
    return HealthClassifierState(
        ml_classifier_loaded=state.ml_classifier_loaded,
        ml_labels_count=state.ml_labels_count,
        transformer_loaded=state.transformer_loaded,
        ml_classifier_available=state.ml_classifier_loaded,
    )


def _translate_services(trainer: TrainerState, model: inference_pb2.GetModelStatusResponse) -> ServiceStates:
    inference = InferenceState(
        state="serving", model=model.model, model_version=model.version, champion_version=model.champion_version
    )
    return ServiceStates(trainer, inference)
