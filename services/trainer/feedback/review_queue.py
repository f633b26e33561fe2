"""The queue of queries that a person should look at: gathers them from logs and runs, remembers what was decided."""

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from moodfood.events.v1.events_pb2 import ReviewResolution, SuspectRecord

from services.trainer.errors import ReviewItemNotFound
from services.trainer.feedback.query_log import QueryHistory
from services.trainer.feedback.review import Reason, ReviewItem, chosen, item_id, items_of
from services.trainer.feedback.store import FeedbackStore
from services.trainer.feedback.suspects import NOISE, read_suspects
from services.trainer.storage import append_lines, read_messages, to_json

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
        suspects = list(read_suspects(self._folder / SUSPECTS_FILE))
        return chosen(self._candidates(suspects), self._decided(suspects), reasons or set(Reason), count)

    def item(self, wanted: str) -> ReviewItem:
        """Return one item. Raises ReviewItemNotFound: it was decided, or never was one."""
        suspects = list(read_suspects(self._folder / SUSPECTS_FILE))
        if wanted not in self._decided(suspects):
            for item in self._candidates(suspects):
                if item.item_id == wanted:
                    return item
        raise ReviewItemNotFound(wanted)

    def close(self, decided: str) -> None:
        """Never show an item again. Raises StorageFailed."""
        resolution = ReviewResolution(item_id=decided)
        resolution.at.FromDatetime(datetime.now(UTC))
        append_lines(self._folder / RESOLVED_FILE, [to_json(resolution, indent=None)])

    def _candidates(self, suspects: Sequence[SuspectRecord]) -> Iterator[ReviewItem]:
        for record in suspects:
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

    def _decided(self, suspects: Sequence[SuspectRecord]) -> set[str]:
        """Return the items that were resolved, and the queries that people gave labels to already."""
        resolved = {each.item_id for each in read_messages(self._folder / RESOLVED_FILE, ReviewResolution)}
        suspected = {item_id(record.text) for record in suspects}
        labelled = {item_id(record.text) for record in self._feedback.records() if not record.deleted}
        return resolved | (labelled - suspected)
