"""Sees to it that no version meets a caller without a rehearsal: one that was only validated is rehearsed then."""

from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime

from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer.errors import VersionRefused
from services.trainer.evaluation.gate import Rule
from services.trainer.evaluation.reports import rule_results
from services.trainer.registry.registry import ModelRegistry

Rehearse = Callable[[pb.Manifest], Coroutine[object, object, Sequence[Rule]]]


class Rehearsals:
    """Rehearses versions and keeps what was found with them."""

    def __init__(self, registry: ModelRegistry, rehearse: Rehearse) -> None:
        self._registry = registry
        self._rehearse = rehearse

    async def run(self, version: int) -> list[pb.RuleResult]:
        """Rehearse a version, keep what was found with it, and return that.

        Raises:
            ModelVersionNotFound: there is none.
            StorageFailed: what was found could not be kept.

        """
        rules = rule_results(await self._rehearse(self._registry.manifest(version)))
        rehearsal = pb.Rehearsal(rules=rules)
        rehearsal.at.FromDatetime(datetime.now(UTC))
        self._registry.add_rehearsal(version, rehearsal)
        return rules

    async def ensure(self, version: int, by: str) -> None:
        """Rehearse a version that passed the gate and was never rehearsed.

        Raises:
            VersionRefused: it failed; that is recorded, and nobody may promote it.
            ModelVersionNotFound, StorageFailed: as `run`.

        """
        if self._registry.is_rehearsed(version) or not self._registry.decision(version).promoted:
            return
        failed = [rule for rule in await self.run(version) if not rule.passed]
        if failed:
            self._registry.record_refusal(version, by, "; ".join(f"{rule.rule}: {rule.detail}" for rule in failed))
            raise VersionRefused(version, ", ".join(rule.rule for rule in failed))
