"""Measures a model on held-out examples. Plain functions over probabilities; nothing here knows files or servers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from services.trainer.examples import Example

TIMED_QUERIES = 200


class Ranker(Protocol):
    """Anything that gives probabilities for texts."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the columns."""

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return [n, n_labels]."""


class Scorer(Ranker, Protocol):
    """A ranker whose time can be taken."""

    def median_query_micros(self, texts: Sequence[str]) -> float:
        """Return the median time of one query in microseconds."""


@dataclass(frozen=True)
class LabelResult:
    """How one label did: held-out examples that carry it, their recall, and F1 of top-1 answers."""

    label: str
    examples: int
    recall: float
    f1: float


@dataclass(frozen=True)
class Evaluation:
    """How a model did; every share is in [0, 1]."""

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


def evaluate(scorer: Scorer, held_out: Sequence[Example], golden: Sequence[Example], model_bytes: int) -> Evaluation:
    """Ask a model every held-out and golden query."""
    texts = [example.text for example in held_out]
    ranked = ranked_labels(scorer, texts)
    results = label_results([labels[0] for labels in ranked], held_out)
    return Evaluation(
        accuracy=_mean(top_1_right(ranked, held_out)),
        macro_f1=_mean([result.f1 for result in results]),
        recall_at_3=_mean(
            [
                len(set(labels[:3]) & set(example.labels)) / min(3, len(example.labels))
                for labels, example in zip(ranked, held_out, strict=True)
            ]
        ),
        held_out_examples=len(held_out),
        golden_queries=len(golden),
        golden_wrong=golden_failures(scorer, golden),
        labels=results,
        query_micros=scorer.median_query_micros(texts[:TIMED_QUERIES]),
        model_bytes=model_bytes,
    )


def accuracy(scorer: Ranker, examples: Sequence[Example]) -> float:
    """Return the share of examples whose top-1 label is one of theirs."""
    return _mean(top_1_right(ranked_labels(scorer, [example.text for example in examples]), examples))


def top_1_right(ranked: Sequence[tuple[str, ...]], examples: Sequence[Example]) -> list[bool]:
    """Say for each example whether its best label is one of its own."""
    return [labels[0] in example.labels for labels, example in zip(ranked, examples, strict=True)]


def ranked_labels(scorer: Ranker, texts: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the three best labels for each text."""
    order = np.argsort(-scorer.probabilities(texts), axis=1, kind="stable")[:, :3]
    return [tuple(scorer.labels[index] for index in row) for row in order]


def golden_failures(scorer: Scorer, golden: Sequence[Example]) -> tuple[str, ...]:
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


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
