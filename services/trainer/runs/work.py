"""The work of one run: a child process trains and registers a version, which is then rehearsed and promoted."""

import asyncio
import contextlib
from collections.abc import Callable

from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.errors import VersionRefused
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.change import Change
from services.trainer.runs.events import name_trigger
from services.trainer.runs.plan import Plan
from services.trainer.runs.process import Train
from services.trainer.runs.record import WorkerDied, WorkerFailed, read_results
from services.trainer.runs.stages import RunStage

PROMOTER = "training run"


class RunWork:
    """Carries out one run and keeps its record current, on the event loop. When it is cancelled, the child is killed.

    Args:
        run: the record.
        plan: what the run works on.
        registry: holds the version.
        champion: promotes it.
        train: trains and registers a version.
        changed: called after each change of the record; True when a stage has begun, False for progress within one.

    """

    def __init__(
        self,
        run: pb.TrainingRun,
        plan: Plan,
        registry: ModelRegistry,
        champion: Champion,
        train: Train,
        changed: Callable[[bool], None],
    ) -> None:
        self._run = run
        self._plan = plan
        self._registry = registry
        self._champion = champion
        self._train_by = train
        self._changed = changed

    async def carry_out(self) -> None:
        """Train and promote the registered version. Raises the exception that ends the run early."""
        await self._train()
        run = self._run
        run.MergeFrom(await asyncio.to_thread(read_results, run.version, self._registry))
        if not run.decision.promoted:
            await asyncio.to_thread(self._registry.record_refusal, run.version, PROMOTER)
        await asyncio.to_thread(self._registry.versions.check_promotable, run.version)
        if not run.validate_only:
            await self._promote()

    async def _train(self) -> None:
        run = self._run
        async with contextlib.aclosing(self._train_by(self._plan)) as reports:
            async for report in reports:
                if report.state == pb.RUN_STATE_FAILED:
                    raise WorkerFailed("; ".join(report.reasons))
                if report.version:
                    run.version = report.version
                elif report.stage != run.stage:
                    self._enter(report.stage, report.percent)
                elif report.percent > run.percent:
                    run.percent = report.percent
                    run.updated_at.GetCurrentTime()
                    self._changed(False)
        if not run.version:
            raise WorkerDied

    async def _promote(self) -> None:
        run = self._run
        self._enter(RunStage.REHEARSE.message, RunStage.REHEARSE.begins_at)
        reason = f"passed the gate in run {run.run_id} ({name_trigger(run.trigger)})"
        change = Change(run.version, run.champion_version, PROMOTER, reason, must_reach=True)
        try:
            changed = await self._champion.promote(
                change, lambda: self._enter(RunStage.PROMOTE.message, RunStage.PROMOTE.begins_at)
            )
        except VersionRefused:
            await self._read_decision()
            raise
        run.replicas.extend(replica.outcome for replica in changed.replicas)
        await self._read_decision()

    async def _read_decision(self) -> None:
        """Read the decision again, because the rehearsal adds its rules to it."""
        self._run.decision.CopyFrom(await asyncio.to_thread(self._registry.versions.decision, self._run.version))

    def _enter(self, stage: "pb.RunStage.ValueType", percent: int) -> None:
        self._run.stage, self._run.percent = stage, max(self._run.percent, percent)
        self._run.updated_at.GetCurrentTime()
        self._changed(True)
