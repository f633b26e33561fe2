"""Measures a model by its answers to examples. Pure functions of values; nothing here asks a model.

Every share is in [0, 1]. Where an example has several labels, an answer is right when it is one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from services.trainer.dataset.examples import Example
from services.trainer.evaluation.comparison import Prediction
from services.trainer.evaluation.slices import slices_of

if TYPE_CHECKING:
    # Not imported at start: it needs scipy, and the server of the trainer fits nothing.
    from services.trainer.fitting.thresholds import Answers

CONFIDENCE_BINS = 15
COVERAGE_FOR_RECALL = 0.95


@dataclass(frozen=True)
class LabelResult:
    """How one label did: the number of examples that carry it, their recall, and the F1 of top-1 answers."""

    label: str
    examples: int
    recall: float
    f1: float


@dataclass(frozen=True)
class Evaluation:
    """How a model did on the evaluation examples; in-scope examples have a label, out-of-scope ones have none.

    Attributes:
        accuracy: share of the in-scope examples that are answered rightly.
        macro_f1: mean F1 of the labels.
        recall_at_3: mean share of an example's labels among the three best, of at most three.
        held_out_examples: number of in-scope examples.
        golden_wrong: "text -> answer" for each golden query that is answered wrongly.
        query_micros: median time of a query that the linear stage answers.
        transformer_query_micros: the same for the transformer stage; 0 without it.
        feedback_examples, feedback_accuracy: of the hold-out of the feedback.
        calibration_error: see `measure_calibration_error`.
        coverage: share of the in-scope examples that are answered.
        out_of_scope_recall: share of the out-of-scope examples that are abstained from.
        out_of_scope_recall_at_95: the same at the threshold that answers 95 % of the in-scope examples.
        escalated: share of the in-scope examples that are escalated.
        predictions: the in-scope examples and the answers to them.

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
    predictions: tuple[Prediction, ...] = field(default=(), repr=False)

    @property
    def mean_query_micros(self) -> float:
        """Mean of both stages' times, weighted by the share that is escalated, in microseconds."""
        return self.query_micros * (1 - self.escalated) + self.transformer_query_micros * self.escalated


def evaluate(examples: Sequence[Example], answers: "Answers", labels: Sequence[str]) -> Evaluation:
    """Measure answers. Times, sizes, golden queries and feedback are not known here: they are 0.

    Args:
        examples: n examples, in scope and out of scope.
        answers: to these n examples, in the same order.
        labels: names of the columns of `answers.probabilities`.

    """
    is_in_scope = np.array([bool(example.labels) for example in examples], dtype=bool)
    in_scope, out_of_scope = answers.select(is_in_scope), answers.select(~is_in_scope)
    scoped = [example for example in examples if example.labels]
    ranked = rank_labels(in_scope.probabilities, labels)
    predictions = [
        Prediction(example.labels, best[0], slices_of(example.text, example.source))
        for example, best in zip(scoped, ranked, strict=True)
    ]
    right = np.array([prediction.right / len(prediction.labels) for prediction in predictions])
    return replace(
        evaluate_predictions(predictions),
        recall_at_3=_mean([_recall(best, example) for best, example in zip(ranked, scoped, strict=True)]),
        calibration_error=measure_calibration_error(in_scope.confidences, right),
        coverage=_mean(in_scope.answered),
        out_of_scope_examples=len(out_of_scope.answered),
        out_of_scope_recall=_mean(~out_of_scope.answered),
        out_of_scope_recall_at_95=_measure_recall_at_95(in_scope.confidences, out_of_scope.confidences),
        escalated=_mean(in_scope.escalated),
    )


def evaluate_predictions(predictions: Sequence[Prediction]) -> Evaluation:
    """Measure accuracy, macro-F1 and each label; what predictions do not tell is 0."""
    results = measure_labels(predictions)
    return Evaluation(
        accuracy=_mean([prediction.right for prediction in predictions]),
        macro_f1=_mean([result.f1 for result in results]),
        recall_at_3=0.0,
        held_out_examples=len(predictions),
        golden_queries=0,
        golden_wrong=(),
        labels=results,
        query_micros=0.0,
        model_bytes=0,
        predictions=tuple(predictions),
    )


