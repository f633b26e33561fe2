"""Changes the champion: prepare on every replica, commit on every replica, then the alias, then the history.

A replica that refuses stops the change and all stay, or go back. A replica that is not reached does not: the alias
moves, and it follows the alias by itself when it is back. One change at a time on a store, whatever the number of
trainers; what a change intends is on disk before the first replica swaps, so one that dies is taken back.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import structlog
from filelock import FileLock, Timeout
from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer.errors import (
    NoChampion,
    NoFormerChampion,
    NoReplicaReached,
    PromotionInProgress,
    ReplicaRejected,
    StorageFailed,
    VersionRefused,
)
from services.trainer.registry.registry import ModelRegistry
from services.trainer.rollout.replicas import ReplicaResult, commit, merged, prepare, resolve, sent_back, statuses

_log = structlog.get_logger()


@dataclass(frozen=True)
class Change:
    """The alias after a change and what each replica did."""

    alias: pb.ChampionAlias
    replicas: tuple[ReplicaResult, ...]


class Champion:
    """The one way to change what serves.

    Attributes:
        committing: whether replicas are swapping at this moment; until then a change may be cancelled without a trace.

    """

    def __init__(self, registry: ModelRegistry, targets: Sequence[str]) -> None:
        self._registry = registry
        self._targets = tuple(targets)
        self._lock = FileLock(registry.folder / ".changing", timeout=0, thread_local=False)
        self.committing = False

    async def promote(self, version: int, by: str, reason: str, *, must_reach: bool = False) -> Change:
        """Make a version the champion.

        Args:
            version: what to serve.
            by: who asks.
            reason: why.
            must_reach: fail if no replica at all answers while there is a champion to stay with.

        Raises:
            ModelVersionNotFound, VersionRefused, ReplicaRejected, NoReplicaReached, PromotionInProgress,
            StorageFailed: the champion is what it was.

        """
        self._registry.manifest(version)
        decision = self._registry.decision(version)
        if not decision.promoted:
            raise VersionRefused(version, ", ".join(rule.rule for rule in decision.rules if not rule.passed))
        before = self._registry.champion()
        previous = before.previous if before and before.version == version else before.version if before else 0
        return await self._change(version, previous, pb.HISTORY_ACTION_PROMOTED, by, reason, must_reach=must_reach)

    async def roll_back(self, by: str, reason: str) -> Change:
        """Bring the former champion back; done twice, it goes back two champions.

        Raises:
            NoChampion, NoFormerChampion, ReplicaRejected, PromotionInProgress, StorageFailed: as promote.

        """
        alias = self._registry.champion()
        if alias is None:
            raise NoChampion
        if alias.previous == 0 or alias.previous not in self._registry.versions():
            raise NoFormerChampion
        previous = self._registry.champion_before(alias.previous)
        return await self._change(alias.previous, previous, pb.HISTORY_ACTION_ROLLED_BACK, by, reason)

    async def recover(self) -> None:
        """Take back a change that its trainer did not live to finish, and replicas that are ahead of the alias.

        Does nothing while another trainer changes the champion.
        """
        with contextlib.suppress(PromotionInProgress), self._alone():
            alias, pending = self._registry.champion(), self._registry.pending()
            if alias is None:
                return
            ahead = max(
                [pending.generation if pending else 0]
                + [each.generation for each in await statuses(await resolve(self._targets))]
            )
            if ahead > alias.generation:
                version = pending.version if pending else 0
                _log.warning("found a promotion that was not finished", ahead=ahead, champion=alias.version)
                what = f"version {version}" if version else "another version"
                await self._reassert(ahead, "trainer", f"a promotion of {what} was not finished")
            self._registry.clear_pending()

    async def _reassert(self, above: int, by: str, reason: str) -> None:
        """Confirm the champion under a generation above all others, so that replicas that went ahead come back."""
        alias = self._registry.champion()
        if alias is None:
            return
        generation = max(above + 1, self._registry.next_generation())
        self._registry.move_alias(alias.version, alias.previous, generation, pb.HISTORY_ACTION_REASSERTED, by, reason)
        await commit(await resolve(self._targets), alias.version, generation)

    async def _change(
        self,
        version: int,
        previous: int,
        action: "pb.HistoryAction.ValueType",
        by: str,
        reason: str,
        *,
        must_reach: bool = False,
    ) -> Change:
        with self._alone():
            generation, addresses = self._registry.next_generation(), await resolve(self._targets)
            hurry = action == pb.HISTORY_ACTION_ROLLED_BACK
            prepared = await prepare(addresses, version, generation, hurry=hurry)
            _raise_if_refused(prepared, prepared)
            ready = [result.target for result in prepared if result.done]
            if must_reach and self._registry.champion() and not ready:
                raise NoReplicaReached(", ".join(self._targets), tuple(prepared))
            self._registry.set_pending(version, generation)
            self.committing = True
            committed = await commit(ready, version, generation)
            results = merged(prepared, committed)
            before = self._registry.champion()
            if any(result.refused for result in committed):
                await self._reassert(generation, by, f"version {version} was refused by a replica")
                self._registry.clear_pending()
                _raise_if_refused(committed, sent_back(results, before.version if before else 0))
            try:
                alias = self._registry.move_alias(version, previous, generation, action, by, reason)
            except StorageFailed:
                # The disk takes no new alias, so the replicas go back under the generation they have.
                if before is not None:
                    await commit(ready, before.version, generation)
                raise
            self._registry.clear_pending()
            return Change(alias, results)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._registry.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise PromotionInProgress from None
        try:
            yield
        finally:
            self.committing = False
            self._lock.release()


def _raise_if_refused(asked: Sequence[ReplicaResult], replicas: Sequence[ReplicaResult]) -> None:
    refused = next((result for result in asked if result.refused), None)
    if refused is not None:
        raise ReplicaRejected(refused.target, refused.problem, tuple(replicas))
