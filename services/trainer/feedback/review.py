"""Review items: which queries a person should look at, and why. Pure functions; `review_queue.py` stores the items.

A useful item is one that the model is unsure of and that differs from the items before it. So the items are chosen one
by one: the next item has the highest product of its score and its distance from the most similar chosen item (maximal
marginal relevance, Carbonell and Goldstein, SIGIR 1998).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from services.language.names import KEYWORD_STAGE
from services.language.text import normalise
from services.trainer.dataset.words import content_words, describe_problem, text_key
from services.trainer.feedback.answered_query import AnsweredQuery

# An answer is unsure below this confidence, or when the second label is closer than this margin of confidence.
UNSURE_CONFIDENCE = 0.5
UNSURE_MARGIN = 0.2
# A query is unfamiliar when at least this share of its content words is in no example that the champion learned.
UNFAMILIAR_WORDS = 0.5
# Every candidate is compared with every chosen item, so only this many candidates with the highest scores take part.
MOST_COMPARED = 1000


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

    @cached_property
    def item_id(self) -> str:
        """Identifies the item. Texts that are the same after normalisation have the same id."""
        return text_key(self.text)


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
    unknown = measure_unfamiliarity(query.text, known_words)
    if unknown >= UNFAMILIAR_WORDS:
        yield item(Reason.UNFAMILIAR, unknown)
    if query.stage == KEYWORD_STAGE:
        yield item(Reason.UNCERTAIN, 1.0)
    elif query.confidence < UNSURE_CONFIDENCE or query.confidence - query.second < UNSURE_MARGIN:
        yield item(Reason.UNCERTAIN, 1 - query.confidence + query.second / 2)


def measure_unfamiliarity(text: str, known_words: Collection[str]) -> float:
    """Return the share of a text's content words that are not known, in [0, 1]; 0 when no words are known at all."""
    words = content_words(normalise(text))
    return sum(word not in known_words for word in words) / max(1, len(words)) if known_words else 0.0


def keep_strongest(items: Iterable[ReviewItem]) -> list[ReviewItem]:
    """Return one item for each text: that with the strongest reason, and of several such that with the best score."""
    best: dict[str, ReviewItem] = {}
    for item in items:
        other = best.get(item.item_id)
        if other is None or (item.reason.value, item.score) > (other.reason.value, other.score):
            best[item.item_id] = item
    return list(best.values())


def choose(candidates: Iterable[ReviewItem], count: int) -> list[ReviewItem]:
    """Return the most useful items, best first. Of several items about one text, the strongest takes part."""
    ranked = sorted(keep_strongest(candidates), key=lambda item: (-item.score, item.text))[:MOST_COMPARED]
    return _diversify(ranked, count)


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
