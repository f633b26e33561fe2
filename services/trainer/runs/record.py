"""The record of a training run: how it starts, what it copies from the registry, and how it ends.

A run starts as running, or as skipped when retraining was not due. One table, _ENDINGS, says how it ends: from the
exception that ended the run to its final state and its reasons.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.errors import (
    ModelVersionNotFound,
    NoReplicaReached,
    ReplicaRejected,
    TrainerError,
    VersionRefused,
)
from services.trainer.registry.registry import ModelRegistry
from services.trainer.runs.stages import name_stage

UNEXPECTED = "an unexpected error happened; see the log of the trainer"


class RunCancelled(Exception):
    """Somebody cancelled the run."""


class TrainerStopped(Exception):
    """The trainer stopped before the run ended."""


class WorkerDied(Exception):
    """The training process ended without a report of its result."""


class WorkerFailed(Exception):
    """The training process reported why it could not register a version."""


@dataclass(frozen=True)
class _Ending:
    cause: type[BaseException]
    state: "pb.RunState.ValueType"
    reasons: Callable[[pb.TrainingRun, BaseException], Iterable[str]]


# The first row whose exception matches counts. A run without an exception has succeeded.
_ENDINGS = (
    _Ending(RunCancelled, pb.RUN_STATE_CANCELLED, lambda run, _: [f"cancelled in stage {name_stage(run)}"]),
    _Ending(TrainerStopped, pb.RUN_STATE_FAILED, lambda run, _: [f"the trainer stopped in stage {name_stage(run)}"]),
    _Ending(WorkerDied, pb.RUN_STATE_FAILED, lambda run, _: [f"the training process died in stage {name_stage(run)}"]),
    _Ending(WorkerFailed, pb.RUN_STATE_FAILED, lambda _, error: [str(error)]),
    _Ending(VersionRefused, pb.RUN_STATE_REJECTED, lambda run, _: list_failed_rules(run)),
    _Ending(TrainerError, pb.RUN_STATE_FAILED, lambda _, error: [str(error)]),
    _Ending(BaseException, pb.RUN_STATE_FAILED, lambda _, __: [UNEXPECTED]),
)


def operation_name(run_id: str) -> str:
    """Return the name of a run's long-running operation."""
    return f"operations/{run_id}"


def begin_run(
    run_id: str, trigger: "pb.Trigger.ValueType", *, validate_only: bool = False, request_id: str = ""
) -> pb.TrainingRun:
    """Return the record of a run that starts now."""
    run = pb.TrainingRun(
        run_id=run_id,
        trigger=trigger,
        state=pb.RUN_STATE_RUNNING,
        validate_only=validate_only,
        request_id=request_id,
    )
    run.started_at.GetCurrentTime()
    return run


def skip_run(run: pb.TrainingRun, reason: str) -> None:
    """Record that a run was skipped, and why."""
    run.state, run.percent = pb.RUN_STATE_SKIPPED, 100
    run.reasons.append(reason)
    run.finished_at.CopyFrom(run.started_at)


def read_results(run: pb.TrainingRun, registry: ModelRegistry) -> None:
    """Copy snapshot, evaluation and decision of a run's version from the registry. Raises ModelVersionNotFound."""
    manifest = registry.versions.manifest(run.version)
    run.snapshot.CopyFrom(manifest.snapshot)
    run.evaluation.CopyFrom(registry.versions.evaluation(run.version))
    run.decision.CopyFrom(registry.versions.decision(run.version))
    run.champion_version = run.decision.champion_version
    seen = 0
    if run.champion_version:
        with contextlib.suppress(ModelVersionNotFound):
            seen = registry.versions.manifest(run.champion_version).snapshot.feedback_records
    run.new_samples = max(0, manifest.snapshot.feedback_records - seen)


def end_run(run: pb.TrainingRun, cause: BaseException | None) -> None:
    """Record how a run ended. `cause` is the exception that ended it early, or None when it succeeded."""
    run.percent = 100
    run.finished_at.GetCurrentTime()
    if cause is None:
        run.state = pb.RUN_STATE_SUCCEEDED
        return
    if isinstance(cause, ReplicaRejected | NoReplicaReached):
        run.replicas.extend(cause.replicas)
    ending = next(ending for ending in _ENDINGS if isinstance(cause, ending.cause))
    run.state = ending.state
    run.reasons[:] = ending.reasons(run, cause)


def list_failed_rules(run: pb.TrainingRun) -> Sequence[str]:
    """Return one sentence for each rule of the gate or of the rehearsal that failed."""
    return [f"{rule.rule}: {rule.detail}" for rule in run.decision.rules if not rule.passed]
