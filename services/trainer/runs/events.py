"""Tells operators about training runs: as events in the query log, and as lines in retrain.log.

A thread writes the lines, one after another, so a disk that is slow or hangs holds up nobody else.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import structlog
from moodfood.events.v1.events_pb2 import RetrainingDetails, RetrainingEvent
from moodfood.trainer.v1 import trainer_pb2 as pb

from services.trainer.errors import StorageFailed
from services.trainer.storage import append_lines, to_json

_STATUS = {
    pb.RUN_STATE_RUNNING: "started",
    pb.RUN_STATE_SUCCEEDED: "success",
    pb.RUN_STATE_REJECTED: "rejected",
    pb.RUN_STATE_FAILED: "failed",
    pb.RUN_STATE_CANCELLED: "failed",
}

_log = structlog.get_logger()


class EventLog:
    """Adds lines to both files. When a line cannot be written, this is logged and the run continues.

    Both methods return at once. What they return is done when the lines are on disk.
    """

    def __init__(self, query_log: Path, retrain_log: Path) -> None:
        self._query_log = query_log
        self._retrain_log = retrain_log
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="events")

    def run_changed(self, run: pb.TrainingRun) -> "Future[None]":
        """Write an event to the query log: the run has started or ended."""
        status = _STATUS[run.state]
        event = RetrainingEvent(
            event="retraining",
            trigger=name_trigger(run.trigger),
            status=status,
            training_run=run.run_id,
            model_version=run.version,
            reason="; ".join(run.reasons),
        )
        if run.HasField("finished_at"):
            event.details.CopyFrom(_describe(run))
        event.at.FromDatetime(datetime.now(UTC))
        self._append(self._query_log, to_json(event, indent=None))
        return self.note(run, f"{status}" + (f": {event.reason}" if event.reason else ""))

    def note(self, run: pb.TrainingRun, text: str) -> "Future[None]":
        """Write one line about a run to retrain.log."""
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return self._append(self._retrain_log, f"{moment} {run.run_id} {name_trigger(run.trigger)} {text}")

    def _append(self, path: Path, line: str) -> "Future[None]":
        return self._writer.submit(self._write, path, line)

    def _write(self, path: Path, line: str) -> None:
        try:
            append_lines(path, [line.replace("\n", " ")])
        except StorageFailed as error:
            _log.error("cannot write a log", problem=str(error))


def _describe(run: pb.TrainingRun) -> RetrainingDetails:
    seconds = (run.finished_at.ToMilliseconds() - run.started_at.ToMilliseconds()) / 1e3
    return RetrainingDetails(
        duration_seconds=max(0.0, seconds),
        accuracy=run.evaluation.accuracy,
        dataset_size=run.snapshot.train_examples,
        new_samples=run.new_samples,
    )


def name_trigger(trigger: "pb.Trigger.ValueType") -> str:
    """Return the name of a trigger in logs and in REST, such as "cron_triggered"."""
    return pb.Trigger.Name(trigger or pb.TRIGGER_API_TRIGGERED).removeprefix("TRIGGER_").lower()