def add_golden(
    evaluation: Evaluation, golden: Sequence[Example], probabilities: np.ndarray, labels: Sequence[str]
) -> Evaluation:
    """Return an evaluation with the golden queries; `probabilities` [n, n_labels] are those of the n queries."""
    ranked = rank_labels(probabilities, labels)
    wrong = tuple(
        f"{example.text} -> {best[0]}"
        for example, best in zip(golden, ranked, strict=True)
        if best[0] not in example.labels
    )
    return replace(evaluation, golden_queries=len(golden), golden_wrong=wrong)


def measure_accuracy(examples: Sequence[Example], probabilities: np.ndarray, labels: Sequence[str]) -> float:
    """Return the share of n examples whose best label is one of theirs; `probabilities` are [n, n_labels]."""
    ranked = rank_labels(probabilities, labels)
    return _mean([best[0] in example.labels for best, example in zip(ranked, examples, strict=True)])


def rank_labels(probabilities: np.ndarray, labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the three best labels of each row of [n, n_labels], best first."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    return [tuple(labels[index] for index in row) for row in order]


def measure_calibration_error(confidences: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error: the mean over bins of |mean confidence - mean right|, weighted by size.

    The bins are equally wide; the measure is that of Naeini, Cooper and Hauskrecht (AAAI 2015). Right answers to an
    example with k labels count as 1/k: such an example is learned as a distribution, so 1/k is its right confidence.

    Args:
        confidences: of the top-1 labels, [n].
        right: 1/k for a right answer and 0 for a wrong one, [n].

    """
    bins = bin_confidences(confidences)
    return float(
        sum(
            abs(confidences[bins == number].mean() - right[bins == number].mean()) * (bins == number).mean()
            for number in np.unique(bins)
        )
    )


def bin_confidences(confidences: np.ndarray) -> np.ndarray:
    """Return the bin of each confidence, int [n]; there are CONFIDENCE_BINS, equally wide."""
    return np.asarray(np.minimum((confidences * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1))


def measure_labels(predictions: Sequence[Prediction]) -> tuple[LabelResult, ...]:
    """Return recall and F1 of each label that an example carries or that was answered, sorted by label.

    A right answer is a true positive of the answered label. A wrong answer to an example with k labels is 1/k false
    negatives of each of them, so that every example counts once, and one false positive of the answered label.
    """
    names = sorted({label for prediction in predictions for label in (*prediction.labels, prediction.answer)})
    true_positives, false_negatives = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    false_positives = dict.fromkeys(names, 0.0)
    examples, recalled = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for prediction in predictions:
        for label in prediction.labels:
            examples[label] += 1
            recalled[label] += prediction.right
            false_negatives[label] += (not prediction.right) / len(prediction.labels)
        (true_positives if prediction.right else false_positives)[prediction.answer] += 1
    return tuple(
        LabelResult(
            name,
            examples[name],
            recalled[name] / examples[name] if examples[name] else 0.0,
            _f1(true_positives[name], false_negatives[name], false_positives[name]),
        )
        for name in names
    )


def _f1(true_positives: float, false_negatives: float, false_positives: float) -> float:
    mistakes = false_negatives + false_positives
    return 2 * true_positives / (2 * true_positives + mistakes) if true_positives + mistakes else 1.0


def _recall(best: Sequence[str], example: Example) -> float:
    return len(set(best) & set(example.labels)) / min(3, len(example.labels))


def _measure_recall_at_95(in_scope: np.ndarray, out_of_scope: np.ndarray) -> float:
    """Return the share of confidences [m] below the 5 % quantile of the in-scope ones [n]; 0 without either."""
    if not len(in_scope) or not len(out_of_scope):
        return 0.0
    return float((out_of_scope < np.quantile(in_scope, 1 - COVERAGE_FOR_RECALL)).mean())


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else 0.0
