"""Training runs as files: data/runs/<run_id>.json, replaced atomically before each stage begins.

A lock beside them says that some trainer on the same folders has a run going on. A file <run_id>.cancel asks that
trainer to end the run.
"""

import contextlib
import threading
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.errors import TrainingRunNotFound
from services.trainer.storage import read_message, replace_file, to_json, try_lock

ID_FORMAT = "%Y%m%d-%H%M%S-%f"


class RunStore:
    """All runs, in memory and on disk, those of other trainers on the same folders included. Ids sort by time.

    Safe to read from any thread.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: dict[str, pb.TrainingRun] = {}
        self._seen: dict[str, int] = {}
        self._reading = threading.Lock()
        self._refresh()

    def _refresh(self) -> None:
        """Read what another trainer on the same folders has written since."""
        with self._reading:
            for path in self._folder.glob("[!.]*.json") if self._folder.is_dir() else ():
                self._read(path)

    def _read(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            changed_at = path.stat().st_mtime_ns
            if self._seen.get(path.name) != changed_at:
                self._seen[path.name] = changed_at
                run = read_message(path, pb.TrainingRun())
                if run is not None:
                    self._runs[run.run_id] = run

    def _path(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.json"

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
        path = self._path(run.run_id)
        replace_file(path, to_json(run).encode())
        self._seen[path.name] = path.stat().st_mtime_ns

    def keep(self, run: pb.TrainingRun) -> None:
        """Keep a copy in memory only."""
        copy = pb.TrainingRun()
        copy.CopyFrom(run)
        self._runs[run.run_id] = copy

    def get(self, run_id: str) -> pb.TrainingRun:
        """Return a run as it is now, whichever trainer has it. Raises TrainingRunNotFound."""
        if run_id not in self._runs or self._runs[run_id].state == pb.RUN_STATE_RUNNING:
            with self._reading:
                if run_id.replace("-", "").isalnum():
                    self._read(self._path(run_id))
        try:
            return self._runs[run_id]
        except KeyError:
            raise TrainingRunNotFound(run_id) from None

    def running(self) -> pb.TrainingRun | None:
        """Return the newest run that is going on, in whichever trainer; None if none is."""
        return next((run for run in self.newest_first() if run.state == pb.RUN_STATE_RUNNING), None)

    def of_request(self, request_id: str) -> pb.TrainingRun | None:
        """Return the newest run that a caller's request id began; None if none did."""
        return next((run for run in self.newest_first() if request_id and run.request_id == request_id), None)

    def try_lock(self) -> FileLock | None:
        """Take the right to run; None while another trainer, or this one, has a run going on. Raises StorageFailed."""
        return try_lock(self._folder / ".lock")

    def request_cancel(self, run_id: str) -> None:
        """Ask the trainer that has a run to end it. Raises StorageFailed."""
        replace_file(self._folder / f"{run_id}.cancel", b"")

    def is_cancel_requested(self, run_id: str) -> bool:
        """Say whether somebody has asked for the end of a run."""
        return (self._folder / f"{run_id}.cancel").exists()

    def clear_cancel(self, run_id: str) -> None:
        """Forget that somebody has asked for the end of a run, because it has ended."""
        with contextlib.suppress(OSError):
            (self._folder / f"{run_id}.cancel").unlink(missing_ok=True)

    def newest_first(self) -> list[pb.TrainingRun]:
        """Return every run."""
        self._refresh()
        return [run for _, run in sorted(self._runs.copy().items(), reverse=True, key=lambda item: item[0])]
