"""Follows the champion's traffic: the first queries after a promotion are what the later ones are compared with.

The first ones are kept in a file for each version once they are complete, because the query log is rotated.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from moodfood.events.v1.events_pb2 import TrafficRecord

from services.trainer.errors import StorageFailed
from services.trainer.feedback.answered_query import AnsweredQuery
from services.trainer.feedback.query_log import QueryHistory
from services.trainer.registry.registry import ModelRegistry
from services.trainer.schedule.drift import Drift, Traffic, measure, traffic_of
from services.trainer.storage import read_message, replace_file, to_json

REFERENCE_QUERIES = 1000
RECENT_QUERIES = 1000


class DriftMonitor:
    """Reads the query log on every call; call it off the event loop."""

    def __init__(self, folder: Path, registry: ModelRegistry, history: QueryHistory) -> None:
        self._folder = folder
        self._registry = registry
        self._history = history

    def now(self) -> Drift:
        """Return how far the newest queries that the champion answered are from the first."""
        alias = self._registry.champion()
        if alias is None:
            return measure(traffic_of(()), traffic_of(()))
        since = alias.promoted_at.ToMilliseconds() / 1e3
        answered = [each for each in self._history.recent() if each.version == alias.version and each.at >= since]
        path = self._folder / f"{self._registry.model}-{alias.version}-{alias.generation}.json"
        record = read_message(path, TrafficRecord())
        if record is None and len(answered) < REFERENCE_QUERIES:
            return measure(traffic_of(answered), traffic_of(()))
        if record is None:
            record = _record(answered[:REFERENCE_QUERIES])
            # A disk that refuses costs the reference only when the log is rotated before the next call.
            with contextlib.suppress(StorageFailed):
                replace_file(path, to_json(record).encode())
        reference = Traffic(dict(record.labels), tuple(record.confidences), record.unknown, record.escalated)
        until = record.until.ToNanoseconds() / 1e9
        return measure(reference, traffic_of([each for each in answered if each.at > until][-RECENT_QUERIES:]))


def _record(answered: Sequence[AnsweredQuery]) -> TrafficRecord:
    traffic = traffic_of(answered)
    record = TrafficRecord(
        labels=traffic.labels,
        confidences=traffic.confidences,
        unknown=traffic.unknown,
        escalated=traffic.escalated,
    )
    record.until.FromNanoseconds(round(answered[-1].at * 1e9))
    return record
