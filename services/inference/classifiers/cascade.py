"""Answers queries by asking the stages of a cascade one after the other.

A stage passes when its classifier abstains, or when the best label is below a threshold of the stage. Then the next
stage is asked. A query that no stage has answered yet is open. When every stage has passed, the answer is `unknown`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from services.inference.classifiers.ranking import Intent, Ranking
from services.language.names import KEYWORD_STAGE, LINEAR_STAGE, TRANSFORMER_STAGE, UNKNOWN_LABEL

NOT_ASKED = Ranking(())


class StageKind(Enum):
    """The kinds of stages. The value is the name in the query log."""

    LINEAR = LINEAR_STAGE
    TRANSFORMER = TRANSFORMER_STAGE
    KEYWORD = KEYWORD_STAGE


class Classifier(Protocol):
    """Ranks the labels for queries."""

    def rank(self, queries: Sequence[str], top_k: int, earlier: Sequence[Ranking]) -> list[Ranking]:
        """Return one ranking of at most top_k labels for each query, in order.

        `earlier` has the rankings of the same queries by the stage before. For the first stage they are empty.
        """


@dataclass(frozen=True)
class Stage:
    """A classifier, and the thresholds below which its stage passes.

    Attributes:
        kind: which stage it is.
        classifier: ranks the labels.
        min_confidence: smallest confidence of the best label, in [0, 1].
        min_margin: smallest margin, which is the log-odds of the best label against the second; see Ranking.margin.
        min_score: smallest calibrated score of the best label; see Ranking.score.
        takes_milliseconds: whether it is so slow that it must be asked off the event loop.

    """

    kind: StageKind
    classifier: Classifier
    min_confidence: float = 0.0
    min_margin: float = 0.0
    min_score: float = -math.inf
    takes_milliseconds: bool = False


@dataclass(frozen=True)
class PassedStage:
    """A stage that was asked and did not answer, and the reason in words for an operator."""

    kind: StageKind
    reason: str


@dataclass(frozen=True)
class Answer:
    """The answer to one query: the labels, best first, the stage that answered, and the stages that passed before."""

    intents: tuple[Intent, ...]
    kind: StageKind
    passed: tuple[PassedStage, ...] = ()


@dataclass(frozen=True)
class OpenQuery:
    """A query that no stage has answered yet, the stages that passed, and the ranking of the last one."""

    text: str
    passed: tuple[PassedStage, ...] = ()
    ranking: Ranking = NOT_ASKED


def answer(texts: Sequence[str], stages: Sequence[Stage], top_k: int) -> list[Answer]:
    """Return one answer of at most top_k labels for each query, in order."""
    return answer_unknown(ask_stages([OpenQuery(text) for text in texts], stages, top_k))


def ask_stages(queries: Sequence[Answer | OpenQuery], stages: Sequence[Stage], top_k: int) -> list[Answer | OpenQuery]:
    """Ask the stages one after the other about the open queries. Returns one entry for each query, in order."""
    asked = list(queries)
    for stage in stages:
        open_queries = [query for query in asked if isinstance(query, OpenQuery)]
        if not open_queries:
            break
        earlier = [query.ranking for query in open_queries]
        rankings = iter(stage.classifier.rank([query.text for query in open_queries], top_k, earlier))
        asked = [_decide(query, stage, next(rankings)) if isinstance(query, OpenQuery) else query for query in asked]
    return asked


def answer_unknown(queries: Sequence[Answer | OpenQuery]) -> list[Answer]:
    """Give the answer `unknown` to the queries that are still open."""
    return [
        query if isinstance(query, Answer) else Answer((Intent(UNKNOWN_LABEL, 0.0),), StageKind.KEYWORD, query.passed)
        for query in queries
    ]


def reason_to_pass(ranking: Ranking, stage: Stage) -> str:
    """Say why a stage passes with this ranking; empty when it answers."""
    if not ranking.intents:
        return ranking.abstained_because
    best = ranking.intents[0]
    if best.confidence < stage.min_confidence:
        return f"best is {best.label} at {best.confidence:.3f}, below the threshold {stage.min_confidence:.3f}"
    if ranking.margin < stage.min_margin:
        odds, needed = math.exp(ranking.margin), _format_odds(stage.min_margin)
        return f"best is {best.label}, {odds:.1f} times as likely as the next; {needed} times is needed"
    if ranking.score < stage.min_score:
        return (
            f"best is {best.label} with a score of {ranking.score:.2f}, below {stage.min_score:.2f}: "
            "the query is unlike the training examples"
        )
    return ""


def _decide(query: OpenQuery, stage: Stage, ranking: Ranking) -> Answer | OpenQuery:
    reason = reason_to_pass(ranking, stage)
    if not reason:
        return Answer(ranking.intents, stage.kind, query.passed)
    return OpenQuery(query.text, (*query.passed, PassedStage(stage.kind, reason)), ranking)


def _format_odds(margin: float) -> str:
    return f"{math.exp(margin):,.0f}" if margin < 20 else "more than 100 million"
