"""Routes of the operators: retrain, watch, compare, promote, roll back."""

import asyncio
from typing import Annotated, Any

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from moodfood.inference.v1 import inference_pb2
from moodfood.trainer.v1 import trainer_pb2

from services.gateway import answers, schemas
from services.gateway.peers import Peers
from services.gateway.problems import InvalidBody

TAG = "Operate"
STARTED = "Model retraining started in background"

_TRIGGERS = {
    "api_triggered": trainer_pb2.TRIGGER_API_TRIGGERED,
    "cron_triggered": trainer_pb2.TRIGGER_CRON_TRIGGERED,
    "manual": trainer_pb2.TRIGGER_MANUAL,
}

Limit = Annotated[int, QueryParameter(ge=1, le=1000, description="How many entries, newest first")]


@post("/retrain", status_code=200, tags=[TAG], summary="Retrain in the background")
async def retrain(
    peers: NamedDependency[Peers], data: JSONBody[schemas.RetrainBody | None] = None
) -> schemas.RetrainAnswer:
    """Start a training run and answer at once; 409 with the running operation while one is going."""
    asked = data or schemas.RetrainBody()
    if asked.trigger not in _TRIGGERS:
        raise InvalidBody("trigger", f"use one of {', '.join(_TRIGGERS)}")
    operation = await peers.trainer.Retrain(
        trainer_pb2.RetrainRequest(
            force=asked.force,
            trigger=_TRIGGERS[asked.trigger],
            validate_only=asked.validate_only,
            request_id=asked.request_id,
            snapshot_id=asked.snapshot_id,
        ),
        timeout=peers.training_seconds,
    )
    run = trainer_pb2.TrainingRun()
    operation.metadata.Unpack(run)
    skipped = run.state == trainer_pb2.RUN_STATE_SKIPPED
    return schemas.RetrainAnswer(
        status="skipped" if skipped else "started",
        message=f"Retraining is not due: {'; '.join(run.reasons)}" if skipped else STARTED,
        timestamp=answers.now(),
        operation=operation.name,
    )


@get("/retrain/status", tags=[TAG], summary="Is retraining due, and what is going on?")
async def retrain_status(peers: NamedDependency[Peers]) -> schemas.RetrainStatusAnswer:
    """Say how much new data there is, how old the model is, and what is running."""
    status, model = await asyncio.gather(
        peers.trainer.GetRetrainStatus(trainer_pb2.GetRetrainStatusRequest(), timeout=peers.training_seconds),
        peers.inference.GetModelStatus(inference_pb2.GetModelStatusRequest(), timeout=peers.query_seconds),
    )
    return schemas.RetrainStatusAnswer(
        status="ok",
        retrain_status=answers.retrain_state(status),
        current_model_status=answers.classifier_state(model),
        timestamp=answers.now(),
    )


@get("/retrain/runs", tags=[TAG], summary="Training runs, newest first")
async def training_runs(peers: NamedDependency[Peers], limit: Limit = 50) -> dict[str, Any]:
    """List training runs with their stages, reasons and numbers."""
    response = await peers.trainer.ListTrainingRuns(
        trainer_pb2.ListTrainingRunsRequest(page_size=limit), timeout=peers.training_seconds
    )
    return {"runs": [answers.run(each) for each in response.runs]}


@get("/retrain/runs/{run_id:str}", tags=[TAG], summary="One training run")
async def training_run(peers: NamedDependency[Peers], run_id: FromPath[str]) -> dict[str, Any]:
    """Return one training run."""
    response = await peers.trainer.GetTrainingRun(
        trainer_pb2.GetTrainingRunRequest(run_id=run_id), timeout=peers.training_seconds
    )
    return answers.run(response.run)


@get("/retrain/metrics", tags=[TAG], summary="How a version did on held-out examples")
async def metrics(
    peers: NamedDependency[Peers],
    version: Annotated[int, QueryParameter(ge=0, le=2**31 - 1, description="0 is the champion")] = 0,
) -> dict[str, Any]:
    """Return the evaluation of a version and the gate's decision."""
    response = await peers.trainer.GetEvaluation(
        trainer_pb2.GetEvaluationRequest(version=version), timeout=peers.training_seconds
    )
    return answers.plain(response)


@get("/retrain/versions", tags=[TAG], summary="Versions in the registry, newest first")
async def versions(peers: NamedDependency[Peers]) -> dict[str, Any]:
    """List versions and the champion alias."""
    response = await peers.trainer.ListModelVersions(
        trainer_pb2.ListModelVersionsRequest(), timeout=peers.training_seconds
    )
    return {
        "model": response.model,
        "versions": [answers.version(each) for each in response.versions],
        "champion": answers.plain(response.champion) if response.HasField("champion") else None,
    }


@get("/retrain/history", tags=[TAG], summary="Promotions, rollbacks and refusals, newest first")
async def history(peers: NamedDependency[Peers], limit: Limit = 50) -> dict[str, Any]:
    """Say which version served when, who changed it and why."""
    response = await peers.trainer.ListPromotions(
        trainer_pb2.ListPromotionsRequest(page_size=limit), timeout=peers.training_seconds
    )
    return {"history": [answers.history_entry(each) for each in response.entries]}


@post("/retrain/rollback", status_code=200, tags=[TAG], summary="Bring the former champion back")
async def rollback(peers: NamedDependency[Peers], data: JSONBody[schemas.RollbackBody | None] = None) -> dict[str, Any]:
    """Swap every replica back to the champion before this one."""
    asked = data or schemas.RollbackBody()
    response = await peers.trainer.RollbackModel(
        trainer_pb2.RollbackModelRequest(by=asked.by, reason=asked.reason), timeout=peers.promotion_seconds
    )
    return {"status": "rolled_back", **answers.plain(response)}


@post("/retrain/deploy", status_code=200, tags=[TAG], summary="Promote a version")
async def deploy(data: JSONBody[schemas.DeployBody], peers: NamedDependency[Peers]) -> dict[str, Any]:
    """Make a version that passed the gate the champion."""
    response = await peers.trainer.PromoteModel(
        trainer_pb2.PromoteModelRequest(version=data.version, by=data.by, reason=data.reason),
        timeout=peers.promotion_seconds,
    )
    return {"status": "deployed", **answers.plain(response)}


@get("/model/status", tags=[TAG], summary="What is serving")
async def model_status(peers: NamedDependency[Peers]) -> dict[str, Any]:
    """Return the version in service, its stages and the last failed reload."""
    response = await peers.inference.GetModelStatus(inference_pb2.GetModelStatusRequest(), timeout=peers.query_seconds)
    state = answers.classifier_state(response)
    return {
        **answers.plain(response),
        "stages": [inference_pb2.Stage.Name(stage).removeprefix("STAGE_").lower() for stage in response.stages],
        "ml_classifier_loaded": state.ml_classifier_loaded,
        "ml_labels_count": state.ml_labels_count,
        "transformer_loaded": state.transformer_loaded,
    }


@get("/logging/stats", tags=[TAG], summary="How the query log is doing")
async def logging_stats(peers: NamedDependency[Peers]) -> dict[str, Any]:
    """Return counts and sizes of the query log of the replica that answers."""
    response = await peers.inference.GetQueryLogStats(
        inference_pb2.GetQueryLogStatsRequest(), timeout=peers.query_seconds
    )
    return {
        "written": response.written,
        "dropped": response.dropped,
        "pending": response.pending,
        "file_bytes": response.file_bytes,
        "rotated_files": response.rotated_files,
        "last_written_at": answers.moment(response.last_written_at),
    }
