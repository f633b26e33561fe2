"""The model registry: the folder models/<model> with versions, champion alias, history and experiment."""

from pathlib import Path

from services.trainer.registry.alias import Alias
from services.trainer.registry.experiment import ExperimentRecord
from services.trainer.registry.history import History
from services.trainer.registry.versions import Versions


class ModelRegistry:
    """The registry of one model.

    Attributes:
        model: name of the model.
        folder: the folder models/<model>.
        versions: the immutable versions.
        alias: which version is the champion.
        history: who changed the champion, when and why.
        experiment: the running or last experiment.

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
        """The folder with the stored embeddings of examples."""
        return self.folder / "embeddings"

    @property
    def snapshots_folder(self) -> Path:
        """The folder with the dataset snapshots."""
        return self.folder / "snapshots"

    def record_refusal(self, version: int, by: str) -> None:
        """Record in the history that a version was refused, with the rules that it failed."""
        failed = self.versions.list_failed_rules(version)
        reason = "; ".join(f"{rule.rule}: {rule.detail}" for rule in failed)
        self.history.record_refusal(version, self.alias.read(), by, reason)

    def prune(self) -> list[int]:
        """Delete old versions and return their numbers.

        The newest `keep_versions` stay, and so do the champion, the former champion and the challenger of a running
        experiment.

        Raises:
            StorageFailed: a version could not be deleted.

        """
        champion, experiment = self.alias.read(), self.experiment.running()
        kept = {champion.version, champion.previous} if champion else set()
        if experiment is not None:
            kept.add(experiment.challenger_version)
        return self.versions.delete_all_but(self._keep_versions, kept)

    def repair(self) -> None:
        """Repair what a killed process left behind. Call it only while no run is in progress. Raises StorageFailed."""
        self.versions.remove_unfinished()
        self.alias.repair()
