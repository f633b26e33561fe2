"""Measures a model on held-out examples. Plain functions over probabilities; nothing here knows files or servers."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from services.trainer.dataset.examples import Example
from services.trainer.evaluation.comparison import Judgement
from services.trainer.evaluation.slices import slices_of

TIMED_QUERIES = 200
CONFIDENCE_BINS = 15
COVERAGE_FOR_RECALL = 0.95


class Ranker(Protocol):
    """Anything that gives probabilities for texts."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the columns."""

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return [n, n_labels]."""


class AnswerSet(Protocol):
    """Answers to some queries; see scoring.Answers."""

    @property
    def probabilities(self) -> np.ndarray:
        """[n, n_labels]."""

    @property
    def escalated(self) -> np.ndarray:
        """Bool [n]."""

    @property
    def answered(self) -> np.ndarray:
        """Bool [n]."""

    @property
    def confidences(self) -> np.ndarray:
        """[n]."""


class Scorer(Ranker, Protocol):
    """A cascade that can be asked and timed."""

    def answers(self, texts: Sequence[str]) -> AnswerSet:
        """Return the answers of the cascade."""

    def median_linear_micros(self, texts: Sequence[str]) -> float:
        """Return the median time of one query that the linear stage answers, in microseconds."""

    def median_transformer_micros(self, texts: Sequence[str]) -> float:
        """Return the median time of one query that the transformer stage answers, in microseconds."""


@dataclass(frozen=True)
class LabelResult:
    """How one label did: held-out examples that carry it, their recall, and F1 of top-1 answers."""

    label: str
    examples: int
    recall: float
    f1: float


@dataclass(frozen=True)
class Evaluation:
    """How a model did; every share is in [0, 1].

    Attributes:
        calibration_error: expected, over bins of confidence; see `calibration_error`.
        coverage: share of held-out examples with a label that are answered.
        out_of_scope_recall: share of those without one that are not answered.
        out_of_scope_recall_at_95: the same at the threshold that would answer 95 % of the others.
        escalated: share of held-out examples that the linear stage hands on.
        judged: each held-out example with a label, and the answer to it.

    """

    accuracy: float
    macro_f1: float
    recall_at_3: float
    held_out_examples: int
    golden_queries: int
    golden_wrong: tuple[str, ...]
    labels: tuple[LabelResult, ...]
    query_micros: float
    model_bytes: int
    feedback_examples: int = 0
    feedback_accuracy: float = 0.0
    calibration_error: float = 0.0
    coverage: float = 1.0
    out_of_scope_examples: int = 0
    out_of_scope_recall: float = 0.0
    out_of_scope_recall_at_95: float = 0.0
    escalated: float = 0.0
    transformer_query_micros: float = 0.0
    judged: tuple[Judgement, ...] = field(default=(), repr=False)

    @property
    def mean_query_micros(self) -> float:
        """Mean time of one query at the escalated share, in microseconds."""
        return self.query_micros * (1 - self.escalated) + self.transformer_query_micros * self.escalated


def evaluate(scorer: Scorer, held_out: Sequence[Example], model_bytes: int) -> Evaluation:
    """Ask a model every held-out query; those without a label are out of scope."""
    scoped = [example for example in held_out if example.labels]
    texts, outside = [each.text for each in scoped], [each.text for each in held_out if not each.labels]
    answers, answers_outside = scorer.answers(texts), scorer.answers(outside)
    ranked = best_labels(answers.probabilities, scorer.labels)
    results = label_results([labels[0] for labels in ranked], scoped)
    confidences = answers.confidences
    return Evaluation(
        accuracy=_mean(top_1_right(ranked, scoped)),
        macro_f1=_mean([result.f1 for result in results]),
        recall_at_3=_mean(
            [
                len(set(labels[:3]) & set(example.labels)) / min(3, len(example.labels))
                for labels, example in zip(ranked, scoped, strict=True)
            ]
        ),
        held_out_examples=len(scoped),
        golden_queries=0,
        golden_wrong=(),
        labels=results,
        query_micros=scorer.median_linear_micros(texts[:TIMED_QUERIES]),
        model_bytes=model_bytes,
        calibration_error=calibration_error(confidences, shares_right(ranked, scoped)),
        coverage=_mean(answers.answered),
        out_of_scope_examples=len(outside),
        out_of_scope_recall=_mean(~answers_outside.answered),
        out_of_scope_recall_at_95=_recall_at(confidences, answers_outside.confidences),
        escalated=_mean(answers.escalated),
        transformer_query_micros=scorer.median_transformer_micros(texts[:TIMED_QUERIES]),
        judged=tuple(
            Judgement(example.labels, labels[0], slices_of(example))
            for example, labels in zip(scoped, ranked, strict=True)
        ),
    )


def evaluation_of(judged: Sequence[Judgement]) -> Evaluation:
    """Return accuracy and macro-F1 of answers that were given already; time, size and calibration are unknown."""
    results = label_results([each.answer for each in judged], [Example("", each.labels) for each in judged])
    return Evaluation(
        accuracy=_mean([each.right for each in judged]),
        macro_f1=_mean([result.f1 for result in results]),
        recall_at_3=0.0,
        held_out_examples=len(judged),
        golden_queries=0,
        golden_wrong=(),
        labels=results,
        query_micros=0.0,
        model_bytes=0,
        judged=tuple(judged),
    )


def with_golden(evaluation: Evaluation, scorer: Ranker, golden: Sequence[Example]) -> Evaluation:
    """Return an evaluation with what a model says of the golden queries."""
    return replace(evaluation, golden_queries=len(golden), golden_wrong=golden_failures(scorer, golden))


def calibration_error(confidences: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error: mean over bins of |mean confidence - mean right|, weighted by size.

    The bins are equally wide; the measure is that of Naeini, Cooper and Hauskrecht (AAAI 2015).

    Args:
        confidences: of the top-1 labels, [n].
        right: 1 or 0, or a share of rightness, [n].

    """
    bins = np.minimum((confidences * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    return float(
        sum(
            abs(confidences[bins == each].mean() - right[bins == each].mean()) * (bins == each).mean()
            for each in np.unique(bins)
        )
    )


def shares_right(ranked: Sequence[tuple[str, ...]], examples: Sequence[Example]) -> np.ndarray:
    """Return for each example 1 / number of its labels if its best label is one of them, else 0, [n].

    An example with several labels is learned as a distribution over them, so that is the probability that is due.
    """
    return np.array(
        [right / len(example.labels) for right, example in zip(top_1_right(ranked, examples), examples, strict=True)]
    )


def _recall_at(inside: np.ndarray, outside: np.ndarray) -> float:
    if not len(inside) or not len(outside):
        return 0.0
    return float((outside < np.quantile(inside, 1 - COVERAGE_FOR_RECALL)).mean())


def accuracy(scorer: Ranker, examples: Sequence[Example]) -> float:
    """Return the share of examples whose top-1 label is one of theirs."""
    return _mean(top_1_right(ranked_labels(scorer, [example.text for example in examples]), examples))


def top_1_right(ranked: Sequence[tuple[str, ...]], examples: Sequence[Example]) -> list[bool]:
    """Say for each example whether its best label is one of its own."""
    return [labels[0] in example.labels for labels, example in zip(ranked, examples, strict=True)]


def ranked_labels(scorer: Ranker, texts: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the three best labels for each text."""
    return best_labels(scorer.probabilities(texts), scorer.labels)


def best_labels(probabilities: np.ndarray, labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the three best labels for each row of [n, n_labels]."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    return [tuple(labels[index] for index in row) for row in order]


def golden_failures(scorer: Ranker, golden: Sequence[Example]) -> tuple[str, ...]:
    """Return "text -> answer" for every golden query that is answered with none of its labels."""
    ranked = ranked_labels(scorer, [example.text for example in golden])
    return tuple(
        f"{example.text} -> {labels[0]}"
        for labels, example in zip(ranked, golden, strict=True)
        if labels[0] not in example.labels
    )


def label_results(answers: Sequence[str], held_out: Sequence[Example]) -> tuple[LabelResult, ...]:
    """Return recall and F1 of each label that is held out or was answered.

    A right answer counts for the answered label. A wrong one is a miss of the example's every label, weighted so that
    the example counts once, and a false alarm of the answered one.
    """
    names = sorted({label for example in held_out for label in example.labels} | set(answers))
    hits = dict.fromkeys(names, 0.0)
    misses = dict.fromkeys(names, 0.0)
    alarms = dict.fromkeys(names, 0.0)
    examples = dict.fromkeys(names, 0)
    recalled = dict.fromkeys(names, 0)
    for answer, example in zip(answers, held_out, strict=True):
        right = answer in example.labels
        for label in example.labels:
            examples[label] += 1
            recalled[label] += right
        if right:
            hits[answer] += 1
        else:
            alarms[answer] += 1
            for label in example.labels:
                misses[label] += 1 / len(example.labels)
    return tuple(
        LabelResult(
            name,
            examples[name],
            recalled[name] / examples[name] if examples[name] else 0.0,
            _f1(hits[name], misses[name], alarms[name]),
        )
        for name in names
    )


def _f1(hits: float, misses: float, alarms: float) -> float:
    return 2 * hits / (2 * hits + misses + alarms) if hits + misses + alarms else 1.0


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else 0.0
