"""Asks classifiers in turn; the first that neither abstains nor falls below its thresholds answers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from services.inference.classifiers.ranking import Intent, Ranking
from services.language.names import KEYWORD_STAGE, LINEAR_STAGE, TRANSFORMER_STAGE, UNKNOWN_LABEL

NOT_ASKED = Ranking(())


class StageKind(Enum):
    """Which step of the cascade; the value is the name in the query log."""

    LINEAR = LINEAR_STAGE
    TRANSFORMER = TRANSFORMER_STAGE
    KEYWORD = KEYWORD_STAGE


class Classifier(Protocol):
    """Ranks labels for queries; one ranking for each, in order."""

    def rank(self, queries: Sequence[str], top_k: int, earlier: Sequence[Ranking]) -> list[Ranking]:
        """Return rankings of at most top_k labels; `earlier` are those of the stage before, empty for the first."""


@dataclass(frozen=True)
class Stage:
    """A classifier and where it stops to answer.

    Attributes:
        min_confidence: of the best label.
        min_margin: of its score above the next, see Ranking.margin.
        min_score: of the best label, see Ranking.score.
        takes_milliseconds: whether to ask it off the event loop.

    """

    kind: StageKind
    classifier: Classifier
    min_confidence: float = 0.0
    min_margin: float = 0.0
    min_score: float = -math.inf
    takes_milliseconds: bool = False


@dataclass(frozen=True)
class Passed:
    """A stage that was asked and did not answer, and why."""

    kind: StageKind
    reason: str


@dataclass(frozen=True)
class Outcome:
    """The answer to one query and the stages that passed before it."""

    intents: tuple[Intent, ...]
    kind: StageKind
    passed: tuple[Passed, ...] = field(default=())


@dataclass(frozen=True)
class Open:
    """A query that no stage has answered yet, the stages that passed, and what the last of them said."""

    query: str
    passed: tuple[Passed, ...] = ()
    ranking: Ranking = NOT_ASKED


def answer(queries: Sequence[str], stages: Sequence[Stage], top_k: int) -> list[Outcome]:
    """Return one outcome for each query; when every stage passes, the label is `unknown`."""
    return conclude([Open(query) for query in queries], stages, top_k)


def conclude(asked: Sequence[Outcome | Open], stages: Sequence[Stage], top_k: int) -> list[Outcome]:
    """Ask stages for what is open, and return one outcome for each."""
    for stage in stages:
        asked = ask(asked, stage, top_k)
    return [each if isinstance(each, Outcome) else _unknown(each) for each in asked]


def ask(asked: Sequence[Outcome | Open], stage: Stage, top_k: int) -> list[Outcome | Open]:
    """Ask one stage for what is open."""
    waiting = [each for each in asked if isinstance(each, Open)]
    if not waiting:
        return list(asked)
    rankings = iter(stage.classifier.rank([each.query for each in waiting], top_k, [each.ranking for each in waiting]))
    return [_decided(each, stage, next(rankings)) if isinstance(each, Open) else each for each in asked]


def reason_to_pass(ranking: Ranking, stage: Stage) -> str:
    """Say why a stage's ranking is no answer, or return the empty string when it is one."""
    if not ranking.intents:
        return ranking.abstained_because
    best = ranking.intents[0]
    if best.confidence < stage.min_confidence:
        return f"best is {best.label} at {best.confidence:.3f}, below the threshold {stage.min_confidence:.3f}"
    if ranking.margin < stage.min_margin:
        odds, needed = math.exp(ranking.margin), _odds(stage.min_margin)
        return f"best is {best.label}, {odds:.1f} times as likely as the next; {needed} times is needed"
    if ranking.score < stage.min_score:
        return (
            f"best is {best.label} with a score of {ranking.score:.2f}, below {stage.min_score:.2f}: "
            "the query is little like what was learned"
        )
    return ""


def _decided(asked: Open, stage: Stage, ranking: Ranking) -> Outcome | Open:
    reason = reason_to_pass(ranking, stage)
    if not reason:
        return Outcome(ranking.intents, stage.kind, asked.passed)
    return Open(asked.query, (*asked.passed, Passed(stage.kind, reason)), ranking)


def _unknown(asked: Open) -> Outcome:
    return Outcome((Intent(UNKNOWN_LABEL, 0.0),), StageKind.KEYWORD, asked.passed)


def _odds(margin: float) -> str:
    return f"{math.exp(margin):,.0f}" if margin < 20 else "more than any number of"
