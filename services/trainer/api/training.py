"""`moodfood.trainer.v1.TrainerService`: the calls about runs, versions and promotions.

The calls about labels are in its base class, LabellingServicer.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from google.longrunning import operations_pb2
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.api.checks import check_name, check_page_size, check_trigger, check_version, check_who_and_why
from services.trainer.api.labelling import Labelling, LabellingServicer
from services.trainer.api.operations import list_page, operation_of
from services.trainer.api.status import read_status
from services.trainer.api.versions import list_versions, read_evaluation
from services.trainer.errors import TrainingRunNotFound
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.change import Change
from services.trainer.runs.runner import Runner
from services.trainer.runs.store import RunStore
from services.trainer.schedule.due import DueCheck, start_if_due

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["TrainerService"].full_name


@dataclass(frozen=True)
class Training:
    """The objects that the calls about runs, versions and promotions need.

    Attributes:
        runner: starts and follows training runs.
        runs: reads the stored training runs.
        registry: reads versions, the alias and the history.
        champion: promotes and rolls back.
        due: says whether retraining is due.

    """

    runner: Runner
    runs: RunStore
    registry: ModelRegistry
    champion: Champion
    due: DueCheck


class TrainerServicer(LabellingServicer):
    """All calls of TrainerService. Each checks the request, calls one function, and translates the result."""

    def __init__(self, training: Training, labelling: Labelling) -> None:
        super().__init__(labelling)
        self._training = training

    async def Retrain(self, request: pb.RetrainRequest, context: Any) -> operations_pb2.Operation:
        check_name("request_id", request.request_id)
        check_name("snapshot_id", request.snapshot_id)
        trigger = check_trigger(request.trigger)
        earlier = await asyncio.to_thread(self._training.runs.of_request, request.request_id)
        if earlier is not None:
            return operation_of(earlier)
        runner = self._training.runner
        if trigger == pb.TRIGGER_CRON_TRIGGERED and not request.force:
            _, run = await start_if_due(runner, self._training.due, trigger, request_id=request.request_id)
        else:
            run = await runner.start(
                trigger,
                validate_only=request.validate_only,
                request_id=request.request_id,
                snapshot_id=request.snapshot_id,
            )
        return operation_of(run or pb.TrainingRun())

    async def WatchTrainingRun(
        self, request: pb.WatchTrainingRunRequest, context: Any
    ) -> AsyncIterator[pb.WatchTrainingRunResponse]:
        async for run in self._training.runner.watch(request.run_id or await self._newest_run_id()):
            yield pb.WatchTrainingRunResponse(run=run)

    async def GetRetrainStatus(self, request: pb.GetRetrainStatusRequest, context: Any) -> pb.GetRetrainStatusResponse:
        return await asyncio.to_thread(read_status, self._training.due)

    async def ListTrainingRuns(self, request: pb.ListTrainingRunsRequest, context: Any) -> pb.ListTrainingRunsResponse:
        size = check_page_size(request.page_size)
        runs, token = await asyncio.to_thread(list_page, self._training.runs, size, request.page_token)
        return pb.ListTrainingRunsResponse(runs=runs, next_page_token=token)

    async def GetTrainingRun(self, request: pb.GetTrainingRunRequest, context: Any) -> pb.GetTrainingRunResponse:
        return pb.GetTrainingRunResponse(run=await asyncio.to_thread(self._training.runs.get, request.run_id))

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: Any
    ) -> pb.ListModelVersionsResponse:
        return await asyncio.to_thread(list_versions, self._training.registry)

    async def GetEvaluation(self, request: pb.GetEvaluationRequest, context: Any) -> pb.GetEvaluationResponse:
        check_version("version", request.version, lowest=0)
        return await asyncio.to_thread(read_evaluation, self._training.registry, request.version)

    async def PromoteModel(self, request: pb.PromoteModelRequest, context: Any) -> pb.PromoteModelResponse:
        check_who_and_why(request.by, request.reason)
        check_version("version", request.version)
        check_version("expected_champion", request.expected_champion, lowest=0)
        expected = request.expected_champion or await asyncio.to_thread(self._training.registry.alias.version)
        change = Change(request.version, expected, request.by or "api", request.reason or "promoted by hand")
        changed = await self._training.champion.promote(change)
        replicas = [replica.outcome for replica in changed.replicas]
        return pb.PromoteModelResponse(champion=changed.alias, replicas=replicas)

    async def RollbackModel(self, request: pb.RollbackModelRequest, context: Any) -> pb.RollbackModelResponse:
        check_who_and_why(request.by, request.reason)
        check_version("expected_champion", request.expected_champion, lowest=0)
        changed = await self._training.champion.roll_back(
            request.by or "api", request.reason or "rolled back by hand", request.expected_champion
        )
        replicas = [replica.outcome for replica in changed.replicas]
        return pb.RollbackModelResponse(champion=changed.alias, replicas=replicas)

    async def ListPromotions(self, request: pb.ListPromotionsRequest, context: Any) -> pb.ListPromotionsResponse:
        size = check_page_size(request.page_size)
        entries = await asyncio.to_thread(self._training.registry.history.entries, size)
        return pb.ListPromotionsResponse(entries=entries.values())

    async def _newest_run_id(self) -> str:
        """Return the id of the run in progress or, if there is none, of the newest. Raises TrainingRunNotFound."""
        runs = self._training.runs
        newest = await asyncio.to_thread(lambda: runs.running() or next(iter(runs.newest_first(1)), None))
        if newest is None:
            raise TrainingRunNotFound("")
        return newest.run_id
