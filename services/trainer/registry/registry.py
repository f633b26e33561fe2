"""The model registry: the folder models/<model> with its versions, its alias, its history and its experiment."""

from pathlib import Path

from services.trainer.registry.alias import Alias
from services.trainer.registry.experiment import ExperimentRecord
from services.trainer.registry.history import History
from services.trainer.registry.versions import Versions


class ModelRegistry:
    """What is known of one model.

    Attributes:
        model: its name.
        folder: models/<model>.
        versions: immutable versions by number.
        alias: which version serves.
        history: who changed that, when and why.
        experiment: the challenger that meets real queries.

    """

    def __init__(self, models_dir: Path, model: str, keep_versions: int) -> None:
        self.model = model
        self.folder = models_dir / model
        self.history = History(self.folder, lambda version: list(self.versions.decision(version).rules))
        self.versions = Versions(self.folder, self.history.highest_version)
        self.alias = Alias(self.folder, self.history)
        self.experiment = ExperimentRecord(self.folder)
        self._keep_versions = keep_versions

    @property
    def embeddings_folder(self) -> Path:
        """Where embeddings of the dataset lie."""
        return self.folder / "embeddings"

    @property
    def snapshots_folder(self) -> Path:
        """Where dataset snapshots lie."""
        return self.folder / "snapshots"

    def record_refusal(self, version: int, by: str) -> None:
        """Record in the history that a version was refused, with the rules that it failed."""
        failed = self.versions.list_failed_rules(version)
        reason = "; ".join(f"{rule.rule}: {rule.detail}" for rule in failed)
        self.history.record_refusal(version, self.alias.read(), by, reason)

    def prune(self) -> list[int]:
        """Delete all but the newest versions, the champion, its predecessor and a challenger that meets real queries.

        Returns the versions that were deleted.

        Raises:
            StorageFailed: a version could not be deleted.

        """
        champion, experiment = self.alias.read(), self.experiment.running()
        kept = {champion.version, champion.previous} if champion else set()
        if experiment is not None:
            kept.add(experiment.challenger_version)
        return self.versions.delete_all_but(self._keep_versions, kept)

    def repair(self) -> None:
        """Mend what a kill left behind. Call it only while no run is going on. Raises StorageFailed."""
        self.versions.remove_unfinished()
        self.alias.repair()
