"""Fits and calibrates both stages of a model.

Settings, factors and thresholds are chosen on out-of-fold scores: scores of examples by models that were not fitted to
them. They are chosen once, without the hold-out, for both of the models that a run fits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from services.trainer.dataset.examples import Example
from services.trainer.fitting import calibration, thresholds
from services.trainer.fitting.cross_validation import OutOfFold, cross_validate
from services.trainer.fitting.head import HeadClassifier
from services.trainer.fitting.linear import LinearClassifier
from services.trainer.fitting.thresholds import AbstentionPoint, EscalationPoint, Thresholds
from services.trainer.fitting.training_set import Embedder, TrainingData, build_training_data

# About how many fits one call of `fit` makes, to report progress: those of the search, and the final ones.
FITS_WITHOUT_HEAD, FITS_WITH_HEAD = 8, 16


@dataclass(frozen=True)
class Choices:
    """What was chosen, and the out-of-fold measurements behind it; accuracies are in [0, 1]."""

    out_of_fold_examples: int
    linear_inverse_regularisation: float
    inverse_temperature: float
    linear_accuracy: float
    head_inverse_regularisation: float = 0.0
    embedding_factor: float = 0.0
    linear_factor: float = 0.0
    transformer_accuracy: float = 0.0
    escalation: tuple[EscalationPoint, ...] = field(default=(), repr=False)
    abstention: tuple[AbstentionPoint, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class FittedModel:
    """A fitted, calibrated linear stage and head, and the labels of their columns."""

    linear: LinearClassifier
    head: HeadClassifier | None
    labels: tuple[str, ...]
    thresholds: Thresholds
    choices: Choices


@dataclass(frozen=True)
class FittedModels:
    """Two models with the same settings; they are one object when nothing is held out.

    Attributes:
        evaluation: fitted without the hold-out, to be measured on it.
        serving: fitted to all examples, to serve.

    """

    evaluation: FittedModel
    serving: FittedModel


@dataclass(frozen=True)
class _Calibration:
    """What turns the raw scores of both stages into answers."""

    choices: Choices
    thresholds: Thresholds
    unknown_score: float = 0.0


@dataclass(frozen=True)
class _OutOfFoldAnswers:
    """Out-of-fold answers of one stage: calibrated scores [n, n_labels], confidences [n], right answers bool [n]."""

    scores: np.ndarray
    confidences: np.ndarray
    right: np.ndarray


def fit(
    examples: Sequence[Example],
    holdout_mask: Sequence[bool],
    embeddings: Embedder | None,
    on_fit: Callable[[], None] = lambda: None,
) -> FittedModels:
    """Fit the evaluation model and the serving model. The same examples in the same order give the same models.

    Args:
        examples: all that the serving model is fitted to.
        holdout_mask: for each of them, whether it is held out from the evaluation model.
        embeddings: of the examples, for the transformer stage; None for models without that stage.
        on_fit: called after each of about FITS_WITH_HEAD or FITS_WITHOUT_HEAD fits.

    Raises:
        StageFailed: fewer than two labels have examples, or too few examples are left to cross-validate.

    """
    data = build_training_data(examples, embeddings, on_fit)
    everything, without_holdout = np.arange(len(examples)), np.flatnonzero(~np.asarray(holdout_mask, dtype=bool))
    scored = cross_validate(data, without_holdout)
    found = _calibrate(data, scored)
    evaluation = _fit_model(data, without_holdout, scored, found, scored.last_head)
    if len(without_holdout) == len(everything):
        return FittedModels(evaluation, evaluation)
    return FittedModels(evaluation, _fit_model(data, everything, scored, found, evaluation.head))


def _fit_model(
    data: TrainingData, rows: np.ndarray, scored: OutOfFold, found: _Calibration, start: HeadClassifier | None
) -> FittedModel:
    choices = found.choices
    linear = LinearClassifier(scored.linear_setting).fit_counts(data.counts.of(rows), data.label_matrix[rows])
    linear.calibrate(choices.inverse_temperature)
    data.on_fit()
    head = None
    if data.components is not None:
        head = HeadClassifier(scored.head_setting).fit_components(data.components, rows, data.targets(rows), start)
        head.blend(choices.embedding_factor, choices.linear_factor, found.unknown_score)
        data.on_fit()
    return FittedModel(linear, head, data.labels, found.thresholds, choices)


def _calibrate(data: TrainingData, scored: OutOfFold) -> _Calibration:
    in_scope = data.label_matrix[scored.rows].any(axis=1)
    alone, linear = _calibrate_linear(data, scored, in_scope)
    if scored.head is None:
        return alone
    return _calibrate_cascade(data, scored, scored.head, in_scope, alone, linear)


def _calibrate_linear(
    data: TrainingData, scored: OutOfFold, in_scope: np.ndarray
) -> tuple[_Calibration, _OutOfFoldAnswers]:
    """Calibrate the linear stage for answering alone; `in_scope` is bool [n], true for rows with a label."""
    targets = data.targets(scored.rows)[in_scope]
    (inverse_temperature,) = calibration.fit_factors([scored.linear[in_scope]], targets, [5.0])
    answers = _answer(scored.linear * np.float32(inverse_temperature), data.label_matrix[scored.rows])
    choices = Choices(
        out_of_fold_examples=len(scored.rows),
        linear_inverse_regularisation=scored.linear_setting,
        inverse_temperature=inverse_temperature,
        linear_accuracy=float(answers.right[in_scope].mean()),
        abstention=tuple(thresholds.abstention_curve(answers.confidences[in_scope], answers.right[in_scope])),
    )
    alone = thresholds.choose_abstention(answers.confidences[in_scope], answers.confidences[~in_scope])
    return _Calibration(choices, Thresholds(alone)), answers


def _calibrate_cascade(
    data: TrainingData,
    scored: OutOfFold,
    head_scores: np.ndarray,
    in_scope: np.ndarray,
    alone: _Calibration,
    linear: _OutOfFoldAnswers,
) -> _Calibration:
    """Add the blend of both stages' scores, when to escalate, and when the transformer stage abstains."""
    targets = data.targets(scored.rows)[in_scope]
    factors = calibration.fit_factors([head_scores[in_scope], linear.scores[in_scope]], targets, [1.0, 0.2])
    blended = head_scores * np.float32(factors[0]) + linear.scores * np.float32(factors[1])
    unknown_score = calibration.choose_unknown_score(blended[in_scope])
    transformer = _answer(blended, data.label_matrix[scored.rows], unknown_score)
    lowest = float(np.quantile(linear.scores[in_scope].max(axis=1), thresholds.LOW_SCORE_SHARE))
    scores, linear_right = linear.scores[in_scope], linear.right[in_scope]
    transformer_right = transformer.right[in_scope]
    margin = thresholds.choose_margin(thresholds.margins(scores), linear_right, transformer_right)
    found = Thresholds(alone.thresholds.alone, margin, lowest)
    escalated = found.escalates(linear.scores)
    confidence = np.where(escalated, transformer.confidences, linear.confidences)
    right = np.where(escalated, transformer.right, linear.right)
    choices = replace(
        alone.choices,
        head_inverse_regularisation=scored.head_setting,
        embedding_factor=factors[0],
        linear_factor=factors[1],
        transformer_accuracy=float(transformer_right.mean()),
        escalation=tuple(thresholds.escalation_curve(scores, lowest, linear_right, transformer_right)),
        abstention=tuple(thresholds.abstention_curve(confidence[in_scope], right[in_scope])),
    )
    abstains_below = thresholds.choose_abstention(confidence[in_scope], confidence[~in_scope])
    return _Calibration(choices, replace(found, transformer=abstains_below), unknown_score)


def _answer(scores: np.ndarray, label_matrix: np.ndarray, unknown_score: float = -np.inf) -> _OutOfFoldAnswers:
    right = label_matrix[np.arange(len(scores)), scores.argmax(axis=1)]
    return _OutOfFoldAnswers(scores, calibration.confidences(scores, unknown_score), np.asarray(right))
