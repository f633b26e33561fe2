"""Changes the champion: every replica first, then the alias, then the history.

A replica that refuses stops the change and all go back. A replica that is not reached does not: the alias moves, and
it follows the alias by itself when it is back. One change at a time.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer.errors import (
    NoChampion,
    NoFormerChampion,
    NoReplicaReached,
    PromotionInProgress,
    ReplicaRejected,
    VersionRefused,
)
from services.trainer.registry import ModelRegistry
from services.trainer.rollout import ReplicaResult, reload_everywhere


@dataclass(frozen=True)
class Change:
    """The alias after a change and what each replica did."""

    alias: pb.ChampionAlias
    replicas: tuple[ReplicaResult, ...]


class Champion:
    """The one way to change what serves."""

    def __init__(self, registry: ModelRegistry, targets: Sequence[str]) -> None:
        self._registry = registry
        self._targets = tuple(targets)
        self._changing = asyncio.Lock()

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

    async def reassert(self, by: str, reason: str) -> None:
        """Confirm the champion under a new generation, so that a replica that went ahead comes back to it."""
        alias = self._registry.champion()
        if alias is None:
            return
        generation = self._registry.next_generation() + 1
        self._registry.move_alias(alias.version, alias.previous, generation, pb.HISTORY_ACTION_REASSERTED, by, reason)
        await reload_everywhere(self._targets, alias.version, generation)

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
        if self._changing.locked():
            raise PromotionInProgress
        async with self._changing:
            generation = self._registry.next_generation()
            results = await reload_everywhere(self._targets, version, generation)
            refused = next((result for result in results if result.refused), None)
            if refused is not None:
                await self.reassert(by, f"version {version} was refused by {refused.target}")
                raise ReplicaRejected(refused.target, refused.problem)
            if must_reach and self._registry.champion() and not any(result.swapped for result in results):
                raise NoReplicaReached(", ".join(self._targets))
            alias = self._registry.move_alias(version, previous, generation, action, by, reason)
            return Change(alias, tuple(results))
