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
    StorageFailed,
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


class RunTakenOver(Exception):
    """Another trainer took the run over, because this one did not renew its lease in time."""


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
    _Ending(RunTakenOver, pb.RUN_STATE_FAILED, lambda _, __: ["another trainer took the run over"]),
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


def copy_run(run: pb.TrainingRun) -> pb.TrainingRun:
    """Return a copy of the record of a run, as it is now."""
    copy = pb.TrainingRun()
    copy.CopyFrom(run)
    return copy


def skip_run(run: pb.TrainingRun, reason: str) -> None:
    """Record that a run was skipped, and why."""
    run.state, run.percent = pb.RUN_STATE_SKIPPED, 100
    run.reasons.append(reason)
    run.finished_at.CopyFrom(run.started_at)


def read_results(version: int, registry: ModelRegistry) -> pb.TrainingRun:
    """Return what the registry knows of a run's version: snapshot, evaluation and decision.

    Raises ModelVersionNotFound.
    """
    snapshot, decision = registry.versions.manifest(version).snapshot, registry.versions.decision(version)
    seen = 0
    if decision.champion_version:
        with contextlib.suppress(ModelVersionNotFound):
            seen = registry.versions.manifest(decision.champion_version).snapshot.feedback_records
    return pb.TrainingRun(
        snapshot=snapshot,
        evaluation=registry.versions.evaluation(version),
        decision=decision,
        champion_version=decision.champion_version,
        new_samples=max(0, snapshot.feedback_records - seen),
    )


def serves(run: pb.TrainingRun, registry: ModelRegistry) -> bool:
    """Say whether the version of a run is the champion, as far as that can be read now.

    Then the run has succeeded, whatever came after the promotion.
    """
    try:
        return run.version > 0 and run.version == registry.alias.version()
    except StorageFailed:
        return False


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
