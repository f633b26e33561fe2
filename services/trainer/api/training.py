"""Translates between the proto contract and the domain; every method reads: translate in, call, translate out."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from google.longrunning import operations_pb2
from moodfood.registry.v1 import manifest_pb2 as registry_pb
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.api.labelling import Labelling, LabellingServicer
from services.trainer.api.operations import operation_of, page_size
from services.trainer.dataset.snapshot import read_snapshot
from services.trainer.errors import InvalidRequest, ModelVersionNotFound, NoChampion, TrainingRunNotFound
from services.trainer.feedback.intake import check_name
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion, Change
from services.trainer.rollout.rehearsals import Rehearsals
from services.trainer.runs.runner import Retrainer
from services.trainer.runs.store import RunStore
from services.trainer.schedule.status import RetrainingStatus

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["TrainerService"].full_name

MAX_REASON_CHARS = 1000


class TrainerServicer(LabellingServicer):
    """`moodfood.trainer.v1.TrainerService`: runs, versions and promotions here, labels in its base."""

    def __init__(
        self,
        retrainer: Retrainer,
        store: RunStore,
        registry: ModelRegistry,
        champion: Champion,
        status: RetrainingStatus,
        rehearsals: Rehearsals,
        labelling: Labelling,
    ) -> None:
        super().__init__(labelling)
        self._retrainer = retrainer
        self._store = store
        self._registry = registry
        self._champion = champion
        self._status = status
        self._rehearsals = rehearsals

    async def Retrain(self, request: pb.RetrainRequest, context: Any) -> operations_pb2.Operation:
        """Start a run, or return the one that this request id started."""
        check_name("request_id", request.request_id)
        trigger = checked_trigger(request.trigger)
        if request.request_id and (earlier := self._run_of_request(request.request_id)):
            return operation_of(earlier)
        if trigger == pb.TRIGGER_CRON_TRIGGERED and not request.force and self._retrainer.running is None:
            status = await asyncio.to_thread(self._status.now, None)
            if not status.due:
                return operation_of(self._retrainer.skip(trigger, status.next_retrain_recommended, request.request_id))
        check_name("snapshot_id", request.snapshot_id)
        if request.snapshot_id:
            read_snapshot(request.snapshot_id, self._registry.snapshots_folder)
        run = await self._retrainer.start(
            trigger,
            validate_only=request.validate_only,
            request_id=request.request_id,
            snapshot_id=request.snapshot_id,
        )
        return operation_of(run)

    async def WatchTrainingRun(
        self, request: pb.WatchTrainingRunRequest, context: Any
    ) -> AsyncIterator[pb.WatchTrainingRunResponse]:
        """Stream a run until it ends."""
        async for run in self._retrainer.watch(request.run_id or self._current_run_id()):
            yield pb.WatchTrainingRunResponse(run=run)

    async def GetRetrainStatus(self, request: pb.GetRetrainStatusRequest, context: Any) -> pb.GetRetrainStatusResponse:
        """Say whether retraining is due."""
        return await asyncio.to_thread(self._status.now, self._retrainer.running)

    async def ListTrainingRuns(self, request: pb.ListTrainingRunsRequest, context: Any) -> pb.ListTrainingRunsResponse:
        """List runs."""
        return pb.ListTrainingRunsResponse(runs=self._store.newest_first()[: page_size(request.page_size)])

    async def GetTrainingRun(self, request: pb.GetTrainingRunRequest, context: Any) -> pb.GetTrainingRunResponse:
        """Return one run."""
        return pb.GetTrainingRunResponse(run=self._store.get(request.run_id))

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: Any
    ) -> pb.ListModelVersionsResponse:
        """List versions."""
        champion = self._registry.champion()
        return pb.ListModelVersionsResponse(
            model=self._registry.model,
            versions=model_versions(self._registry, champion.version if champion else 0),
            champion=champion,
        )

    async def GetEvaluation(self, request: pb.GetEvaluationRequest, context: Any) -> pb.GetEvaluationResponse:
        """Return how a version did."""
        version = request.version or self._champion_version()
        return pb.GetEvaluationResponse(
            version=version,
            evaluation=self._registry.evaluation(version),
            decision=self._registry.decision(version),
        )

    async def PromoteModel(self, request: pb.PromoteModelRequest, context: Any) -> pb.PromoteModelResponse:
        """Make a version the champion."""
        check_who_and_why(request.by, request.reason)
        if request.version < 1:
            raise InvalidRequest("version", f"is {request.version}; versions start at 1")
        by = request.by or "api"
        await self._rehearsals.ensure(request.version, by)
        change = await self._champion.promote(request.version, by, request.reason or "promoted by hand")
        return pb.PromoteModelResponse(champion=change.alias, replicas=replica_outcomes(change))

    async def RollbackModel(self, request: pb.RollbackModelRequest, context: Any) -> pb.RollbackModelResponse:
        """Bring the former champion back."""
        check_who_and_why(request.by, request.reason)
        change = await self._champion.roll_back(request.by or "api", request.reason or "rolled back by hand")
        return pb.RollbackModelResponse(champion=change.alias, replicas=replica_outcomes(change))

    async def ListPromotions(self, request: pb.ListPromotionsRequest, context: Any) -> pb.ListPromotionsResponse:
        """List the history."""
        newest_first = self._registry.history()[::-1]
        return pb.ListPromotionsResponse(entries=newest_first[: page_size(request.page_size)])

    def _run_of_request(self, request_id: str) -> pb.TrainingRun | None:
        runs: Sequence[pb.TrainingRun] = self._store.newest_first()
        return next((run for run in runs if run.request_id == request_id), None)

    def _current_run_id(self) -> str:
        runs = self._store.newest_first()
        running = self._retrainer.running or (runs[0] if runs else None)
        if running is None:
            raise TrainingRunNotFound("")
        return running.run_id

    def _champion_version(self) -> int:
        champion = self._registry.champion()
        if champion is None:
            raise NoChampion
        return champion.version


def checked_trigger(trigger: "pb.Trigger.ValueType") -> "pb.Trigger.ValueType":
    """Return the trigger, the API's own when none is named.

    Raises:
        InvalidRequest: no trigger a caller may use.

    """
    own = (pb.TRIGGER_FIRST_MODEL, pb.TRIGGER_SCHEDULED, pb.TRIGGER_DRIFT)
    if trigger not in pb.Trigger.values() or trigger in own:
        raise InvalidRequest("trigger", "is none of api_triggered, cron_triggered and manual")
    return trigger or pb.TRIGGER_API_TRIGGERED


def check_who_and_why(by: str, reason: str) -> None:
    """Raise InvalidRequest when a name or a reason is too long."""
    check_name("by", by)
    if len(reason) > MAX_REASON_CHARS:
        raise InvalidRequest("reason", f"is longer than {MAX_REASON_CHARS} characters")


def replica_outcomes(change: Change) -> list[pb.ReplicaOutcome]:
    """Translate what the replicas did."""
    return [pb.ReplicaOutcome(target=each.target, version=each.version, error=each.problem) for each in change.replicas]


def model_versions(registry: ModelRegistry, champion_version: int) -> list[pb.ModelVersion]:
    """Translate every readable version, newest first."""
    versions = []
    for number in registry.versions():
        try:
            manifest, evaluation = registry.manifest(number), registry.evaluation(number)
            state = version_state(number, champion_version, registry.decision(number))
        except ModelVersionNotFound:
            continue
        versions.append(
            pb.ModelVersion(
                version=number,
                created_at=manifest.created_at,
                state=state,
                accuracy=evaluation.accuracy,
                macro_f1=evaluation.macro_f1,
                recall_at_3=evaluation.recall_at_3,
                label_count=len(manifest.labels),
                snapshot_id=manifest.snapshot.id,
                training_run=manifest.training_run,
            )
        )
    return versions


def version_state(
    number: int, champion_version: int, decision: registry_pb.PromotionDecision
) -> "pb.VersionState.ValueType":
    """Say what a version is now."""
    if number == champion_version:
        return pb.VERSION_STATE_CHAMPION
    return pb.VERSION_STATE_READY if decision.promoted else pb.VERSION_STATE_REFUSED
