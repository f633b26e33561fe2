"""Deletes what people said: everything that one person said, or everything older than the retention time.

The feedback record is emptied. The query that it refers to is deleted from the query log, and the dataset snapshots
that contain its text are deleted. So no later run learns from it. A model that has already learned from it serves until
the next run replaces it.
"""

import json
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from moodfood.events.v1.events_pb2 import FeedbackRecord

from services.trainer.dataset.examples import FROM_PEOPLE
from services.trainer.feedback.query_history import AnsweredQuery, QueryHistory, parse_query, rotated_files
from services.trainer.feedback.store import FeedbackStore
from services.trainer.storage import locked, read_lines, replace_file, storage_errors

# Inference reopens the log within 0.1 seconds. Lines that it still writes to the old file are copied to the new one.
WRITERS_SECONDS = 0.5

_log = structlog.get_logger()


@dataclass(frozen=True)
class Erased:
    """Numbers of deleted feedback records, queries and snapshots."""

    feedback: int
    queries: int
    snapshots: int


class Erasure:
    """Deletes from feedback, query log and snapshots. It takes up to a second, so call it off the event loop."""

    def __init__(self, feedback: FeedbackStore, query_log: Path, snapshots: Path, history: QueryHistory) -> None:
        self._feedback = feedback
        self._query_log = query_log
        self._snapshots = snapshots
        self._history = history

    def forget_person(self, user_id: str) -> Erased:
        """Delete what a person said. Raises StorageFailed: call it again."""
        said = [record for record in self._feedback.records() if record.user_id == user_id]
        asked = {record.query_id for record in said if record.query_id}
        doomed_query = (lambda query: query.query_id in asked) if asked else None
        return self._forget(said, lambda record: record.user_id == user_id, doomed_query)

    def forget_older_than(self, days: int) -> Erased:
        """Delete what is older than so many days. Raises StorageFailed when only a part was deleted; call it again."""
        oldest = datetime.now(UTC) - timedelta(days=days)

        def is_old(record: FeedbackRecord) -> bool:
            return record.at.ToDatetime(UTC) < oldest

        said = [record for record in self._feedback.records() if is_old(record)]
        erased = self._forget(said, is_old, lambda query: 0 < query.at < oldest.timestamp())
        if any((erased.feedback, erased.queries, erased.snapshots)):
            _log.info("deleted what is older than it may be kept", days=days, feedback=erased.feedback)
        return erased

    def _forget(
        self,
        said: Collection[FeedbackRecord],
        doomed: Callable[[FeedbackRecord], bool],
        doomed_query: Callable[[AnsweredQuery], bool] | None,
    ) -> Erased:
        """Delete queries and snapshots first: a second call after a failure finds them only by the feedback."""
        with storage_errors("delete from the query log"):
            queries = self._delete_queries(doomed_query) if doomed_query else 0
        with storage_errors("delete snapshots"):
            snapshots = self._delete_snapshots({record.text for record in said})
        self._history.forget()
        return Erased(len(self._feedback.delete(doomed)), queries, snapshots)

    def _delete_queries(self, doomed: Callable[[AnsweredQuery], bool]) -> int:
        """Delete queries from the query log and from its rotated files. Returns how many."""
        if not self._query_log.parent.is_dir():
            return 0
        count = 0
        with locked(self._query_log.with_name(f"{self._query_log.name}.lock")):
            for path in (*rotated_files(self._query_log), self._query_log):
                if path.is_file():
                    count += _rewrite(path, doomed, still_written=path == self._query_log)
        return count

    def _delete_snapshots(self, texts: Collection[str]) -> int:
        doomed = [path for path in self._snapshots.glob("*.jsonl") if texts and _contains_text(path, texts)]
        for path in doomed:
            path.unlink(missing_ok=True)
        return len(doomed)


def _rewrite(path: Path, doomed: Callable[[AnsweredQuery], bool], *, still_written: bool) -> int:
    """Replace a log file by one without the doomed queries. Returns how many there were."""
    with path.open("rb") as file:
        lines = file.readlines()
        kept = [line for line in lines if (query := parse_query(line)) is None or not doomed(query)]
        if len(kept) == len(lines):
            return 0
        replace_file(path, b"".join(kept))
        if still_written:
            time.sleep(WRITERS_SECONDS)
            late = file.read()
            if late:
                with path.open("ab") as current:
                    current.write(late)
                    current.flush()
                    os.fsync(current.fileno())
    return len(lines) - len(kept)


def _contains_text(path: Path, texts: Collection[str]) -> bool:
    """Say whether a snapshot contains one of these texts as feedback from people."""
    for line in read_lines(path):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row.get("source") in FROM_PEOPLE and row.get("text") in texts:
            return True
    return False
