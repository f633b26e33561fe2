"""Carries out training runs: starts one at a time, follows it, promotes its version, and records how it ended.

    start -> a child process trains and registers a version -> rehearse -> promote -> end
      |                          |                                |           |
      +---- every early end goes through one table: runs/record.py -----------+

Everything lives on the event loop. The state of a run is on disk before each stage begins. A lock keeps two trainers on
the same folders from running two runs; each can watch, wait for and cancel the other's.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import structlog
from filelock import FileLock
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.dataset.snapshot import read_snapshot
from services.trainer.errors import RetrainInProgress, StorageFailed, TrainerError, VersionRefused
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion, Change
from services.trainer.runs.events import EventLog, name_trigger
from services.trainer.runs.plan import Plan
from services.trainer.runs.process import run_worker
from services.trainer.runs.record import (
    RunCancelled,
    TrainerStopped,
    WorkerDied,
    WorkerFailed,
    begin_run,
    end_run,
    operation_name,
    read_results,
    skip_run,
)
from services.trainer.runs.stages import RunStage, name_stage
from services.trainer.runs.store import RunStore

PROMOTER = "training run"
# How often to look at what another trainer on the same folders has written.
LOOK_EVERY_SECONDS = 0.5
# How long `cancel` waits for another trainer to end its run.
OTHER_TRAINER_SECONDS = 10.0
CLOSE_SECONDS = 3.0

_log = structlog.get_logger()


class Runner:
    """Carries out training runs, one at a time."""

    def __init__(
        self, store: RunStore, registry: ModelRegistry, champion: Champion, events: EventLog, plan: Plan
    ) -> None:
        self._store = store
        self._registry = registry
        self._champion = champion
        self._events = events
        self._plan = plan
        self._own_run = ""
        self._task: asyncio.Task[None] | None = None
        self._work: asyncio.Task[None] | None = None
        self._stop_because: type[Exception] | None = None
        self._changed = asyncio.Event()

    async def start(
        self,
        trigger: "pb.Trigger.ValueType",
        *,
        validate_only: bool = False,
        request_id: str = "",
        snapshot_id: str = "",
    ) -> pb.TrainingRun:
        """Start a run and return its record.

        Args:
            trigger: who or what asks.
            validate_only: stop after the decision and promote nothing.
            request_id: the caller's key; may be empty.
            snapshot_id: train on this dataset snapshot; when it is empty, the data is collected now.

        Raises:
            SnapshotNotFound: there is no such snapshot.
            RetrainInProgress: a run is going on, here or in another trainer on the same folders.
            StorageFailed: the run could not be recorded.

        """
        if snapshot_id:
            await asyncio.to_thread(read_snapshot, snapshot_id, self._registry.snapshots_folder)
        lock = self._store.try_lock()
        if lock is None:
            running = self._store.running()
            raise RetrainInProgress(operation_name(running.run_id if running else "unknown"))
        run = begin_run(self._store.new_id(), trigger, validate_only=validate_only, request_id=request_id)
        try:
            self._save(run)
        except TrainerError:
            lock.release()
            raise
        self._own_run, self._stop_because = run.run_id, None
        self._events.run_changed(run)
        plan = replace(self._plan, run_id=run.run_id, snapshot_id=snapshot_id)
        self._work = asyncio.create_task(self._carry_out(run, plan))
        self._task = asyncio.create_task(self._finish(run, self._work, lock))
        return self._store.get(run.run_id)

    def skip(self, trigger: "pb.Trigger.ValueType", reason: str, request_id: str = "") -> pb.TrainingRun:
        """Record a run that did not start because retraining was not due. Raises StorageFailed."""
        run = begin_run(self._store.new_id(), trigger, request_id=request_id)
        skip_run(run, reason)
        self._save(run)
        self._events.note(run, f"skipped: {reason}")
        return run

    async def cancel(self, run_id: str) -> None:
        """Cancel a run, unless its replicas are already swapping or it has ended.

        Raises TrainingRunNotFound, and StorageFailed when the request to another trainer could not be written.
        """
        if self._store.get(run_id).state != pb.RUN_STATE_RUNNING:
            return
        if run_id != self._own_run:
            self._store.request_cancel(run_id)
            await self.wait(run_id, OTHER_TRAINER_SECONDS)
        elif self._stop(RunCancelled) and self._task is not None:
            await asyncio.shield(self._task)

    async def watch(self, run_id: str) -> AsyncIterator[pb.TrainingRun]:
        """Yield a run, also another trainer's, now and after each change until it ends. Raises TrainingRunNotFound."""
        shown: pb.TrainingRun | None = None
        while True:
            changed, run = self._changed, self._store.get(run_id)
            if run != shown:
                shown = pb.TrainingRun()
                shown.CopyFrom(run)
                yield shown
            if shown.state != pb.RUN_STATE_RUNNING:
                return
            if run_id != self._own_run:
                # If the trainer of this run has died, end the run here.
                with contextlib.suppress(StorageFailed):
                    await self.recover()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), LOOK_EVERY_SECONDS)

    async def wait(self, run_id: str, seconds: float | None) -> pb.TrainingRun:
        """Return a run when it has ended or after so many seconds, if any. Raises TrainingRunNotFound."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                async for _ in self.watch(run_id):
                    pass
        return self._store.get(run_id)

    async def recover(self) -> None:
        """End runs whose trainer died, and repair the registry, unless a run is in progress. Raises StorageFailed."""
        lock = self._store.try_lock()
        if lock is None:
            return
        try:
            self._registry.repair()
            for run in self._store.newest_first():
                if run.state == pb.RUN_STATE_RUNNING:
                    self._end_abandoned_run(run)
            await self._champion.recover()
        finally:
            lock.release()

    async def close(self) -> None:
        """End the run in progress, because the trainer stops. It waits at most CLOSE_SECONDS."""
        self._stop(TrainerStopped)
        if self._task is not None:
            await asyncio.wait([self._task], timeout=CLOSE_SECONDS)

    async def _finish(self, run: pb.TrainingRun, work: asyncio.Task[None], lock: FileLock) -> None:
        """Wait for a run's work, and write how it ended whatever ended it."""
        listening = asyncio.create_task(self._listen_for_cancel(run.run_id))
        await asyncio.wait([work])
        listening.cancel()
        cause = work.exception() if not work.cancelled() else (self._stop_because or TrainerStopped)()
        if cause is not None and not isinstance(cause, TrainerError | RunCancelled | TrainerStopped | WorkerFailed):
            _log.error("a training run failed unexpectedly", run=run.run_id, exc_info=cause)
        end_run(run, cause)
        self._own_run = ""
        self._record_end(run)
        lock.release()
        self._tell_watchers()
        self._prune()

    async def _carry_out(self, run: pb.TrainingRun, plan: Plan) -> None:
        """Train and promote the registered version. Raises the exception that ends the run early."""
        await self._train(run, plan)
        read_results(run, self._registry)
        if not run.decision.promoted:
            self._registry.record_refusal(run.version, PROMOTER)
        self._registry.versions.check_promotable(run.version)
        if not run.validate_only:
            await self._promote(run)

    async def _train(self, run: pb.TrainingRun, plan: Plan) -> None:
        async with contextlib.aclosing(run_worker(plan)) as reports:
            async for report in reports:
                if report.state == pb.RUN_STATE_FAILED:
                    raise WorkerFailed("; ".join(report.reasons))
                if report.version:
                    run.version = report.version
                elif report.stage != run.stage:
                    self._enter(run, report.stage, report.percent)
                else:
                    self._report_progress(run, report.percent)
        if not run.version:
            raise WorkerDied

    async def _promote(self, run: pb.TrainingRun) -> None:
        self._enter(run, RunStage.REHEARSE.message, RunStage.REHEARSE.begins_at)
        reason = f"passed the gate in run {run.run_id} ({name_trigger(run.trigger)})"
        change = Change(run.version, run.champion_version, PROMOTER, reason, must_reach=True)

        def enter_promotion() -> None:
            run.decision.CopyFrom(self._registry.versions.decision(run.version))
            self._enter(run, RunStage.PROMOTE.message, RunStage.PROMOTE.begins_at)

        try:
            changed = await self._champion.promote(change, enter_promotion)
        except VersionRefused:
            run.decision.CopyFrom(self._registry.versions.decision(run.version))
            raise
        run.replicas.extend(replica.outcome for replica in changed.replicas)

    def _enter(self, run: pb.TrainingRun, stage: "pb.RunStage.ValueType", percent: int) -> None:
        run.stage, run.percent = stage, max(run.percent, percent)
        self._save(run)
        self._events.note(run, f"stage {name_stage(run)} ({run.percent}%)")
        self._tell_watchers()

    def _report_progress(self, run: pb.TrainingRun, percent: int) -> None:
        """Tell watchers about progress within a stage. It is not written to disk, where only the stage counts."""
        if percent > run.percent:
            run.percent = percent
            run.updated_at.GetCurrentTime()
            self._store.keep(run)
            self._tell_watchers()

    def _stop(self, because: type[Exception]) -> bool:
        """End the work of the run in progress. Returns False when it is too late, because replicas are swapping."""
        if self._champion.committing:
            return False
        if self._work is not None and not self._work.done() and self._stop_because is None:
            self._stop_because = because
            self._work.cancel()
        return True

    async def _listen_for_cancel(self, run_id: str) -> None:
        """End the run when another trainer has written a request to cancel it."""
        while True:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            if self._store.is_cancel_requested(run_id) and self._stop(RunCancelled):
                return

    def _end_abandoned_run(self, run: pb.TrainingRun) -> None:
        """Write how a run ended whose trainer did not: with its promotion, if the alias names its version already."""
        ended = pb.TrainingRun()
        ended.CopyFrom(run)
        promoted = run.stage == pb.RUN_STAGE_PROMOTE and self._registry.alias.version() == run.version
        end_run(ended, None if promoted else TrainerStopped())
        _log.warning("found a run that its trainer did not end", run=run.run_id, stage=name_stage(run))
        self._record_end(ended)

    def _record_end(self, run: pb.TrainingRun) -> None:
        try:
            self._save(run)
        except StorageFailed as error:
            _log.error("cannot write a run", run=run.run_id, problem=str(error))
        self._store.clear_cancel(run.run_id)
        self._events.run_changed(run)
        _log.info("training run ended", run=run.run_id, state=pb.RunState.Name(run.state), version=run.version)

    def _prune(self) -> None:
        """Delete old versions. A failure is only logged, because it does not change the outcome of the run."""
        try:
            self._registry.prune()
        except StorageFailed as error:
            _log.error("cannot delete old versions", problem=str(error))

    def _save(self, run: pb.TrainingRun) -> None:
        run.updated_at.GetCurrentTime()
        self._store.save(run)

    def _tell_watchers(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
