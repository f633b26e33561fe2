"""The file with the running or last experiment, which the replicas follow, and the log of ended experiments."""

from pathlib import Path

from moodfood.registry.v1 import manifest_pb2 as pb

from services.language.names import EXPERIMENT_FILE
from services.trainer.errors import ExperimentInProgress
from services.trainer.storage import append_lines, locked, read_message, replace_file, to_json


class ExperimentRecord:
    """Reads and writes the files models/<model>/experiment and models/<model>/experiments.jsonl."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / EXPERIMENT_FILE

    def read(self) -> pb.Experiment | None:
        """Return the running or last experiment; None when there is none or the file cannot be read."""
        return read_message(self._path, pb.Experiment())

    def running(self) -> pb.Experiment | None:
        """Return the running experiment; None when none is running."""
        experiment = self.read()
        return experiment if experiment is not None and experiment.running else None

    def begin(self, experiment: pb.Experiment) -> None:
        """Write an experiment that starts now, so that the replicas follow it.

        Raises:
            ExperimentInProgress: another experiment is running.
            StorageFailed: the file could not be written; the experiment has not started.

        """
        with locked(self._folder / ".lock"):
            present = self.running()
            if present is not None:
                raise ExperimentInProgress(present.experiment_id)
            replace_file(self._path, to_json(experiment).encode())

    def end(self, experiment: pb.Experiment) -> None:
        """Write an experiment that has ended. Raises StorageFailed; then the experiment is still running."""
        with locked(self._folder / ".lock"):
            replace_file(self._path, to_json(experiment).encode())
            append_lines(self._folder / "experiments.jsonl", [to_json(experiment, indent=None)])
