"""Every exception that the trainer raises on purpose. `api/error_table.py` gives each of them its gRPC status.

The text of an exception reaches the caller. It says what happened and what to do.

TrainerError
├── InvalidRequest           a field of the request is not valid
├── ReviewItemNotFound       there is no such review item, or it was already decided
├── UnknownQuery             feedback refers to an answer that is not stored, or no longer
├── TrainingRunNotFound      there is no such training run
├── ModelVersionNotFound     the registry has no such version, or its files cannot be read
├── SnapshotNotFound         there is no such dataset snapshot, or its file is damaged
├── NoChampion               no version has been promoted yet
├── NoFormerChampion         there is no former champion to roll back to
├── VersionRefused           the gate or the rehearsal refused the version, so nobody may promote it
├── ReplicaRejected          an inference replica refused to load a version
├── NoReplicaReached         no inference replica answered during a promotion
├── RetrainInProgress        another training run is in progress
├── ExperimentInProgress     another experiment is running
├── NoExperiment             no experiment is running
├── PromotionInProgress      another promotion or rollback is in progress
├── ChampionChanged          the champion is not the one that the promotion expected (compare-and-set)
├── NotSupported             the service does not offer this call
├── StorageFailed            a file could not be written
├── StageFailed              a stage of a training run failed, which ends the run
└── BrokenData               the taxonomy or the examples cannot be read
"""

from collections.abc import Sequence

from moodfood.trainer.v1.trainer_pb2 import ReplicaOutcome


class TrainerError(Exception):
    """Base class of every exception that the trainer raises on purpose."""


class InvalidRequest(TrainerError):
    """A field of the request is not valid.

    Attributes:
        field: name of the field, such as "labels[0]".
        problem: what is wrong with it and what to send instead; a sentence that follows the name of the field.

    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class ReviewItemNotFound(TrainerError):
    """There is no such review item, or it was already decided."""

    def __init__(self, item_id: str) -> None:
        super().__init__(f"there is no open review item {item_id[:80]!r}; list the review items to see their ids")
        self.item_id = item_id


class UnknownQuery(TrainerError):
    """Feedback refers to an answer that is not stored, or no longer."""

    def __init__(self, query_id: str) -> None:
        super().__init__(f"no query with the id {query_id!r} is stored; send the text instead of query_id")
        self.query_id = query_id


class TrainingRunNotFound(TrainerError):
    """There is no such training run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"there is no training run {run_id!r}; list the runs to see their ids")
        self.run_id = run_id


class ModelVersionNotFound(TrainerError):
    """The registry has no such version, or its files cannot be read."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the registry has no version {version}; list the versions to see their numbers")
        self.version = version


class SnapshotNotFound(TrainerError):
    """There is no such dataset snapshot, or its file is damaged."""

    def __init__(self, snapshot_id: str, problem: str) -> None:
        super().__init__(
            f"cannot train on snapshot {snapshot_id[:80]!r}: {problem}; list the versions to see their snapshots"
        )
        self.snapshot_id = snapshot_id


class NoChampion(TrainerError):
    """No version has been promoted yet."""

    def __init__(self) -> None:
        super().__init__("there is no champion yet; start a training run first")


class NoFormerChampion(TrainerError):
    """There is no former champion to roll back to."""

    def __init__(self) -> None:
        super().__init__("the registry has no former champion to roll back to; promote a version instead")


class VersionRefused(TrainerError):
    """The gate or the rehearsal refused the version, so nobody may promote it.

    Attributes:
        version: the refused version.
        rules: names of the rules that failed, separated by commas.

    """

    def __init__(self, version: int, rules: str) -> None:
        super().__init__(f"version {version} did not pass these rules: {rules}; start a training run for a better one")
        self.version = version
        self.rules = rules


class ReplicaRejected(TrainerError):
    """An inference replica refused to load a version. Every replica still serves the champion."""

    def __init__(self, target: str, problem: str, replicas: Sequence[ReplicaOutcome] = ()) -> None:
        super().__init__(f"the inference service at {target} refused to load the version: {problem}")
        self.target = target
        self.replicas = replicas


class NoReplicaReached(TrainerError):
    """No inference replica answered during a promotion."""

    def __init__(self, targets: str, replicas: Sequence[ReplicaOutcome] = ()) -> None:
        super().__init__(f"no inference service answered at {targets}; start one or set MOODFOOD_INFERENCE_TARGETS")
        self.targets = targets
        self.replicas = replicas


class RetrainInProgress(TrainerError):
    """Another training run is in progress."""

    def __init__(self, operation: str) -> None:
        super().__init__(f"a training run is in progress as {operation}; wait until it ends, or cancel it")
        self.operation = operation


class ExperimentInProgress(TrainerError):
    """Another experiment is running."""

    def __init__(self, experiment_id: str) -> None:
        super().__init__(f"experiment {experiment_id} is running; stop it before you start another one")
        self.experiment_id = experiment_id


class NoExperiment(TrainerError):
    """No experiment is running."""

    def __init__(self) -> None:
        super().__init__("no experiment is running; start one first")


class PromotionInProgress(TrainerError):
    """Another promotion or rollback is in progress."""

    def __init__(self) -> None:
        super().__init__("another promotion or rollback is going on; try again in a few seconds")


class ChampionChanged(TrainerError):
    """The champion is not the one that the promotion expected. Nothing was changed.

    Attributes:
        expected: the champion that the promotion expected; 0 for none.
        serving: the champion now; 0 for none.

    """

    def __init__(self, expected: int, serving: int) -> None:
        then = f"version {expected} to be the champion" if expected else "no champion"
        now = f"version {serving} serves now" if serving else "there is no champion now"
        super().__init__(f"the promotion expected {then}, but {now}; look at the history, then try again")
        self.expected = expected
        self.serving = serving


class NotSupported(TrainerError):
    """The service does not offer this call. The text names the call to use instead."""


class StorageFailed(TrainerError):
    """A file could not be written, and nothing was stored. The text names the file and the reason."""


class StageFailed(TrainerError):
    """A stage of a training run failed. The text says why, in words for an operator."""


class BrokenData(TrainerError):
    """The taxonomy or the examples cannot be read. The text names the file."""
