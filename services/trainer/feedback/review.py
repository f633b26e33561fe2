"""The review queue: which queries a person should look at, and which of them were decided.

The candidates are queries from the query log and examples whose labels a training run doubts. A useful item is one that
the model is unsure of and that differs from the items before it. So the items are chosen one by one: the next item has
the highest product of its score and its distance from the most similar chosen item (maximal marginal relevance,
Carbonell and Goldstein, SIGIR 1998).
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from moodfood.events.v1.events_pb2 import ReviewResolution, SuspectRecord

from services.language.names import KEYWORD_STAGE
from services.language.text import normalise
from services.trainer.dataset.words import content_words, describe_problem
from services.trainer.errors import ReviewItemNotFound
from services.trainer.feedback.query_history import AnsweredQuery, QueryHistory
from services.trainer.feedback.store import FeedbackStore
from services.trainer.storage import append_lines, read_messages, replace_file, to_json

# An answer is unsure below this confidence, or when the second label is closer than this margin of confidence.
UNSURE_CONFIDENCE = 0.5
UNSURE_MARGIN = 0.2
# A query is unfamiliar when at least this share of its content words is in no example that the champion learned.
UNFAMILIAR_WORDS = 0.5
# Every candidate is compared with every chosen item, so only this many candidates with the highest scores take part.
MOST_COMPARED = 2000
RESOLVED_FILE = "resolved.jsonl"
SUSPECTS_FILE = "suspects.jsonl"
# Reasons of a SuspectRecord.
SUSPECTED_NOISE, CONTRADICTORY = "suspected_noise", "contradictory"


class Reason(Enum):
    """Why a person should look at a query. When a query has several reasons, the highest number counts."""

    SUSPECTED_NOISE = 4
    DISAGREEING = 3
    UNFAMILIAR = 2
    UNCERTAIN = 1


@dataclass(frozen=True)
class ReviewItem:
    """A query or example that a person should look at.

    Attributes:
        text: the text.
        reason: why a person should look at it.
        score: how useful its labels would be, in [0, 1].
        believed: the label that the model predicts; empty when there is none.
        confidence: the confidence of that label, in [0, 1].
        labels: the labels that an example has now; empty for a query.
        query_id: the answer that it is about; empty for an example.

    """

    text: str
    reason: Reason
    score: float
    believed: str = ""
    confidence: float = 0.0
    labels: tuple[str, ...] = ()
    query_id: str = ""

    @property
    def item_id(self) -> str:
        """Identifies the item. Texts that are the same after normalisation have the same id."""
        return item_id(self.text)


def item_id(text: str) -> str:
    """Return the id of a text's review item."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()[:16]


def find_reasons(query: AnsweredQuery, known_words: Collection[str]) -> Iterable[ReviewItem]:
    """Yield one item for each reason to look at a query.

    `known_words` are the content words that the champion learned. When it is empty, no query is unfamiliar.
    """
    if describe_problem(query.text):
        return

    def item(reason: Reason, score: float) -> ReviewItem:
        return ReviewItem(query.text, reason, score, query.label, query.confidence, (), query.query_id)

    shadow = query.shadow
    if shadow is not None and not shadow.error and shadow.label != query.label:
        yield item(Reason.DISAGREEING, 0.5 + 0.5 * min(query.confidence, shadow.confidence))
    words = content_words(normalise(query.text))
    unknown = sum(word not in known_words for word in words) / max(1, len(words)) if known_words else 0.0
    if unknown >= UNFAMILIAR_WORDS:
        yield item(Reason.UNFAMILIAR, unknown)
    if query.stage == KEYWORD_STAGE:
        yield item(Reason.UNCERTAIN, 1.0)
    elif query.confidence < UNSURE_CONFIDENCE or query.confidence - query.second < UNSURE_MARGIN:
        yield item(Reason.UNCERTAIN, 1 - query.confidence + query.second / 2)


def choose(
    candidates: Iterable[ReviewItem], decided: Collection[str], reasons: Collection[Reason], count: int
) -> tuple[list[ReviewItem], int]:
    """Return the most useful items, best first, and the number of all items that wait.

    Args:
        candidates: all items; of several items about one text, the one with the strongest reason counts.
        decided: ids of the items that must not be shown.
        reasons: only items with these reasons are returned.
        count: the largest number of items to return.

    """
    best: dict[str, ReviewItem] = {}
    for item in candidates:
        if item.reason not in reasons or item.item_id in decided:
            continue
        other = best.get(item.item_id)
        if other is None or (item.reason.value, item.score) > (other.reason.value, other.score):
            best[item.item_id] = item
    ranked = sorted(best.values(), key=lambda item: (-item.score, item.text))[:MOST_COMPARED]
    return _diversify(ranked, count), len(best)


def _diversify(ranked: Sequence[ReviewItem], count: int) -> list[ReviewItem]:
    words = [frozenset(normalise(item.text).split()) for item in ranked]
    nearest = [0.0] * len(ranked)
    left = set(range(len(ranked)))
    taken: list[ReviewItem] = []
    while left and len(taken) < count:
        index = max(left, key=lambda row: (ranked[row].score * (1 - nearest[row]), -row))
        left.remove(index)
        taken.append(ranked[index])
        for other in left:
            shared = len(words[index] & words[other])
            nearest[other] = max(nearest[other], shared / len(words[index] | words[other]))
    return taken


def write_suspects(path: Path, suspects: Iterable[SuspectRecord]) -> None:
    """Replace the suspects of the previous run. Raises StorageFailed; then the previous file is still there."""
    replace_file(path, "".join(f"{to_json(suspect, indent=None)}\n" for suspect in suspects).encode())


class ReviewQueue:
    """Lists and decides review items. Every call reads files: call it off the event loop, one call at a time."""

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
        """Return at most `count` items, best first, and the number of all items that wait.

        With reasons, only items with one of these reasons count.
        """
        suspects = self._suspects()
        return choose(self._list_candidates(suspects), self._list_decided(suspects), reasons or set(Reason), count)

    def item(self, wanted: str) -> ReviewItem:
        """Return one item by its id. Raises ReviewItemNotFound when there is none, or when it was already decided."""
        suspects = self._suspects()
        if wanted not in self._list_decided(suspects):
            for item in self._list_candidates(suspects):
                if item.item_id == wanted:
                    return item
        raise ReviewItemNotFound(wanted)

    def close(self, decided: str) -> None:
        """Record that an item was decided, so that it is not shown again. Raises StorageFailed."""
        resolution = ReviewResolution(item_id=decided)
        resolution.at.FromDatetime(datetime.now(UTC))
        append_lines(self._folder / RESOLVED_FILE, [to_json(resolution, indent=None)])

    def _suspects(self) -> list[SuspectRecord]:
        return list(read_messages(self._folder / SUSPECTS_FILE, SuspectRecord))

    def _list_candidates(self, suspects: Sequence[SuspectRecord]) -> Iterator[ReviewItem]:
        for record in suspects:
            noise = record.reason == SUSPECTED_NOISE
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
            yield from find_reasons(query, known)

    def _list_decided(self, suspects: Sequence[SuspectRecord]) -> set[str]:
        """Return the ids of the items that were decided, and of the queries that people have already labelled."""
        resolved = {decision.item_id for decision in read_messages(self._folder / RESOLVED_FILE, ReviewResolution)}
        suspected = {item_id(record.text) for record in suspects}
        labelled = {item_id(record.text) for record in self._feedback.records()}
        return resolved | (labelled - suspected)
