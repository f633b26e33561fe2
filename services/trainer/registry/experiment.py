"""The experiment that goes on, or the last one: a file that the replicas follow, and a line for each that has ended."""

from pathlib import Path

from moodfood.registry.v1 import manifest_pb2 as pb

from services.language.names import EXPERIMENT_FILE
from services.trainer.errors import ExperimentInProgress
from services.trainer.storage import append_lines, locked, read_message, replace_file, to_json


class ExperimentRecord:
    """The files models/<model>/experiment and models/<model>/experiments.jsonl."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / EXPERIMENT_FILE

    def read(self) -> pb.Experiment | None:
        """Return the experiment, running or ended; None if there is none or it cannot be read."""
        return read_message(self._path, pb.Experiment())

    def running(self) -> pb.Experiment | None:
        """Return the experiment that goes on; None if none does."""
        experiment = self.read()
        return experiment if experiment is not None and experiment.running else None

    def begin(self, experiment: pb.Experiment) -> None:
        """Write an experiment for the replicas to follow.

        Raises:
            ExperimentInProgress: another was begun meanwhile.
            StorageFailed: it has not begun.

        """
        with locked(self._folder / ".lock"):
            present = self.running()
            if present is not None:
                raise ExperimentInProgress(present.experiment_id)
            replace_file(self._path, to_json(experiment).encode())

    def end(self, experiment: pb.Experiment) -> None:
        """Write how an experiment ended. Raises StorageFailed: it goes on."""
        with locked(self._folder / ".lock"):
            replace_file(self._path, to_json(experiment).encode())
            append_lines(self._folder / "experiments.jsonl", [to_json(experiment, indent=None)])
