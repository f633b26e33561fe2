"""Keeps the row of a run current while the run goes on: its stage, its percentage, and that its trainer is alive.

The same beat renews the lease of the run and looks for a request to cancel it. While the database is away, the run goes
on, and the next beat tries again.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

import structlog
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.database import leases as lease_times
from services.trainer.database.leases import Lease, Leases
from services.trainer.errors import StorageFailed, TrainingRunNotFound
from services.trainer.runs.record import RunCancelled, RunTakenOver, copy_run
from services.trainer.runs.store import RunStore

# How often to store progress and to look for a request to cancel.
BEAT_SECONDS = 0.5
# How long to try to store how a run ended. After that, the trainer that starts next finds the run and ends it.
END_SECONDS = 120.0
AGAIN_SECONDS = 1.0

_log = structlog.get_logger()


class RunKeeper:
    """Stores the record of one run. Use it on the event loop; it writes in threads, one write after another."""

    def __init__(self, store: RunStore, leases: Leases, lease: Lease, run: pb.TrainingRun) -> None:
        self.lease = lease
        self._store = store
        self._leases = leases
        self._run = run
        self._wake = asyncio.Event()
        self._ended = False
        self._is_away = False
        self._renewed_at = time.monotonic()
        self._stored = (run.stage, run.percent, run.version)

    def save_soon(self) -> None:
        """Store the record at once instead of at the next beat."""
        self._wake.set()

    def end(self) -> None:
        """Let `follow` return after the write that is going on."""
        self._ended = True
        self._wake.set()

    async def follow(self, stop: Callable[[type[Exception]], object]) -> None:
        """Keep the row current until `end` is called.

        `stop` is called with RunCancelled or RunTakenOver, at every beat for as long as the reason lasts.
        """
        while not self._ended:
            because = await self._beat()
            if because is not None:
                stop(because)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), BEAT_SECONDS)
            if not self._ended:
                self._wake.clear()

    async def save_end(self, ended: pb.TrainingRun) -> bool:
        """Store how the run ended. Returns False when another trainer ended it before, or the database stays away."""
        give_up_at = time.monotonic() + END_SECONDS
        while True:
            try:
                return await asyncio.to_thread(self._write_end, ended)
            except (StorageFailed, TrainingRunNotFound) as error:
                if time.monotonic() > give_up_at or isinstance(error, TrainingRunNotFound):
                    _log.error("cannot store how a run ended", run=self._run.run_id, problem=str(error))
                    return False
                self._warn(error)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _beat(self) -> type[Exception] | None:
        run = copy_run(self._run)
        now, state = time.monotonic(), (run.stage, run.percent, run.version)
        is_renewing = now - self._renewed_at >= lease_times.RENEW_SECONDS
        try:
            because = await asyncio.to_thread(self._write, run, is_renewing, state != self._stored)
        except StorageFailed as error:
            self._warn(error)
            return None
        self._is_away = False
        if because is not RunTakenOver:
            self._stored = state
            self._renewed_at = now if is_renewing else self._renewed_at
        return because

    def _write(self, run: pb.TrainingRun, is_renewing: bool, has_changed: bool) -> type[Exception] | None:  # noqa: FBT001
        """Store and renew what is needed. Returns why the run must stop, if it must."""
        if is_renewing and not self._leases.renew(self.lease):
            return RunTakenOver
        if (is_renewing or has_changed) and not self._store.save(run):
            return RunTakenOver
        return RunCancelled if self._store.is_cancel_requested(run.run_id) else None

    def _write_end(self, ended: pb.TrainingRun) -> bool:
        if self._store.save(ended):
            return True
        # Either another trainer ended the run, or an earlier write was stored and its answer was lost.
        return self._store.get(ended.run_id).finished_at == ended.finished_at

    def _warn(self, error: Exception) -> None:
        if not self._is_away:
            _log.warning("cannot store a run; it goes on, and this is tried again", problem=str(error))
        self._is_away = True
