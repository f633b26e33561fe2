"""Routes of experiments: a challenger on real traffic."""

from typing import Any

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from moodfood.registry.v1 import manifest_pb2
from moodfood.trainer.v1 import experiments_pb2

from services.gateway import answers, schemas
from services.gateway.peers import Peers
from services.gateway.problems import InvalidBody

TAG = "Experiment"

_KINDS = {"shadow": manifest_pb2.EXPERIMENT_KIND_SHADOW, "canary": manifest_pb2.EXPERIMENT_KIND_CANARY}


@post("/retrain/abtest/start", status_code=200, tags=[TAG], summary="Try a version on real traffic")
async def start_experiment(data: JSONBody[schemas.ExperimentBody], peers: NamedDependency[Peers]) -> dict[str, Any]:
    """Begin a shadow (its answers are only logged) or a canary (a share of the callers get them); one at a time."""
    if data.kind not in _KINDS:
        raise InvalidBody("kind", f"use one of {', '.join(_KINDS)}")
    response = await peers.experiments.StartExperiment(
        experiments_pb2.StartExperimentRequest(
            kind=_KINDS[data.kind], version=data.version, share=data.share, by=data.by
        ),
        timeout=peers.promotion_seconds,
    )
    return {"status": "started", "experiment": answers.experiment(response.experiment)}


@get("/retrain/abtest/status", tags=[TAG], summary="The experiment that goes on, or the last one")
async def experiment_status(peers: NamedDependency[Peers]) -> dict[str, Any]:
    """Show agreement, accuracy on feedback, times, errors, and the verdict so far."""
    response = await peers.experiments.GetExperiment(
        experiments_pb2.GetExperimentRequest(), timeout=peers.training_seconds
    )
    shown = answers.experiment(response.experiment) if response.HasField("experiment") else None
    return {"status": "running" if response.experiment.running else "none", "experiment": shown}


@post("/retrain/abtest/stop", status_code=200, tags=[TAG], summary="End the experiment")
async def stop_experiment(
    peers: NamedDependency[Peers], data: JSONBody[schemas.StopExperimentBody | None] = None
) -> dict[str, Any]:
    """End it with a verdict; with `promote` the challenger becomes the champion if every rule passes."""
    asked = data or schemas.StopExperimentBody()
    response = await peers.experiments.StopExperiment(
        experiments_pb2.StopExperimentRequest(promote=asked.promote, by=asked.by, reason=asked.reason),
        timeout=peers.promotion_seconds,
    )
    return {
        "status": "promoted" if response.promoted else "stopped",
        "experiment": answers.experiment(response.experiment),
    }
