"""Experiments: their rows, of which at most one is running, and the file in the repository that the replicas follow.

The row is the truth and is written first. The file is made from it; `publish` writes it again when the two differ.
"""

from moodfood.registry.v1 import manifest_pb2 as pb
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import IntegrityError

from services.language.names import EXPERIMENT_FILE
from services.repository.errors import Changed
from services.repository.repository import Repository, Stored
from services.trainer.database.database import Database
from services.trainer.database.tables import experiments
from services.trainer.errors import ExperimentInProgress, NoExperiment, StorageFailed
from services.trainer.storage import parse_message, repository_errors, to_json

# Of two trainers that publish at once, the one that was slower looks again.
PUBLISH_ATTEMPTS = 5


class ExperimentRecord:
    """Reads and writes the experiments of one model. Every method raises StorageFailed and blocks."""

    def __init__(self, repository: Repository, database: Database, model: str) -> None:
        self._repository = repository
        self._database = database
        self._model = model

    def read(self) -> pb.Experiment | None:
        """Return the running experiment or, if none is running, the last one; None when there was never one."""
        return self.running() or next(iter(self.list_newest(1)), None)

    def running(self) -> pb.Experiment | None:
        """Return the running experiment; None when none is running."""
        query = select(experiments.c.record).where(experiments.c.model == self._model, experiments.c.running)
        with self._database.read() as connection:
            record = connection.scalar(query)
        return None if record is None else parse_message(record, pb.Experiment())

    def list_newest(self, count: int) -> list[pb.Experiment]:
        """Return the newest experiments, running and ended, newest first."""
        query = select(experiments.c.record).where(experiments.c.model == self._model)
        with self._database.read() as connection:
            records = connection.scalars(query.order_by(experiments.c.started_at.desc()).limit(count)).all()
        found = (parse_message(record, pb.Experiment()) for record in records)
        return [experiment for experiment in found if experiment is not None]

    def begin(self, experiment: pb.Experiment) -> None:
        """Store an experiment that starts now, and publish it to the replicas.

        Raises:
            ExperimentInProgress: another experiment is running.
            StorageFailed: the experiment has not started.

        """
        try:
            with self._database.write() as connection:
                insert_experiment(connection, self._model, experiment)
        except IntegrityError as error:
            present = self.running()
            raise ExperimentInProgress(present.experiment_id if present else "another one") from error
        try:
            self.publish()
        except StorageFailed:
            with self._database.write() as connection:
                connection.execute(experiments.delete().where(experiments.c.experiment_id == experiment.experiment_id))
            raise

    def end(self, experiment: pb.Experiment) -> None:
        """Store that an experiment has ended. `publish` tells the replicas.

        Raises:
            NoExperiment: it is not running any more.
            StorageFailed: the experiment is still running.

        """
        with self._database.write() as connection:
            ended = connection.execute(
                update(experiments)
                .where(experiments.c.experiment_id == experiment.experiment_id, experiments.c.running)
                .values(running=False, record=to_json(experiment, indent=None))
            )
            if not ended.rowcount:
                raise NoExperiment

    def is_published(self) -> bool:
        """Say whether the file that the replicas follow agrees with the row."""
        _, published, wanted = self._compare()
        return wanted == published

    def publish(self) -> None:
        """Write the file that the replicas follow, if it differs from the row."""
        for _ in range(PUBLISH_ATTEMPTS):
            with repository_errors():
                stored, published, wanted = self._compare()
                if wanted is None or wanted == published:
                    return
                try:
                    self._repository.swap(EXPERIMENT_FILE, to_json(wanted).encode(), stored.tag if stored else None)
                except Changed:
                    continue
                return
        raise StorageFailed("other trainers keep changing the experiment; try again")

    def _compare(self) -> tuple[Stored | None, pb.Experiment | None, pb.Experiment | None]:
        """Return the file, the experiment in it, and the one that should be in it."""
        with repository_errors():
            # The file is read before the row. If the row changes after that, so does the file, and a swap fails.
            stored = self._repository.read(EXPERIMENT_FILE)
        published = parse_message(stored.content, pb.Experiment()) if stored else None
        return stored, published, self.read() or _ended(published)


def insert_experiment(connection: Connection, model: str, experiment: pb.Experiment) -> None:
    """Insert an experiment of a model."""
    connection.execute(
        experiments.insert().values(
            experiment_id=experiment.experiment_id,
            model=model,
            running=experiment.running,
            started_at=experiment.started_at.ToMicroseconds(),
            record=to_json(experiment, indent=None),
        )
    )


def _ended(published: pb.Experiment | None) -> pb.Experiment | None:
    """Return the experiment of a file without a row, as ended: the database was restored from an older backup."""
    if published is None or not published.running:
        return published
    ended = pb.Experiment()
    ended.CopyFrom(published)
    ended.running, ended.reason = False, "the database does not have it"
    return ended
