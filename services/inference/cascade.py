"""Asks classifiers in turn; the first that neither abstains nor falls below its threshold answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from services.inference.ranking import UNKNOWN_LABEL, Intent, Ranking


class StageKind(Enum):
    """Which step of the cascade; the value is the name in the query log."""

    LINEAR = "linear"
    TRANSFORMER = "transformer"
    KEYWORD = "keyword"


class Classifier(Protocol):
    """Ranks labels for queries; one ranking for each, in order."""

    def rank(self, queries: Sequence[str], top_k: int) -> list[Ranking]:
        """Return rankings of at most top_k labels."""


@dataclass(frozen=True)
class Stage:
    """A classifier and the confidence below which it does not answer."""

    kind: StageKind
    classifier: Classifier
    min_confidence: float = 0.0


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


def answer(queries: Sequence[str], stages: Sequence[Stage], top_k: int) -> list[Outcome]:
    """Return one outcome for each query; when every stage passes, the label is `unknown`."""
    outcomes: dict[int, Outcome] = {}
    passed: dict[int, tuple[Passed, ...]] = dict.fromkeys(range(len(queries)), ())
    for stage in stages:
        if not passed:
            break
        rankings = stage.classifier.rank([queries[index] for index in passed], top_k)
        for index, ranking in zip(list(passed), rankings, strict=True):
            reason = reason_to_pass(ranking, stage.min_confidence)
            if reason:
                passed[index] += (Passed(stage.kind, reason),)
            else:
                outcomes[index] = Outcome(ranking.intents, stage.kind, passed.pop(index))
    for index, stages_passed in passed.items():
        outcomes[index] = Outcome((Intent(UNKNOWN_LABEL, 0.0),), StageKind.KEYWORD, stages_passed)
    return [outcomes[index] for index in range(len(queries))]


def reason_to_pass(ranking: Ranking, min_confidence: float) -> str:
    """Say why a stage's ranking is no answer, or return the empty string when it is one."""
    if not ranking.intents:
        return ranking.abstained_because
    best = ranking.intents[0]
    if best.confidence < min_confidence:
        return f"best is {best.label} at {best.confidence:.3f}, below the threshold {min_confidence:.3f}"
    return ""
