"""Routes of the probes: alive, ready, and what state everything is in."""

from typing import Any

import grpc
from litestar import Response, get
from litestar.di import NamedDependency
from moodfood.inference.v1 import inference_pb2

from services.gateway import answers, schemas
from services.gateway.peers import HEALTH_DEADLINE_SECONDS, Peers

TAG = "Probe"
NOTHING_LOADED = schemas.HealthClassifierState(
    ml_classifier_loaded=False, ml_labels_count=0, transformer_loaded=False, ml_classifier_available=False
)


@get("/livez", tags=[TAG], summary="The gateway runs", sync_to_thread=False)
def livez() -> dict[str, str]:
    """Answer as long as the process does."""
    return {"status": "alive"}


@get("/readyz", tags=[TAG], summary="Queries can be answered")
async def readyz(peers: NamedDependency[Peers]) -> Response[dict[str, str]]:
    """Answer 200 when inference serves, else 503."""
    ready = await peers.serving(peers.inference_health)
    return Response({"status": "ready" if ready else "not_ready"}, status_code=200 if ready else 503)


@get("/health", tags=[TAG], summary="State of every service")
async def health(peers: NamedDependency[Peers]) -> Response[schemas.HealthAnswer]:
    """Answer 200 when inference can be reached, else 503; always with the same fields."""
    trainer_serves = await peers.serving(peers.trainer_health)
    services: dict[str, Any] = {"trainer": {"state": "serving" if trainer_serves else "unreachable"}}
    try:
        model = await peers.inference.GetModelStatus(
            inference_pb2.GetModelStatusRequest(), timeout=HEALTH_DEADLINE_SECONDS
        )
    except grpc.aio.AioRpcError:
        services["inference"] = {"state": "unreachable"}
        return _answer("unhealthy", NOTHING_LOADED, services, 503)
    services["inference"] = {
        "state": "serving",
        "model": model.model,
        "model_version": model.version,
        "champion_version": model.champion_version,
    }
    state = answers.classifier_state(model)
    classifier = schemas.HealthClassifierState(
        ml_classifier_loaded=state.ml_classifier_loaded,
        ml_labels_count=state.ml_labels_count,
        transformer_loaded=state.transformer_loaded,
        ml_classifier_available=state.ml_classifier_loaded,
    )
    return _answer("healthy" if trainer_serves else "degraded", classifier, services, 200)


def _answer(
    status: str, classifier: schemas.HealthClassifierState, services: dict[str, Any], status_code: int
) -> Response[schemas.HealthAnswer]:
    return Response(
        schemas.HealthAnswer(status=status, enhanced_classifier=classifier, services=services, timestamp=answers.now()),
        status_code=status_code,
    )
