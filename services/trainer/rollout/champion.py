"""The one way to change which version serves. Runs, deploys, rollbacks, experiments and `moodfood train` all come here.

The order is: rehearse the version, lock, check that the champion is the one that the change was decided against,
prepare on every replica, commit on every replica, move the alias, note it in the history. The rehearsal comes before
the lock, because it says something about the version alone and takes seconds: a rollback must not wait for it.

A replica that refuses stops the change, and all replicas stay on the champion or go back to it. A replica that is not
reached stops nothing: it follows the alias by itself when it is back. What a change intends is on disk before the first
replica swaps, so the next trainer takes back a change whose trainer died.
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
    """What to make the champion, and what that was decided against.

    Attributes:
        version: what is to serve.
        expected: the champion at the time of the decision; 0 if there was none.
        by: who asks.
        reason: why.
        action: how the history tells it.
        must_reach: fail if no replica at all answers while there is a champion to stay with.

    """

    version: int
    expected: int
    by: str
    reason: str
    action: "pb.HistoryAction.ValueType" = pb.HISTORY_ACTION_PROMOTED
    must_reach: bool = False

    @property
    def is_rollback(self) -> bool:
        """Whether it brings a former champion back: in a hurry, and without asking the gate again."""
        return self.action == pb.HISTORY_ACTION_ROLLED_BACK


@dataclass(frozen=True)
class ChangeResult:
    """The alias after a change and what each replica did."""

    alias: pb.ChampionAlias
    replicas: tuple[ReplicaResult, ...]


class Champion:
    """Changes the champion of one model, one change at a time among all trainers on the same folders.

    Attributes:
        committing: whether replicas are swapping at this moment; until then a change may be cancelled without a trace.

    """

    def __init__(self, registry: ModelRegistry, targets: Sequence[str], rehearse: Rehearse) -> None:
        self._registry = registry
        self._targets = tuple(targets)
        self._rehearse = rehearse
        self.committing = False

    async def promote(self, change: Change, on_rehearsed: Callable[[], None] = lambda: None) -> ChangeResult:
        """Make a version the champion.

        Args:
            change: which version, and what that was decided against.
            on_rehearsed: called when the version has passed its rehearsal, before the first replica hears of it.

        Raises:
            ModelVersionNotFound, VersionRefused, ChampionChanged, ReplicaRejected, NoReplicaReached,
            PromotionInProgress, StorageFailed: the champion is what it was.

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
            expected: the champion to roll back from; 0 for the one that serves.

        Raises:
            NoChampion: nothing was ever promoted.
            NoFormerChampion: the champion has no predecessor in the registry.
            what `promote` raises: the champion is what it was.

        """
        alias = self._registry.alias.read()
        if alias is None:
            raise NoChampion
        if alias.previous == 0 or alias.previous not in self._registry.versions.numbers():
            raise NoFormerChampion
        change = Change(alias.previous, expected or alias.version, by, reason, pb.HISTORY_ACTION_ROLLED_BACK)
        return await self.promote(change)

    async def recover(self) -> None:
        """Take back a change that its trainer did not live to finish, and replicas that are ahead of the alias.

        Does nothing while somebody else changes the champion.
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
        """Send every replica back to the champion, because one has refused to commit. Raises ReplicaRejected."""
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
            # The alias stays, so the replicas go back to it, under the generation that they have.
            if change.expected:
                await commit(swapped, change.expected, generation)
            raise

    async def _reassert(self, alias: pb.ChampionAlias, above: int, by: str, reason: str) -> None:
        """Confirm the champion under a generation above all others, so that replicas that went ahead come back."""
        generation = max(above + 1, self._registry.alias.next_generation())
        action = pb.HISTORY_ACTION_REASSERTED
        self._registry.alias.move(alias.version, generation, action, by, reason, expected=alias.version)
        await commit(await resolve(self._targets), alias.version, generation)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep out every other change, from this process and from others. Raises PromotionInProgress."""
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
