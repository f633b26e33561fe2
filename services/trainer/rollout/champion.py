"""Changes the champion. Runs, deploys, rollbacks, experiments and `moodfood train` all use this module.

The order is: rehearse the version, take the lock, check that the champion is the expected one (compare-and-set),
prepare on every replica, commit on every replica, move the alias, and add a line to the history. The rehearsal comes
before the lock, because it depends only on the version and takes seconds, and a rollback must not wait for it.

When a replica refuses the version, the change stops, and all replicas stay on the champion or go back to it. When a
replica cannot be reached, the change continues: the replica follows the alias when it is back. The change is written to
disk before the first replica swaps. If the trainer dies in between, the next trainer takes the change back.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import structlog
from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer.errors import (
    ChampionChanged,
    NoChampion,
    NoFormerChampion,
    NoReplicaReached,
    PromotionInProgress,
    ReplicaRejected,
    StorageFailed,
)
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.rehearsal import Rehearse, ensure_rehearsed
from services.trainer.rollout.replicas import (
    ReplicaResult,
    ask_statuses,
    commit,
    mark_sent_back,
    merge_results,
    prepare,
    resolve,
)
from services.trainer.storage import try_lock

_log = structlog.get_logger()


@dataclass(frozen=True)
class Change:
    """A change of the champion.

    Attributes:
        version: the new champion.
        expected: the champion that the change expects to replace; 0 for none.
        by: who asks.
        reason: why.
        action: what the history records.
        must_reach: whether the change fails when there is a champion and no replica can be reached.

    """

    version: int
    expected: int
    by: str
    reason: str
    action: "pb.HistoryAction.ValueType" = pb.HISTORY_ACTION_PROMOTED
    must_reach: bool = False

    @property
    def is_rollback(self) -> bool:
        """Whether this is a rollback. A rollback does not wait for replicas that start, and does not ask the gate."""
        return self.action == pb.HISTORY_ACTION_ROLLED_BACK


@dataclass(frozen=True)
class ChangeResult:
    """The alias after a change and what each replica did."""

    alias: pb.ChampionAlias
    replicas: tuple[ReplicaResult, ...]


class Champion:
    """Changes the champion of one model, one change at a time among all trainers on the same folders.

    Attributes:
        committing: whether replicas are swapping now. Before that, a change can be cancelled and leaves no trace.

    """

    def __init__(self, registry: ModelRegistry, targets: Sequence[str], rehearse: Rehearse) -> None:
        self._registry = registry
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
            StorageFailed: a file could not be written. On every error the champion does not change.

        """
        self._check_champion(change)
        if not change.is_rollback:
            await ensure_rehearsed(self._registry, self._rehearse, change.version, change.by)
        on_rehearsed()
        with self._alone():
            self._check_champion(change)
            return await self._swap(change)

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
        alias = self._registry.alias.read()
        if alias is None:
            raise NoChampion
        if alias.previous == 0 or alias.previous not in self._registry.versions.numbers():
            raise NoFormerChampion
        change = Change(alias.previous, expected or alias.version, by, reason, pb.HISTORY_ACTION_ROLLED_BACK)
        return await self.promote(change)

    async def recover(self) -> None:
        """Take back a change that did not finish because its trainer died.

        Replicas that are ahead of the alias go back to the champion. It does nothing while another change is in
        progress.
        """
        with contextlib.suppress(PromotionInProgress), self._alone():
            alias, pending = self._registry.alias.read(), self._registry.alias.pending()
            if alias is None:
                return
            replicas = await ask_statuses(await resolve(self._targets))
            ahead = max([pending.generation if pending else 0, *(replica.generation for replica in replicas)])
            if ahead > alias.generation:
                what = f"version {pending.version}" if pending else "another version"
                _log.warning("found a promotion that was not finished", ahead=ahead, champion=alias.version)
                await self._reassert(alias, ahead, "trainer", f"a promotion of {what} was not finished")
            self._registry.alias.clear_pending()

    def _check_champion(self, change: Change) -> None:
        """Raise ChampionChanged when another champion serves than the change was decided against."""
        serving = self._registry.alias.version()
        if serving != change.expected:
            raise ChampionChanged(change.expected, serving)

    async def _swap(self, change: Change) -> ChangeResult:
        generation, addresses = self._registry.alias.next_generation(), await resolve(self._targets)
        prepared = await prepare(addresses, change.version, generation, hurry=change.is_rollback)
        _raise_if_refused(prepared, prepared)
        ready = [result.target for result in prepared if result.done]
        if change.must_reach and change.expected and not ready:
            outcomes = [result.outcome for result in prepared]
            raise NoReplicaReached(", ".join(self._targets), outcomes)
        self._registry.alias.set_pending(change.version, generation)
        self.committing = True
        committed = await commit(ready, change.version, generation)
        results = merge_results(prepared, committed)
        if any(result.refused for result in committed):
            await self._call_back(change, generation, committed, results)
        alias = await self._move_alias(change, generation, ready)
        self._registry.alias.clear_pending()
        return ChangeResult(alias, results)

    async def _call_back(
        self, change: Change, generation: int, committed: Sequence[ReplicaResult], results: Sequence[ReplicaResult]
    ) -> None:
        """Send every replica back to the champion after one refused to commit. Always raises ReplicaRejected."""
        before = self._registry.alias.read()
        if before is not None:
            await self._reassert(before, generation, change.by, f"version {change.version} was refused by a replica")
        self._registry.alias.clear_pending()
        _raise_if_refused(committed, mark_sent_back(results, before.version if before else 0))

    async def _move_alias(self, change: Change, generation: int, swapped: Sequence[str]) -> pb.ChampionAlias:
        try:
            return self._registry.alias.move(
                change.version, generation, change.action, change.by, change.reason, expected=change.expected
            )
        except (StorageFailed, ChampionChanged):
            # The alias did not move, so the replicas go back to the champion. They keep the generation that they have.
            if change.expected:
                await commit(swapped, change.expected, generation)
            raise

    async def _reassert(self, alias: pb.ChampionAlias, above: int, by: str, reason: str) -> None:
        """Confirm the champion under a higher generation, so that replicas that are ahead go back to it."""
        generation = max(above + 1, self._registry.alias.next_generation())
        action = pb.HISTORY_ACTION_REASSERTED
        self._registry.alias.move(alias.version, generation, action, by, reason, expected=alias.version)
        await commit(await resolve(self._targets), alias.version, generation)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock for changes, within and between processes. Raises PromotionInProgress when it is taken."""
        lock = try_lock(self._registry.folder / ".changing")
        if lock is None:
            raise PromotionInProgress
        try:
            yield
        finally:
            self.committing = False
            lock.release()


def _raise_if_refused(asked: Sequence[ReplicaResult], replicas: Sequence[ReplicaResult]) -> None:
    refused = next((result for result in asked if result.refused), None)
    if refused is not None:
        raise ReplicaRejected(refused.target, refused.problem, [result.outcome for result in replicas])
