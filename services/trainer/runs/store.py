"""Training runs as files: data/runs/<run_id>.json, replaced atomically before each stage begins."""

import contextlib
import threading
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.errors import TrainingRunNotFound
from services.trainer.storage import read_message, replace_file, to_json

ID_FORMAT = "%Y%m%d-%H%M%S-%f"


class RunStore:
    """All runs, in memory and on disk, those of other trainers on the store included. Ids sort by time.

    Safe to read from any thread.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: dict[str, pb.TrainingRun] = {}
        self._seen: dict[str, int] = {}
        self._reading = threading.Lock()
        self._refresh()

    def _refresh(self) -> None:
        """Read what another trainer on the store has written since."""
        with self._reading:
            for path in self._folder.glob("[!.]*.json") if self._folder.is_dir() else ():
                with contextlib.suppress(OSError):
                    changed_at = path.stat().st_mtime_ns
                    if self._seen.get(path.name) != changed_at:
                        self._seen[path.name] = changed_at
                        run = read_message(path, pb.TrainingRun())
                        if run is not None:
                            self._runs[run.run_id] = run

    def new_id(self) -> str:
        """Return an id that sorts after every other, also when the clock was set back."""
        moment = f"{datetime.now(UTC):{ID_FORMAT}}"
        newest = max((run_id[: len(moment)] for run_id in self._runs), default="")
        if moment <= newest:
            with contextlib.suppress(ValueError):
                after = datetime.strptime(newest, ID_FORMAT).replace(tzinfo=UTC) + timedelta(microseconds=1)
                moment = f"{after:{ID_FORMAT}}"
        return f"{moment}-{uuid.uuid4().hex[:4]}"

    def save(self, run: pb.TrainingRun) -> None:
        """Keep a copy of the run and write it. Raises StorageFailed; the copy is kept all the same."""
        self.keep(run)
        path = self._folder / f"{run.run_id}.json"
        replace_file(path, to_json(run).encode())
        self._seen[path.name] = path.stat().st_mtime_ns

    def keep(self, run: pb.TrainingRun) -> None:
        """Keep a copy in memory only."""
        copy = pb.TrainingRun()
        copy.CopyFrom(run)
        self._runs[run.run_id] = copy

    def get(self, run_id: str) -> pb.TrainingRun:
        """Return a run. Raises TrainingRunNotFound."""
        if run_id not in self._runs or self._runs[run_id].state == pb.RUN_STATE_RUNNING:
            self._refresh()
        try:
            return self._runs[run_id]
        except KeyError:
            raise TrainingRunNotFound(run_id) from None

    def newest_first(self) -> list[pb.TrainingRun]:
        """Return every run."""
        self._refresh()
        return [run for _, run in sorted(self._runs.copy().items(), reverse=True, key=lambda item: item[0])]
