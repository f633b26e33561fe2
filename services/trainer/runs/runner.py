"""Carries out training runs: starts one at a time, follows it, promotes its version, and records how it ended.

    start -> a child process trains and registers a version -> rehearse -> promote -> end
      |                          |                                |           |
      +---- every early end goes through one table: runs/record.py -----------+

A lease keeps two trainers on a database from running two runs; each can watch, wait for and cancel the other's. While
a run goes on, `runs/keeper.py` stores its record and renews the lease. Runs live on the event loop, and nothing here
waits for the database on it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial

import structlog
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.database.leases import RUN, Lease, Leases
from services.trainer.dataset.snapshot import read_snapshot
from services.trainer.errors import RetrainInProgress, StorageFailed, TrainerError
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.runs.events import EventLog
from services.trainer.runs.keeper import RunKeeper
from services.trainer.runs.plan import Plan
from services.trainer.runs.process import Train, run_worker
from services.trainer.runs.record import (
    RunCancelled,
    RunTakenOver,
    TrainerStopped,
    WorkerFailed,
    begin_run,
    copy_run,
    end_run,
    operation_name,
    serves,
    skip_run,
)
from services.trainer.runs.recovery import Recovery
from services.trainer.runs.stages import name_stage
from services.trainer.runs.store import RunStore
from services.trainer.runs.work import RunWork

# How often to look at what another trainer has stored.
LOOK_EVERY_SECONDS = 0.5
# How often to ask for the lease while its holder has no run: it begins one, has just ended one, or mends the registry.
ATTEMPTS, RETRY_SECONDS = 20, 0.1
# How long `cancel` waits for a run that it cannot end at once.
CANCEL_SECONDS = 10.0
CLOSE_SECONDS = 3.0
_EXPECTED = (TrainerError, WorkerFailed, RunCancelled, RunTakenOver, TrainerStopped)

_log = structlog.get_logger()


@dataclass
class _OwnRun:
    """The run that this trainer carries out. `task` ends when the run has ended and its lease is given back."""

    run: pb.TrainingRun
    keeper: RunKeeper
    work: asyncio.Task[None]
    task: asyncio.Task[None] | None = None
    stop_because: type[Exception] | None = None


class Runner:
    """Carries out training runs, one at a time among all trainers on a database."""

    def __init__(
        self,
        store: RunStore,
        leases: Leases,
        registry: ModelRegistry,
        champion: Champion,
        events: EventLog,
        plan: Plan,
        train: Train = run_worker,
    ) -> None:
        self._store = store
        self._leases = leases
        self._registry = registry
        self._champion = champion
        self._events = events
        self._plan = plan
        self._train = train
        self._recovery = Recovery(store, leases, registry, champion, events)
        self._own: _OwnRun | None = None
        self._starting = asyncio.Lock()
        self._closed = False
        self._changed = asyncio.Event()

    async def start(
        self,
        trigger: "pb.Trigger.ValueType",
        *,
        validate_only: bool = False,
        request_id: str = "",
        snapshot_id: str = "",
    ) -> pb.TrainingRun:
        """Start a run and return its record; a request that was made before gets the run that it started then.

        Args:
            trigger: who or what asks.
            validate_only: stop after the decision and promote nothing.
            request_id: the caller's key; may be empty.
            snapshot_id: train on this dataset snapshot; when it is empty, the data is collected now.

        Raises:
            SnapshotNotFound: there is no such snapshot.
            RetrainInProgress: a run is going on, here or in another trainer.
            StorageFailed: the run could not be recorded, so nothing was started.

        """
        if snapshot_id:
            await asyncio.to_thread(read_snapshot, snapshot_id, self._registry.repository)
        run = begin_run("", trigger, validate_only=validate_only, request_id=request_id)
        # Shielded: a caller that goes away must not leave a run that is recorded and that nobody carries out.
        return await asyncio.shield(asyncio.create_task(self._begin(run, snapshot_id)))

    async def skip(self, trigger: "pb.Trigger.ValueType", reason: str, request_id: str = "") -> pb.TrainingRun:
        """Record a run that did not start because retraining was not due. Raises StorageFailed."""
        run = begin_run(await asyncio.to_thread(self._store.new_id), trigger, request_id=request_id)
        skip_run(run, reason)
        stored = await asyncio.to_thread(self._store.add, run)
        if stored is run:
            await asyncio.wrap_future(self._events.note(run, f"skipped: {reason}"))
        return stored

    async def cancel(self, run_id: str) -> None:
        """Cancel a run, unless its replicas are already swapping or it has ended.

        Raises TrainingRunNotFound, and StorageFailed when the request could not be stored.
        """
        own = self._own
        if own is not None and own.run.run_id == run_id and self._stop(own, RunCancelled):
            if own.task is not None:
                await asyncio.shield(own.task)
        # A request that is stored counts at every beat: in another trainer, and here when replicas are swapping now.
        elif (await asyncio.to_thread(self._store.get, run_id)).state == pb.RUN_STATE_RUNNING:
            await asyncio.to_thread(self._store.request_cancel, run_id)
            await self.wait(run_id, CANCEL_SECONDS)

    async def watch(self, run_id: str) -> AsyncIterator[pb.TrainingRun]:
        """Yield a run, also another trainer's, now and after each change until it ends.

        Raises TrainingRunNotFound, and StorageFailed when the run of another trainer cannot be read.
        """
        shown: pb.TrainingRun | None = None
        while True:
            changed, run = self._changed, await self._read(run_id)
            if run != shown:
                shown = run
                yield run
            if run.state != pb.RUN_STATE_RUNNING:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), LOOK_EVERY_SECONDS)

    async def wait(self, run_id: str, seconds: float | None) -> pb.TrainingRun:
        """Return a run when it has ended or after so many seconds, if any. Raises what `watch` raises."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                async for _ in self.watch(run_id):
                    pass
        return await self._read(run_id)

    async def recover(self) -> None:
        """End runs whose trainer died, and repair the registry, unless a run is in progress. Raises StorageFailed."""
        await self._recovery.recover()

    async def follow(self) -> None:
        """End the runs of trainers that died, until this task is cancelled."""
        await self._recovery.follow()

    async def close(self) -> None:
        """End the run in progress, because the trainer stops. It waits at most CLOSE_SECONDS."""
        self._closed = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                # Wait for a start that has begun: its run must be ended as well.
                async with self._starting:
                    own = self._own
                if own is not None and own.task is not None:
                    self._stop(own, TrainerStopped)
                    await asyncio.wait([own.task])

    async def _read(self, run_id: str) -> pb.TrainingRun:
        """Return a copy of a run. Of the own run that is the newest state, also while the database is away."""
        if self._own is not None and self._own.run.run_id == run_id:
            return copy_run(self._own.run)
        return await asyncio.to_thread(self._store.get, run_id)

    async def _begin(self, run: pb.TrainingRun, snapshot_id: str) -> pb.TrainingRun:
        """Take the lease, record a run and begin its work. All starts on this trainer happen one after another."""
        async with self._starting:
            if self._closed:
                raise StorageFailed("the trainer is stopping, so no run was started; try again in a few seconds")
            lease, running = await self._take_lease(run.request_id)
            if lease is None:
                return running
            try:
                run.run_id = await asyncio.to_thread(self._store.new_id)
                run.updated_at.GetCurrentTime()
                stored = await asyncio.to_thread(self._store.add, run)
            except BaseException:
                await asyncio.to_thread(self._leases.give_back, lease)
                raise
            if stored is not run:
                await asyncio.to_thread(self._leases.give_back, lease)
                return stored
            return self._carry_out(run, lease, replace(self._plan, run_id=run.run_id, snapshot_id=snapshot_id))

    async def _take_lease(self, request_id: str) -> tuple[Lease | None, pb.TrainingRun]:
        """Return the lease, or the run that this request has started before. Raises RetrainInProgress."""
        await self._recovery.recover_if_abandoned()
        nothing = pb.TrainingRun()
        for _ in range(ATTEMPTS):
            lease = await asyncio.to_thread(self._leases.take, RUN)
            if lease is not None:
                return lease, nothing
            running = await asyncio.to_thread(self._store.running)
            if running is not None and request_id and running.request_id == request_id:
                return None, running
            if running is not None:
                raise RetrainInProgress(operation_name(running.run_id))
            await asyncio.sleep(RETRY_SECONDS)
        raise RetrainInProgress(operation_name("unknown"))

    def _carry_out(self, run: pb.TrainingRun, lease: Lease, plan: Plan) -> pb.TrainingRun:
        """Begin the work of a recorded run, and return a copy of its record."""
        begun = copy_run(run)
        self._events.run_changed(run)
        keeper = RunKeeper(self._store, self._leases, lease, run)

        def changed(has_new_stage: bool) -> None:  # noqa: FBT001 - a callback
            if has_new_stage:
                keeper.save_soon()
                self._events.note(run, f"stage {name_stage(run)} ({run.percent}%)")
            self._tell_watchers()

        work = RunWork(run, plan, self._registry, self._champion, self._train, changed)
        own = self._own = _OwnRun(run, keeper, asyncio.create_task(work.carry_out()))
        own.task = asyncio.create_task(self._finish(own))
        return begun

    async def _finish(self, own: _OwnRun) -> None:
        """Wait for a run's work, and store how it ended whatever ended it."""
        try:
            keeping = asyncio.create_task(own.keeper.follow(partial(self._stop, own)))
            await asyncio.wait([own.work])
            own.keeper.end()
            await asyncio.wait([keeping])
            await self._end(own)
        finally:
            own.keeper.end()
            # Before the lease is free, because the next run may begin at that moment.
            self._own = None
            self._tell_watchers()
            await asyncio.to_thread(self._leases.give_back, own.keeper.lease)
        await self._prune()

    async def _end(self, own: _OwnRun) -> None:
        cause = own.work.exception() if not own.work.cancelled() else (own.stop_because or TrainerStopped)()
        if cause is not None and await asyncio.to_thread(serves, own.run, self._registry):
            _log.warning("a run was interrupted when its version served already", run=own.run.run_id, exc_info=cause)
            cause = None
        if cause is not None and not isinstance(cause, _EXPECTED):
            _log.error("a training run failed unexpectedly", run=own.run.run_id, exc_info=cause)
        # Watchers see the run in progress until its end is stored.
        ended = copy_run(own.run)
        end_run(ended, cause)
        if await own.keeper.save_end(ended):
            await asyncio.wrap_future(self._events.run_changed(ended))
            _log.info(
                "training run ended", run=ended.run_id, state=pb.RunState.Name(ended.state), version=ended.version
            )

    def _stop(self, own: _OwnRun, because: type[Exception]) -> bool:
        """End the work of a run. Returns False when it is too late, because replicas are swapping."""
        if self._champion.committing:
            return False
        if not own.work.done() and own.stop_because is None:
            own.stop_because = because
            own.work.cancel()
        return True

    async def _prune(self) -> None:
        """Delete old versions. A failure is only logged, because it does not change the outcome of the run."""
        try:
            await asyncio.to_thread(self._registry.prune)
        except StorageFailed as error:
            _log.error("cannot delete old versions", problem=str(error))

    def _tell_watchers(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
