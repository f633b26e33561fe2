"""Changes the champion. Runs, deploys, rollbacks, experiments and `moodfood train` all use this module.

The order is: rehearse the version, take the lease, check that the champion is the expected one (compare-and-set),
prepare on every replica, take a generation in the database, commit on every replica, move the alias, and write the
history. The rehearsal comes before the lease, because it depends only on the version and takes seconds, and a rollback
must not wait for it.

When a replica refuses the version, the change stops, and all replicas stay on the champion or go back to it. When a
replica cannot be reached, the change continues: the replica follows the alias when it is back. If the trainer dies
between the generation and the alias, the next trainer takes the change back. If it dies between the alias and the
history, the next trainer completes the change.

Registry and database block, so they are asked in threads. From the generation on, a change cannot be cancelled any
more: a caller that goes away does not leave the replicas between two versions.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import structlog
from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer.database.leases import CHAMPION, Leases
from services.trainer.errors import (
    ChampionChanged,
    NoChampion,
    NoFormerChampion,
    NoReplicaReached,
    PromotionInProgress,
    StorageFailed,
)
from services.trainer.registry.alias import Move
from services.trainer.registry.moves import PendingMove
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.change import Change, ChangeResult
from services.trainer.rollout.rehearsal import Rehearse, ensure_rehearsed
from services.trainer.rollout.replicas import (
    ReplicaResult,
    ask_statuses,
    commit,
    mark_sent_back,
    merge_results,
    prepare,
    raise_if_refused,
    resolve,
)

WATCH_EVERY_SECONDS = 5.0

T = TypeVar("T")

_log = structlog.get_logger()


class Champion:
    """Changes the champion of one model, one change at a time among all trainers that share the database.

    Attributes:
        committing: whether replicas are swapping now. Before that, a change can be cancelled and leaves no trace.

    """

    def __init__(self, registry: ModelRegistry, leases: Leases, targets: Sequence[str], rehearse: Rehearse) -> None:
        self._registry = registry
        self._leases = leases
        self._targets = tuple(targets)
        self._rehearse = rehearse
        self.committing = False

    async def promote(self, change: Change, on_rehearsed: Callable[[], None] = lambda: None) -> ChangeResult:
        """Make a version the champion.

        Args:
            change: the new champion, and the champion that it replaces.
            on_rehearsed: called after the version has passed its rehearsal and before the first replica is asked.

        Raises:
            ModelVersionNotFound: the registry has no such version.
            VersionRefused: the gate or the rehearsal refused the version.
            ChampionChanged: the champion is not the expected one.
            ReplicaRejected: a replica refused the version.
            NoReplicaReached: no replica could be reached.
            PromotionInProgress: another change is in progress.
            StorageFailed: database or repository refused. On every error the champion does not change.

        """
        await asyncio.to_thread(self._check_champion, change)
        if not change.is_rollback:
            await ensure_rehearsed(self._registry, self._rehearse, change.version, change.by)
        on_rehearsed()
        async with self._alone() as lost:
            await asyncio.to_thread(self._check_champion, change)
            return await self._swap(change, lost)

    async def roll_back(self, by: str, reason: str, expected: int = 0) -> ChangeResult:
        """Bring the former champion back; done twice, it goes back two champions.

        Args:
            by: who asks.
            reason: why.
            expected: the champion that the caller expects to replace; 0 for the one that serves now.

        Raises:
            NoChampion: no version was ever promoted.
            NoFormerChampion: there is no former champion, or the registry does not have it any more.
            TrainerError: any error of `promote`; the champion does not change.

        """
        alias = await asyncio.to_thread(self._registry.alias.read)
        if alias is None:
            raise NoChampion
        if not await asyncio.to_thread(self._registry.versions.is_there, alias.previous):
            raise NoFormerChampion
        change = Change(alias.previous, expected or alias.version, by, reason, pb.HISTORY_ACTION_ROLLED_BACK)
        return await self.promote(change)

    async def recover(self) -> None:
        """Complete a change whose trainer died after the alias had moved, or take it back if it had not.

        Replicas that are ahead of the alias go back to the champion. It does nothing while another change is in
        progress. Raises StorageFailed.
        """
        with contextlib.suppress(PromotionInProgress):
            async with self._alone():
                await _finish(self._recover())

    async def watch(self) -> None:
        """Recover from changes that their trainers did not end, until this task is cancelled."""
        while True:
            await asyncio.sleep(WATCH_EVERY_SECONDS)
            try:
                if await asyncio.to_thread(self._registry.alias.pending):
                    await self.recover()
            except Exception as error:  # if this loop ended, nothing would be recovered until the next start
                _log.error("cannot look for changes that were not ended", exc_info=error)

    async def _recover(self) -> None:
        alias = await asyncio.to_thread(self._read_repaired)
        pending = await asyncio.to_thread(self._registry.alias.pending)
        if alias is not None:
            addresses = await resolve(self._targets)
            replicas = await ask_statuses(addresses)
            ahead = max([pending.generation if pending else 0, *(replica.generation for replica in replicas)])
            if ahead > alias.generation:
                reason = _explain(pending)
                _log.warning(
                    "the champion is confirmed under a higher generation", champion=alias.version, reason=reason
                )
                return await self._reassert(alias, ahead, "trainer", reason)
            # A change whose end was not known may have sent replicas back under the generation that the alias has now.
            behind = [replica.target for replica in replicas if replica.is_behind(alias.version, alias.generation)]
            await commit(behind, alias.version, alias.generation)
        if pending is not None:
            await asyncio.to_thread(self._registry.alias.take_back, pending.generation)
        return None

    def _read_repaired(self) -> pb.ChampionAlias | None:
        self._registry.alias.repair()
        return self._registry.alias.read()

    def _check_champion(self, change: Change) -> None:
        """Raise ChampionChanged when another champion serves than the change was decided against."""
        serving = self._registry.alias.version()
        if serving != change.expected:
            raise ChampionChanged(change.expected, serving)

    async def _swap(self, change: Change, lost: asyncio.Event) -> ChangeResult:
        generation = await asyncio.to_thread(self._registry.alias.next_generation)
        prepared = await prepare(await resolve(self._targets), change.version, generation, hurry=change.is_rollback)
        raise_if_refused(prepared, prepared)
        ready = [result.target for result in prepared if result.done]
        if change.must_reach and change.expected and not ready:
            outcomes = [result.outcome for result in prepared]
            raise NoReplicaReached(", ".join(self._targets), outcomes)
        self.committing = True
        return await _finish(self._commit(change, generation, prepared, lost))

    async def _commit(
        self, change: Change, generation: int, prepared: Sequence[ReplicaResult], lost: asyncio.Event
    ) -> ChangeResult:
        move = await asyncio.to_thread(self._begin_move, change, generation)
        ready = [result.target for result in prepared if result.done]
        committed = await commit(ready, change.version, generation)
        results = merge_results(prepared, committed)
        if any(result.refused for result in committed):
            await self._call_back(change, generation, committed, results)
        if lost.is_set():
            await self._send_back(change, ready, generation)
            raise PromotionInProgress
        try:
            alias = await asyncio.to_thread(self._registry.alias.finish_move, move)
        except (StorageFailed, ChampionChanged):
            await self._send_back(change, ready, generation)
            raise
        return ChangeResult(alias, results)

    def _begin_move(self, change: Change, generation: int) -> Move:
        return self._registry.alias.begin_move(
            change.version, generation, change.action, change.by, change.reason, expected=change.expected
        )

    async def _call_back(
        self, change: Change, generation: int, committed: Sequence[ReplicaResult], results: Sequence[ReplicaResult]
    ) -> None:
        """Send every replica back to the champion after one refused to commit. Always raises ReplicaRejected."""
        swapped = [result.target for result in committed if result.done]
        try:
            before = await asyncio.to_thread(self._registry.alias.read)
            if before is not None:
                why = f"version {change.version} was refused by a replica"
                await self._reassert(before, generation, change.by, why)
            else:
                await asyncio.to_thread(self._registry.alias.take_back, generation)
        except (StorageFailed, ChampionChanged, PromotionInProgress):
            await self._send_back(change, swapped, generation)
        raise_if_refused(committed, mark_sent_back(results, change.expected))

    async def _send_back(self, change: Change, swapped: Sequence[str], generation: int) -> None:
        """Send replicas back to the champion when the alias did not move. They keep the generation that they have.

        The move stays pending, so that `recover` confirms the champion as soon as the storage works again.
        """
        try:
            serving = await asyncio.to_thread(self._registry.alias.version)
        except StorageFailed:
            serving = change.expected
        if serving:
            await commit(swapped, serving, generation)

    async def _reassert(self, alias: pb.ChampionAlias, above: int, by: str, reason: str) -> None:
        """Confirm the champion under a higher generation, so that replicas that are ahead go back to it."""

        def confirm() -> int:
            generation = self._registry.alias.next_generation(above)
            action = pb.HISTORY_ACTION_REASSERTED
            self._registry.alias.move(alias.version, generation, action, by, reason, expected=alias.version)
            return generation

        generation = await asyncio.to_thread(confirm)
        await commit(await resolve(self._targets), alias.version, generation)

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[asyncio.Event]:
        """Hold the lease for changes; yields what is set when it is lost. Raises PromotionInProgress if it is held."""
        lost = asyncio.Event()
        async with self._leases.hold(CHAMPION, lost=lost) as lease:
            if lease is None:
                raise PromotionInProgress
            try:
                yield lost
            finally:
                self.committing = False


def _explain(pending: PendingMove | None) -> str:
    if pending is not None and not pending.version:
        return "the database is older than the alias"
    what = f"version {pending.version}" if pending else "another version"
    return f"a promotion of {what} was not finished"


async def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Do the work to its end, even when the caller is cancelled meanwhile. Then it is cancelled afterwards."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # nobody else asks for it, and the log would say so
        raise
