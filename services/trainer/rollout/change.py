"""A change of the champion, and what came of it."""

from dataclasses import dataclass

from moodfood.registry.v1 import manifest_pb2 as pb

from services.trainer.rollout.replicas import ReplicaResult


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
