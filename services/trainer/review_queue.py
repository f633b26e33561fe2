"""The queue of queries that a person should look at: gathers them from logs and runs, remembers what was decided."""

from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf import json_format
from moodfood.events.v1.events_pb2 import ReviewResolution

from services.trainer.durable import append_lines, read_lines
from services.trainer.errors import ReviewItemNotFound
from services.trainer.feedback import FeedbackStore
from services.trainer.query_history import QueryHistory
from services.trainer.records import to_json
from services.trainer.review import Reason, ReviewItem, chosen, item_id, items_of
from services.trainer.suspects import NOISE, read_suspects

RESOLVED_FILE = "resolved.jsonl"
SUSPECTS_FILE = "suspects.jsonl"


class ReviewQueue:
    """Reads files on every call; call it off the event loop, one call at a time."""

    def __init__(
        self,
        folder: Path,
        history: QueryHistory,
        feedback: FeedbackStore,
        known_words: Callable[[], Collection[str]],
    ) -> None:
        self._folder = folder
        self._history = history
        self._feedback = feedback
        self._known_words = known_words

    def items(self, reasons: Collection[Reason], count: int) -> tuple[list[ReviewItem], int]:
        """Return the most useful items, best first, and how many wait in all."""
        return chosen(self._candidates(), self._decided(), reasons or set(Reason), count)

    def item(self, wanted: str) -> ReviewItem:
        """Return one item. Raises ReviewItemNotFound: it was decided, or never was one."""
        decided = self._decided()
        for item in self._candidates():
            if item.item_id == wanted and wanted not in decided:
                return item
        raise ReviewItemNotFound(wanted)

    def close(self, decided: str) -> None:
        """Never show an item again. Raises StorageFailed."""
        resolution = ReviewResolution(item_id=decided)
        resolution.at.FromDatetime(datetime.now(UTC))
        append_lines(self._folder / RESOLVED_FILE, [to_json(resolution, indent=None)])

    def _candidates(self) -> Iterator[ReviewItem]:
        for record in read_suspects(self._folder / SUSPECTS_FILE):
            noise = record.reason == NOISE
            yield ReviewItem(
                record.text,
                Reason.SUSPECTED_NOISE if noise else Reason.DISAGREEING,
                record.confidence if noise else 1.0,
                record.believed,
                record.confidence,
                tuple(record.labels),
            )
        known = self._known_words()
        for query in self._history.recent():
            yield from items_of(query, known)

    def _decided(self) -> set[str]:
        """Return the items that were resolved, and the queries that people gave labels to already."""
        resolved = set()
        for line in read_lines(self._folder / RESOLVED_FILE):
            try:
                resolved.add(json_format.Parse(line, ReviewResolution(), ignore_unknown_fields=True).item_id)
            except json_format.ParseError:
                continue
        suspects = {item_id(record.text) for record in read_suspects(self._folder / SUSPECTS_FILE)}
        labelled = {item_id(record.text) for record in self._feedback.records() if not record.deleted}
        return resolved | (labelled - suspects)
