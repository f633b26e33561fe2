"""The registry of a model: what repository and database hold of its versions, its champion and its experiments."""

from pathlib import Path

import structlog
from moodfood.registry.v1 import manifest_pb2 as pb

from services.repository.opening import open_repository
from services.trainer.database.database import Database, raise_counters
from services.trainer.database.tables import FEEDBACK
from services.trainer.dataset.snapshot_retention import prune_snapshots
from services.trainer.registry.alias import Alias
from services.trainer.registry.experiment import ExperimentRecord
from services.trainer.registry.history import History
from services.trainer.registry.version_records import VersionRecords
from services.trainer.registry.versions import Versions
from services.trainer.storage import parse_message

# A model has far fewer.
MOST_VERSIONS = 10_000

_log = structlog.get_logger()


class ModelRegistry:
    """The registry of one model. Its methods and those of its parts block: call them off the event loop.

    Args:
        models_dir: the folder of all models; with a URL, that of their local copies.
        model: name of the model.
        keep_versions: how many of the newest versions are kept.
        database: the trainer's database.
        models_url: address of the repository; empty for the folder.

    Attributes:
        model: name of the model.
        folder: the folder models/<model> on this machine.
        repository: the versions, the snapshots, and the small files that replicas follow.
        records: the rows of the versions.
        versions: the immutable versions.
        alias: which version is the champion.
        history: who changed the champion, when and why.
        experiment: the experiments.

    """

    def __init__(
        self, models_dir: Path, model: str, keep_versions: int, database: Database, models_url: str = ""
    ) -> None:
        self.model = model
        self.folder = models_dir / model
        self.repository = open_repository(models_url, models_dir, model)
        self.history = History(database, model, lambda version: list(self.versions.decision(version).rules))
        self.records = VersionRecords(database, model)
        self.versions = Versions(self.repository, self.records, self._highest_used)
        self.alias = Alias(self.repository, database, model, self.history)
        self.experiment = ExperimentRecord(self.repository, database, model)
        self._database = database
        self._keep_versions = keep_versions

    @property
    def embeddings_folder(self) -> Path:
        """The folder with the stored embeddings of examples, on this machine also when the models are in a bucket."""
        return self.folder / "embeddings"

    def record_refusal(self, version: int, by: str) -> None:
        """Record in the history that a version was refused, with the rules that it failed."""
        failed = self.versions.list_failed_rules(version)
        reason = "; ".join(f"{rule.rule}: {rule.detail}" for rule in failed)
        self.history.record_refusal(version, self.alias.read(), by, reason)

    def prune(self) -> list[int]:
        """Delete old versions and their snapshots, and return the numbers of the versions. Their rows stay.

        The newest `keep_versions` stay, and so do the champion, the former champion and the challenger of a running
        experiment.

        Raises:
            StorageFailed: a version could not be deleted.

        """
        champion, last, experiment = self.alias.read(), self.history.last_change(), self.experiment.running()
        kept = {champion.version, champion.previous} if champion else set()
        if last is not None:  # it knows the champion also when an object store shows an older alias
            kept |= {last.to_version, last.from_version}
        if experiment is not None:
            kept.add(experiment.challenger_version)
        deleted = self.versions.delete_all_but(self._keep_versions, kept)
        prune_snapshots(self.repository, set(self.records.list_there().values()))
        return deleted

    def delete_snapshots_of_dead_runs(self) -> None:
        """Delete the snapshots that belong to no version. Call it only while no run is in progress.

        A run looks before it registers whether something that it learned was erased meanwhile. A run that died before
        has not looked, and its snapshot may hold it.

        Raises:
            StorageFailed: a snapshot could not be deleted.

        """
        prune_snapshots(self.repository, set(self.records.list_there().values()), keep_newest=0)

    def learned_position(self) -> int:
        """Return the highest position of feedback that a version has learned.

        A database that was restored from an older backup gave fewer positions away. New feedback must come after
        this one, or it would count as learned.
        """
        manifests = (record.manifest_json for record in self.versions.list_newest(MOST_VERSIONS))
        read = (parse_message(content, pb.Manifest()) for content in manifests)
        return max((manifest.snapshot.feedback_records for manifest in read if manifest is not None), default=0)

    def _highest_used(self) -> int:
        alias = self.alias.read()
        return max(self.history.highest_version(), alias.version if alias else 0, alias.previous if alias else 0)

    def repair(self) -> None:
        """Repair what a killed process left behind, or what a database from an older backup does not know.

        Call it only while no run is in progress. Raises StorageFailed.
        """
        if self.versions.numbers() and not self.records.list_there():
            _log.error(
                "the database is empty, although there are versions",
                do="if people's words are missing: stop the trainer, see that MOODFOOD_DATA_DIR and "
                "MOODFOOD_DATABASE_URL are right, or restore a backup",
            )
        self.versions.repair()
        with self._database.write() as connection:
            raise_counters(connection, {FEEDBACK: self.learned_position()})
        self.alias.repair()
        self.experiment.publish()
