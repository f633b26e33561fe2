"""Asks for a training run on behalf of the schedule: when enough is new, or when queries have drifted."""

import asyncio

from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.errors import RetrainInProgress
from services.trainer.runs.runner import Retrainer
from services.trainer.runs.store import RunStore
from services.trainer.schedule.status import RetrainingStatus


class Automation:
    """Lives on the event loop."""

    def __init__(self, retrainer: Retrainer, status: RetrainingStatus, runs: RunStore, *, on_drift: bool) -> None:
        self._retrainer = retrainer
        self._status = status
        self._runs = runs
        self._on_drift = on_drift

    async def ask(self, tell: bool) -> str:  # noqa: FBT001 - the scheduler's callback
        """Begin a run if one is due and say what came of it; `tell` records one that was not due.

        Raises:
            StorageFailed: the run could not be recorded.

        """
        status = await asyncio.to_thread(self._status.now, None)
        trigger = pb.TRIGGER_SCHEDULED
        if not status.due and self._on_drift and status.drift.drifted and not self._tried_for_drift(status):
            trigger = pb.TRIGGER_DRIFT
        elif not status.due:
            if tell:
                self._retrainer.skip(trigger, status.next_retrain_recommended)
            return f"not due: {status.next_retrain_recommended}"
        try:
            run = await self._retrainer.start(trigger)
        except RetrainInProgress as error:
            return str(error)
        return f"started run {run.run_id}"

    def _tried_for_drift(self, status: pb.GetRetrainStatusResponse) -> bool:
        """Say whether drift has had its run since this champion was promoted; more of the same data teaches no more."""
        champion = status.model_status.last_updated.ToMilliseconds()
        return any(
            run.trigger == pb.TRIGGER_DRIFT and run.started_at.ToMilliseconds() > champion
            for run in self._runs.newest_first()
        )
