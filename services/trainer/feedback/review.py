"""Chooses the queries that a person should look at. Pure functions over what was answered and what is suspected.

The most useful query is one that the model is unsure of and that says something the ones before it do not: items are
taken one by one, each time the one with the highest score times its distance from the most similar one taken before
(maximal marginal relevance, Carbonell and Goldstein, SIGIR 1998).
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from services.language.text import normalise
from services.trainer.dataset.words import content_words, describe_problem
from services.trainer.feedback.answered_query import AnsweredQuery

# Below this confidence, or nearer than this to the second label, an answer was not sure.
UNSURE_CONFIDENCE = 0.5
UNSURE_MARGIN = 0.2
UNKNOWN_WORDS = 0.5
KEYWORD_STAGE = "keyword"
# Diversity compares every item with those taken; more candidates than this are cut to the best first.
MOST_COMPARED = 2000


class Reason(Enum):
    """Why a person should look at a query; the number orders reasons when a query has several."""

    SUSPECTED_NOISE = 4
    DISAGREEING = 3
    DRIFTING = 2
    UNCERTAIN = 1


@dataclass(frozen=True)
class ReviewItem:
    """A query, why it is here, how much its label would teach, and what the model believes."""

    text: str
    reason: Reason
    score: float
    believed: str = ""
    confidence: float = 0.0
    labels: tuple[str, ...] = ()
    query_id: str = ""

    @property
    def item_id(self) -> str:
        """The same for every text that is learned as the same."""
        return item_id(self.text)


def item_id(text: str) -> str:
    """Return the id of a text's review item."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()[:16]


def items_of(query: AnsweredQuery, known_words: Collection[str]) -> Iterable[ReviewItem]:
    """Yield the reasons to look at an answered query; no known words means that none can be told from the others."""
    if describe_problem(query.text):
        return

    def item(reason: Reason, score: float) -> ReviewItem:
        return ReviewItem(query.text, reason, score, query.label, query.confidence, (), query.query_id)

    shadow = query.shadow
    if shadow is not None and not shadow.error and shadow.label != query.label:
        yield item(Reason.DISAGREEING, 0.5 + 0.5 * min(query.confidence, shadow.confidence))
    words = content_words(normalise(query.text))
    unknown = sum(word not in known_words for word in words) / max(1, len(words)) if known_words else 0.0
    if unknown >= UNKNOWN_WORDS:
        yield item(Reason.DRIFTING, unknown)
    if query.stage == KEYWORD_STAGE:
        yield item(Reason.UNCERTAIN, 1.0)
    elif query.confidence < UNSURE_CONFIDENCE or query.confidence - query.second < UNSURE_MARGIN:
        yield item(Reason.UNCERTAIN, 1 - query.confidence + query.second / 2)


def chosen(
    candidates: Iterable[ReviewItem], decided: Collection[str], reasons: Collection[Reason], count: int
) -> tuple[list[ReviewItem], int]:
    """Return the most useful items, best first, and how many wait in all.

    Args:
        candidates: several may be about one query; the one with the strongest reason stays.
        decided: ids of items that are not to be shown.
        reasons: only these.
        count: at most so many.

    """
    best: dict[str, ReviewItem] = {}
    for item in candidates:
        if item.reason not in reasons or item.item_id in decided:
            continue
        other = best.get(item.item_id)
        if other is None or (item.reason.value, item.score) > (other.reason.value, other.score):
            best[item.item_id] = item
    ranked = sorted(best.values(), key=lambda item: (-item.score, item.text))[:MOST_COMPARED]
    return _diverse(ranked, count), len(best)


def _diverse(ranked: Sequence[ReviewItem], count: int) -> list[ReviewItem]:
    words = [frozenset(normalise(item.text).split()) for item in ranked]
    nearest = [0.0] * len(ranked)
    left = set(range(len(ranked)))
    taken: list[ReviewItem] = []
    while left and len(taken) < count:
        index = max(left, key=lambda each: (ranked[each].score * (1 - nearest[each]), -each))
        left.remove(index)
        taken.append(ranked[index])
        for each in left:
            shared = len(words[index] & words[each])
            nearest[each] = max(nearest[each], shared / len(words[index] | words[each]))
    return taken
