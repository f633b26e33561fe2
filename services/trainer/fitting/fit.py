"""Fits a model: the linear stage, the transformer stage's head, and what cross-validation says of both.

Every choice is made on answers that were given out of fold: to examples that the model at hand was not fitted to.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from services.trainer.dataset.examples import Example
from services.trainer.errors import StageFailed
from services.trainer.fitting import calibration
from services.trainer.fitting.calibration import AbstentionPoint, EscalationPoint, Thresholds
from services.trainer.fitting.cross_validation import OutOfFold, cross_fit
from services.trainer.fitting.head import HeadClassifier
from services.trainer.fitting.linear import LinearClassifier
from services.trainer.fitting.training_set import Embedder, TrainingData, training_data

# How many fits a search of two or three settings and the two final ones come to, for whoever shows progress.
FITS_WITHOUT_HEAD, FITS_WITH_HEAD = 8, 16


@dataclass(frozen=True)
class Choices:
    """What was chosen, and the out-of-fold measurements behind it."""

    out_of_fold_examples: int
    linear_inverse_regularisation: float
    temperature: float
    linear_accuracy: float
    head_inverse_regularisation: float = 0.0
    embedding_share: float = 0.0
    linear_share: float = 0.0
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
    """The same choices fitted twice.

    Attributes:
        judged: fitted without the examples that judge it.
        served: fitted to all examples.

    """

    judged: FittedModel
    served: FittedModel


@dataclass(frozen=True)
class _Calibration:
    """What turns raw scores of both stages into answers."""

    temperature: float
    shares: tuple[float, float]
    unknown: float
    thresholds: Thresholds
    choices: Choices


def fit(
    examples: Sequence[Example],
    judging: Sequence[bool],
    embeddings: Embedder | None,
    fitted: Callable[[], None] = lambda: None,
) -> FittedModels:
    """Fit the model that is judged and the model that serves; the same examples in the same order give the same.

    Every choice is made for the first and taken over by the second, which learns from a tenth more.

    Args:
        examples: all of them.
        judging: which of them the judged model must not be fitted to, [n].
        embeddings: gives embeddings for the transformer stage; None for a model without that stage.
        fitted: called after each of about FITS_WITH_HEAD or FITS_WITHOUT_HEAD fits.

    Raises:
        StageFailed: fewer than two labels have examples.

    """
    data = training_data(examples, embeddings, fitted)
    everything, learned = np.arange(len(examples)), np.flatnonzero(~np.asarray(judging, dtype=bool))
    tried = cross_fit(data, learned)
    found = _calibrate(data, tried)
    judged = _fitted(data, learned, tried, found, tried.last_head)
    served = judged if len(learned) == len(everything) else _fitted(data, everything, tried, found, judged.head)
    return FittedModels(judged, served)


def _fitted(
    data: TrainingData, rows: np.ndarray, tried: OutOfFold, found: _Calibration, start: HeadClassifier | None
) -> FittedModel:
    linear = LinearClassifier(tried.linear_setting).fit_counts(data.counts.of(rows), data.belongs[rows])
    data.fitted()
    head = None
    if data.components is not None:
        head = HeadClassifier(tried.head_setting).fit_components(data.components, rows, data.targets(rows), start)
        head.blended(*found.shares, found.unknown)
        data.fitted()
    return FittedModel(linear.calibrated(found.temperature), head, data.labels, found.thresholds, found.choices)


def _calibrate(data: TrainingData, tried: OutOfFold) -> _Calibration:
    belongs = data.belongs[tried.rows]
    scoped, targets = belongs.any(axis=1), data.targets(tried.rows)
    if not scoped.any():
        raise StageFailed("no example with a label could be held back; give more examples that have one")
    (temperature,) = calibration.fit_shares([tried.linear[scoped]], targets[scoped], [5.0])
    scores = tried.linear * np.float32(temperature)
    confidence, right = calibration.confidences(scores), _right(scores, belongs)
    alone = calibration.choose_abstention(confidence[scoped], confidence[~scoped])
    choices = Choices(
        out_of_fold_examples=len(tried.rows),
        linear_inverse_regularisation=tried.linear_setting,
        temperature=temperature,
        linear_accuracy=float(right[scoped].mean()),
        abstention=tuple(calibration.abstention_curve(confidence[scoped], right[scoped])),
    )
    if tried.embedding is None:
        return _Calibration(temperature, (1.0, 0.0), 0.0, Thresholds(alone), choices)

    parts = [tried.embedding[scoped], scores[scoped]]
    embedding_share, linear_share = calibration.fit_shares(parts, targets[scoped], [1.0, 0.2])
    blended = tried.embedding * np.float32(embedding_share) + scores * np.float32(linear_share)
    unknown = calibration.score_of_unknown(blended[scoped])
    confidence_above, right_above = calibration.confidences(blended, unknown), _right(blended, belongs)
    lowest = float(np.quantile(scores[scoped].max(axis=1), calibration.LOW_SCORE_SHARE))
    curve = calibration.escalation_curve(scores[scoped], lowest, right[scoped], right_above[scoped])
    margin = calibration.choose_escalation(calibration.margins(scores[scoped]), right[scoped], right_above[scoped])
    thresholds = Thresholds(alone, margin, lowest)
    escalated = thresholds.escalated(scores)
    answered, rightly = np.where(escalated, confidence_above, confidence), np.where(escalated, right_above, right)
    thresholds = replace(thresholds, transformer=calibration.choose_abstention(answered[scoped], answered[~scoped]))
    choices = replace(
        choices,
        head_inverse_regularisation=tried.head_setting,
        embedding_share=embedding_share,
        linear_share=linear_share,
        transformer_accuracy=float(right_above[scoped].mean()),
        escalation=tuple(curve),
        abstention=tuple(calibration.abstention_curve(answered[scoped], rightly[scoped])),
    )
    return _Calibration(temperature, (embedding_share, linear_share), unknown, thresholds, choices)


def _right(scores: np.ndarray, belongs: np.ndarray) -> np.ndarray:
    """Say for each row whether its best label is one of its own."""
    return np.asarray(belongs[np.arange(len(scores)), scores.argmax(axis=1)])
