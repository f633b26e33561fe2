"""What can go wrong while learning. Exceptions carry facts; `status.py` gives each its gRPC status.

TrainerError
├── InvalidRequest           a field of the request cannot be used
├── ReviewItemNotFound       no such review item, or it was decided
├── UnknownQuery             feedback refers to an answer that the query log does not hold
├── TrainingRunNotFound      no such run
├── ModelVersionNotFound     the registry has no such version
├── SnapshotNotFound         no such dataset snapshot, or it was damaged
├── NoChampion               nothing has been promoted yet
├── NoFormerChampion         there is nothing to roll back to
├── VersionRefused           the gate refused the version, so nobody may promote it
├── ReplicaRejected          an inference replica refused to load a version
├── NoReplicaReached         no inference replica answered during a promotion
├── RetrainInProgress        a run is going on
├── ExperimentInProgress     an experiment is going on
├── NoExperiment             none is going on
├── PromotionInProgress      a promotion or rollback is going on
├── ChampionChanged          another champion serves than the one that a promotion was decided against
├── NotSupported             the operation exists in the standard and is not offered here
├── StorageFailed            a file could not be written
├── StageFailed              a stage of a run cannot be passed (ends the run)
└── BrokenData               taxonomy or examples cannot be read
"""

from collections.abc import Sequence

from moodfood.trainer.v1.trainer_pb2 import ReplicaOutcome


class TrainerError(Exception):
    """Base of everything this service raises on purpose."""


class InvalidRequest(TrainerError):
    """A field of the request cannot be used."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class ReviewItemNotFound(TrainerError):
    """No such review item, or it was decided."""

    def __init__(self, item_id: str) -> None:
        super().__init__(f"no review item {item_id[:80]!r} waits; list the items to see which do")
        self.item_id = item_id


class UnknownQuery(TrainerError):
    """Feedback refers to an answer that the query log does not hold."""

    def __init__(self, query_id: str) -> None:
        super().__init__(f"no logged query has the id {query_id!r}; send the text instead of query_id")
        self.query_id = query_id


class TrainingRunNotFound(TrainerError):
    """No such run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"there is no training run {run_id!r}; list the runs to see their ids")
        self.run_id = run_id


class ModelVersionNotFound(TrainerError):
    """The registry has no such version."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the registry has no version {version}; list the versions to see which it has")
        self.version = version


class SnapshotNotFound(TrainerError):
    """No such dataset snapshot, or it was damaged."""

    def __init__(self, snapshot_id: str, problem: str) -> None:
        super().__init__(f"cannot train on snapshot {snapshot_id[:80]!r}: {problem}; the versions name theirs")
        self.snapshot_id = snapshot_id


class NoChampion(TrainerError):
    """Nothing has been promoted yet."""

    def __init__(self) -> None:
        super().__init__("there is no champion yet; retrain first")


class NoFormerChampion(TrainerError):
    """There is nothing to roll back to."""

    def __init__(self) -> None:
        super().__init__("the champion has no predecessor in the registry to roll back to")


class VersionRefused(TrainerError):
    """The gate refused the version, so nobody may promote it."""

    def __init__(self, version: int, rules: str) -> None:
        super().__init__(f"version {version} was refused by the gate ({rules}); retrain instead of promoting it")
        self.version = version
        self.rules = rules


class ReplicaRejected(TrainerError):
    """An inference replica refused to load a version; every replica serves the champion as before."""

    def __init__(self, target: str, problem: str, replicas: Sequence[ReplicaOutcome] = ()) -> None:
        super().__init__(f"{target} refused to load the version: {problem}")
        self.target = target
        self.replicas = replicas


class NoReplicaReached(TrainerError):
    """No inference replica answered during a promotion."""

    def __init__(self, targets: str, replicas: Sequence[ReplicaOutcome] = ()) -> None:
        super().__init__(f"no inference service answered at {targets}; start one or set MOODFOOD_INFERENCE_TARGETS")
        self.targets = targets
        self.replicas = replicas


class RetrainInProgress(TrainerError):
    """A run is going on."""

    def __init__(self, operation: str) -> None:
        super().__init__(f"a training run is going on as {operation}; wait for it or cancel it")
        self.operation = operation


class ExperimentInProgress(TrainerError):
    """An experiment is going on."""

    def __init__(self, experiment_id: str) -> None:
        super().__init__(f"experiment {experiment_id} is going on; stop it before another begins")
        self.experiment_id = experiment_id


class NoExperiment(TrainerError):
    """No experiment is going on."""

    def __init__(self) -> None:
        super().__init__("no experiment is going on; start one")


class PromotionInProgress(TrainerError):
    """A promotion or rollback is going on."""

    def __init__(self) -> None:
        super().__init__("another promotion or rollback is going on; try again when it has ended")


class ChampionChanged(TrainerError):
    """Another champion serves than the one that a promotion was decided against; nothing was changed."""

    def __init__(self, expected: int, serving: int) -> None:
        decided = f"while version {expected} served" if expected else "while there was no champion"
        now = f"version {serving} serves now" if serving else "there is no champion now"
        super().__init__(f"the promotion was decided {decided}, and {now}; look at the history and ask again")
        self.expected = expected
        self.serving = serving


class NotSupported(TrainerError):
    """The operation exists in the standard and is not offered here."""


class StorageFailed(TrainerError):
    """A file could not be written; nothing was recorded."""


class StageFailed(TrainerError):
    """A stage of a run cannot be passed; the text says why, in words meant for an operator."""


class BrokenData(TrainerError):
    """Taxonomy or examples cannot be read."""
