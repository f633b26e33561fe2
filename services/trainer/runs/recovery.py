"""Mends what a trainer left behind that died during a run: its run is ended, and registry and replicas agree again."""

import asyncio

import structlog
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.database.leases import RUN, Leases
from services.trainer.errors import TrainerError
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.champion import Champion
from services.trainer.runs.events import EventLog
from services.trainer.runs.record import TrainerStopped, end_run, serves
from services.trainer.runs.stages import name_stage
from services.trainer.runs.store import RunStore

FOLLOW_SECONDS = 2.0

_log = structlog.get_logger()


class Recovery:
    """Ends abandoned runs. Use it on the event loop; it reads and writes in threads."""

    def __init__(
        self, store: RunStore, leases: Leases, registry: ModelRegistry, champion: Champion, events: EventLog
    ) -> None:
        self._store = store
        self._leases = leases
        self._registry = registry
        self._champion = champion
        self._events = events

    async def recover(self) -> None:
        """Mend the registry and end runs whose trainer died, unless a run is in progress. Raises StorageFailed."""
        async with self._leases.hold(RUN) as lease:
            if lease is None:
                return
            await asyncio.to_thread(self._registry.repair)
            await self._champion.recover()
            # The runs come last: as long as one of them is not ended, somebody tries again.
            while (run := await asyncio.to_thread(self._store.running)) is not None:
                # A trainer that was paused meanwhile must not end the run of the one that took over.
                if not await asyncio.to_thread(self._leases.renew, lease):
                    return
                await asyncio.to_thread(self._registry.delete_snapshots_of_dead_runs)
                await self._end(run)

    async def recover_if_abandoned(self) -> None:
        """Do what `recover` does if there is a run whose trainer died. Raises StorageFailed."""
        if await asyncio.to_thread(self._is_abandoned):
            await self.recover()

    async def follow(self) -> None:
        """Look for abandoned runs until this task is cancelled."""
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            try:
                await self.recover_if_abandoned()
            except TrainerError as error:
                _log.warning("cannot look for abandoned runs", problem=str(error))
            except Exception as error:
                _log.error("cannot look for abandoned runs", exc_info=error)

    def _is_abandoned(self) -> bool:
        return self._store.running() is not None and not self._leases.is_held(RUN)

    async def _end(self, run: pb.TrainingRun) -> None:
        # The champion tells of a promotion whose end the dead trainer could not store any more.
        promoted = await asyncio.to_thread(serves, run, self._registry)
        _log.warning("found a run that its trainer did not end", run=run.run_id, stage=name_stage(run))
        end_run(run, None if promoted else TrainerStopped())
        if await asyncio.to_thread(self._store.save, run):
            await asyncio.wrap_future(self._events.run_changed(run))
