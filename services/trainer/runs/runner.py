"""Owner of training runs: starts one at a time in a child process, follows it, promotes its version, ends it.

Lives on the event loop. The state of a run is on disk before each stage begins. A lock file keeps two trainers on one
store from running two; the system frees it when its holder dies.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import structlog
from filelock import FileLock, Timeout
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.errors import NoReplicaReached, ReplicaFacts, ReplicaRejected, RetrainInProgress, TrainerError
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.rollout.rehearsals import Rehearsals
from services.trainer.runs.events import EventLog, trigger_name
from services.trainer.runs.plan import Plan
from services.trainer.runs.process import TrainingProcess
from services.trainer.runs.stages import RunStage
from services.trainer.runs.store import RunStore

PROMOTER = "training run"

T = TypeVar("T")

_log = structlog.get_logger()


def operation_name(run_id: str) -> str:
    """Return the name of a run's long-running operation."""
    return f"operations/{run_id}"


class Retrainer:
    """Runs the retraining story, one run at a time."""

    def __init__(
        self,
        store: RunStore,
        registry: ModelRegistry,
        champion: Champion,
        events: EventLog,
        plan_for: Callable[[str, str], Plan],
        lock_path: Path,
        rehearsals: Rehearsals,
    ) -> None:
        self._store = store
        self._registry = registry
        self._champion = champion
        self._events = events
        self._plan_for = plan_for
        self._rehearsals = rehearsals
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(lock_path, timeout=0, thread_local=False)
        self._task: asyncio.Task[None] | None = None
        self._process = TrainingProcess()
        self._step: asyncio.Task[object] | None = None
        self._running_id = ""
        self._cancelled = False
        self._changed = asyncio.Condition()

    @property
    def running(self) -> pb.TrainingRun | None:
        """The run going on here."""
        return self._store.get(self._running_id) if self._running_id else None

    async def recover(self) -> None:
        """Mark runs that a dead trainer left running as failed, and mend what they left behind."""
        try:
            self._lock.acquire()
        except Timeout:
            return
        try:
            self._registry.repair()
            for run in self._store.newest_first():
                if run.state == pb.RUN_STATE_RUNNING:
                    self._bury(run)
            await self._champion.recover()
        finally:
            self._lock.release()

    async def start(
        self,
        trigger: "pb.Trigger.ValueType",
        *,
        validate_only: bool = False,
        request_id: str = "",
        snapshot_id: str = "",
    ) -> pb.TrainingRun:
        """Start a run and return it as it begins; with a snapshot it repeats the run that learned from it.

        Raises:
            RetrainInProgress: one is going on, here or in another trainer on the same store.
            StorageFailed: its state could not be written.

        """
        run = pb.TrainingRun(
            run_id=self._store.new_id(),
            trigger=trigger,
            state=pb.RUN_STATE_RUNNING,
            stage=pb.RUN_STAGE_UNSPECIFIED,
            validate_only=validate_only,
            request_id=request_id,
        )
        run.started_at.FromDatetime(datetime.now(UTC))
        self._take_lock()
        try:
            self._save(run)
        except TrainerError:
            self._lock.release()
            raise
        self._running_id, self._cancelled, self._process = run.run_id, False, TrainingProcess()
        self._events.run_changed(run)
        self._task = asyncio.create_task(self._run(run, self._plan_for(run.run_id, snapshot_id)))
        return self._store.get(run.run_id)

    def skip(self, trigger: "pb.Trigger.ValueType", reason: str, request_id: str = "") -> pb.TrainingRun:
        """Record a scheduled run that was not due."""
        run = pb.TrainingRun(
            run_id=self._store.new_id(),
            trigger=trigger,
            state=pb.RUN_STATE_SKIPPED,
            percent=100,
            reasons=[reason],
            request_id=request_id,
        )
        run.started_at.FromDatetime(datetime.now(UTC))
        run.finished_at.CopyFrom(run.started_at)
        self._save(run)
        self._events.note(run, f"skipped: {reason}")
        return run

    async def cancel(self, run_id: str) -> None:
        """End a run, unless its replicas are swapping already or it is over. Raises TrainingRunNotFound."""
        self._store.get(run_id)
        if run_id != self._running_id or self._champion.committing:
            return
        self._cancelled = True
        self._end_step()
        if self._task is not None:
            await asyncio.shield(self._task)

    def _end_step(self) -> None:
        self._process.kill()
        if self._step is not None:
            self._step.cancel()

    async def watch(self, run_id: str) -> AsyncIterator[pb.TrainingRun]:
        """Yield the run now and after every change, until it has ended. Raises TrainingRunNotFound."""
        while True:
            run = pb.TrainingRun()
            run.CopyFrom(self._store.get(run_id))
            yield run
            if run.state != pb.RUN_STATE_RUNNING:
                return
            async with self._changed:
                while self._store.get(run_id) == run:
                    await self._changed.wait()

    async def wait(self, run_id: str, seconds: float | None) -> pb.TrainingRun:
        """Return the run when it has ended or the time is over. Raises TrainingRunNotFound."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                async for _ in self.watch(run_id):
                    pass
        return self._store.get(run_id)

    async def close(self) -> None:
        """End what is going on because the trainer stops."""
        if not self._champion.committing:
            self._end_step()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=3.0)

    def _take_lock(self) -> None:
        if self._running_id:
            raise RetrainInProgress(operation_name(self._running_id))
        try:
            self._lock.acquire()
        except Timeout:
            runs = self._store.newest_first()
            going_on = next((run.run_id for run in runs if run.state == pb.RUN_STATE_RUNNING), "unknown")
            raise RetrainInProgress(operation_name(going_on)) from None

    async def _run(self, run: pb.TrainingRun, plan: Plan) -> None:
        try:
            async with contextlib.aclosing(self._process.run(plan)) as changes:
                async for change in changes:
                    await self._merge(run, change)
            if run.state == pb.RUN_STATE_RUNNING:
                run.state = pb.RUN_STATE_FAILED
                run.reasons.append(f"the training process died in stage {_stage_name(run)}")
            if run.state == pb.RUN_STATE_SUCCEEDED and not run.validate_only:
                run.state = pb.RUN_STATE_RUNNING
                if not self._cancelled and await self._passes_rehearsal(run):
                    await self._promote(run)
            if run.state == pb.RUN_STATE_REJECTED:
                self._registry.record_refusal(run.version, PROMOTER, "; ".join(run.reasons))
            self._registry.prune()
        except asyncio.CancelledError:
            # Only a step is ever cancelled, never the task of the run.
            run.state = pb.RUN_STATE_FAILED
            run.reasons.append(f"the trainer stopped in stage {_stage_name(run)}")
        except (ReplicaRejected, NoReplicaReached) as error:
            _note_replicas(run, error.replicas)
            run.state = pb.RUN_STATE_FAILED
            run.reasons.append(str(error))
        except TrainerError as error:
            run.state = pb.RUN_STATE_FAILED
            run.reasons.append(str(error))
        except Exception as error:
            _log.error("a training run failed unexpectedly", run=run.run_id, exc_info=error)
            run.state = pb.RUN_STATE_FAILED
            run.reasons.append("unexpected error; the trainer's log has the details")
        finally:
            if self._cancelled and run.state in {pb.RUN_STATE_RUNNING, pb.RUN_STATE_FAILED}:
                run.state = pb.RUN_STATE_CANCELLED
                run.reasons[:] = [f"cancelled in stage {_stage_name(run)}"]
            await self._finish(run)

    async def _merge(self, run: pb.TrainingRun, change: pb.TrainingRun) -> None:
        stage, percent = run.stage, run.percent
        run.MergeFrom(change)
        run.percent = max(percent, run.percent)
        if run.stage != stage:
            await self._enter_stage(run)
        elif run.percent != percent:
            # Progress within a stage is for those who watch; what is on disk says in which stage a run was.
            run.updated_at.FromDatetime(datetime.now(UTC))
            self._store.keep(run)
            await self._tell_watchers()

    async def _enter_stage(self, run: pb.TrainingRun) -> None:
        self._save(run)
        self._events.note(run, f"stage {_stage_name(run)} ({run.percent}%)")
        await self._tell_watchers()

    async def _passes_rehearsal(self, run: pb.TrainingRun) -> bool:
        """Rehearse the run's version, keep what was found with it, and refuse the version when a rule failed."""
        await self._begin(run, RunStage.REHEARSE)
        rules = await self._in_step(self._rehearsals.run(run.version))
        run.decision.rules.extend(rules)
        failed = [f"{rule.rule}: {rule.detail}" for rule in rules if not rule.passed]
        if failed:
            run.state, run.decision.promoted = pb.RUN_STATE_REJECTED, False
            run.reasons.extend(failed)
        return not failed

    async def _promote(self, run: pb.TrainingRun) -> None:
        await self._begin(run, RunStage.PROMOTE)
        reason = f"passed the gate in run {run.run_id} ({trigger_name(run.trigger)})"
        change = await self._in_step(self._champion.promote(run.version, PROMOTER, reason, must_reach=True))
        _note_replicas(run, change.replicas)
        run.state = pb.RUN_STATE_SUCCEEDED

    async def _begin(self, run: pb.TrainingRun, stage: RunStage) -> None:
        run.stage, run.percent = pb.RunStage.Value(f"RUN_STAGE_{stage.name}"), stage.value
        await self._enter_stage(run)

    async def _in_step(self, step: Coroutine[object, object, T]) -> T:
        """Await what `cancel` may end, also when it was called a moment ago."""
        if self._cancelled:
            step.close()
            raise asyncio.CancelledError
        task = asyncio.create_task(step)
        self._step = task
        try:
            return await task
        finally:
            self._step = None

    async def _finish(self, run: pb.TrainingRun) -> None:
        run.percent = 100
        run.finished_at.FromDatetime(datetime.now(UTC))
        try:
            self._save(run)
        except TrainerError as error:
            _log.error("cannot write a run", run=run.run_id, problem=str(error))
        self._events.run_changed(run)
        self._running_id = ""
        self._lock.release()
        _log.info("training run ended", run=run.run_id, state=pb.RunState.Name(run.state), version=run.version)
        await self._tell_watchers()

    def _bury(self, run: pb.TrainingRun) -> None:
        buried, alias = pb.TrainingRun(), self._registry.champion()
        buried.CopyFrom(run)
        promoted = run.stage == pb.RUN_STAGE_PROMOTE and alias is not None and alias.version == run.version
        buried.state = pb.RUN_STATE_SUCCEEDED if promoted else pb.RUN_STATE_FAILED
        buried.percent = 100
        buried.reasons.append(f"the trainer stopped in stage {_stage_name(run)}")
        buried.finished_at.FromDatetime(datetime.now(UTC))
        _log.warning("found a run that its trainer did not end", run=run.run_id, stage=_stage_name(run))
        self._save(buried)
        self._events.run_changed(buried)

    def _save(self, run: pb.TrainingRun) -> None:
        run.updated_at.FromDatetime(datetime.now(UTC))
        self._store.save(run)

    async def _tell_watchers(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _note_replicas(run: pb.TrainingRun, replicas: Sequence[ReplicaFacts]) -> None:
    for each in replicas:
        run.replicas.add(target=each.target, version=each.version, error=each.problem)


def _stage_name(run: pb.TrainingRun) -> str:
    return pb.RunStage.Name(run.stage).removeprefix("RUN_STAGE_").lower().replace("unspecified", "start")
