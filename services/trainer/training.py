"""Fits a model: the linear stage, the transformer stage's head, and what cross-validation says of both.

Every choice is made on answers that were given out of fold: to examples that the model at hand was not fitted to. The
fold of an example depends on its words alone, so it stays as data grows. A taxonomy's descriptors are definitions,
never evidence: every model is fitted to all of them, and no choice is made by them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from services.trainer import calibration
from services.trainer.calibration import AbstentionPoint, EscalationPoint, Thresholds
from services.trainer.errors import StageFailed
from services.trainer.examples import TAXONOMY, Example
from services.trainer.grams import GramCounts, count_grams
from services.trainer.head import Components, HeadClassifier, principal_components
from services.trainer.linear import LinearClassifier
from services.trainer.text import digest_of_words, normalise

# Inverse regularisations, most regularised first; the search begins at the second and stops where it gets worse.
LINEAR_GRID = (0.5, 1.0, 2.0)
HEAD_GRID = (3.0, 10.0, 30.0)
FOLDS = 5
# How many fits a search of two or three settings and the two final ones come to, for whoever shows progress.
FITS_WITHOUT_HEAD, FITS_WITH_HEAD = 8, 16
# With many examples fewer folds than FOLDS give as many out-of-fold answers as the choices below need.
ENOUGH_ANSWERS = 5000


class Embedder(Protocol):
    """Gives the embeddings of texts."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return [n, columns] for texts as they were said."""


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
class _Data:
    """Examples as arrays; `components` only with an encoder."""

    labels: tuple[str, ...]
    counts: GramCounts
    belongs: np.ndarray
    components: Components | None
    folds: np.ndarray
    evidence: np.ndarray
    fitted: Callable[[], None]

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Return distributions float32 [n_rows, n_labels]; without a label, all labels alike."""
        carried = self.belongs[rows].astype(np.float32)
        carried[~carried.any(axis=1)] = 1
        carried /= carried.sum(axis=1, keepdims=True)
        return np.asarray(carried)


@dataclass(frozen=True)
class _OutOfFold:
    """Scores [n, n_labels] of the rows that were answered out of fold, by the best setting of each stage."""

    rows: np.ndarray
    linear: np.ndarray
    linear_setting: float
    embedding: np.ndarray | None
    head_setting: float
    last_head: HeadClassifier | None


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
    data = _data(examples, embeddings, fitted)
    everything, learned = np.arange(len(examples)), np.flatnonzero(~np.asarray(judging, dtype=bool))
    tried = _cross_fit(data, learned)
    found = _calibrate(data, tried)
    judged = _fitted(data, learned, tried, found, tried.last_head)
    served = judged if len(learned) == len(everything) else _fitted(data, everything, tried, found, judged.head)
    return FittedModels(judged, served)


def _fitted(
    data: _Data, rows: np.ndarray, tried: _OutOfFold, found: _Calibration, start: HeadClassifier | None
) -> FittedModel:
    linear = LinearClassifier(tried.linear_setting).fit_counts(data.counts.of(rows), data.belongs[rows])
    data.fitted()
    head = None
    if data.components is not None:
        head = HeadClassifier(tried.head_setting).fit_components(data.components, rows, data.targets(rows), start)
        head.blended(*found.shares, found.unknown)
        data.fitted()
    return FittedModel(linear.calibrated(found.temperature), head, data.labels, found.thresholds, found.choices)


def _calibrate(data: _Data, tried: _OutOfFold) -> _Calibration:
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


def fold_of(text: str) -> int:
    """Return the fold of a normalised text, by its set of words."""
    return int.from_bytes(digest_of_words(text)[4:8], "big") % FOLDS


def label_columns(examples: Sequence[Example]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the labels that examples carry, sorted, and bool [n, n_labels], true where an example carries one."""
    labels = tuple(sorted({label for example in examples for label in example.labels}))
    column = {label: index for index, label in enumerate(labels)}
    belongs = np.zeros((len(examples), len(labels)), dtype=bool)
    for row, example in enumerate(examples):
        belongs[row, [column[label] for label in example.labels]] = True
    return labels, belongs


def _data(examples: Sequence[Example], embeddings: Embedder | None, fitted: Callable[[], None]) -> _Data:
    labels, belongs = label_columns(examples)
    if len(labels) < 2:
        raise StageFailed(f"the examples carry {len(labels)} different labels; at least 2 are needed")
    texts = [normalise(example.text) for example in examples]
    components = None
    if embeddings is not None:
        components = principal_components(embeddings.embed([example.text for example in examples]))
    folds = np.array([fold_of(text) for text in texts])
    evidence = np.array([example.source != TAXONOMY for example in examples])
    return _Data(labels, count_grams(texts), belongs, components, folds, evidence, fitted)


def _cross_fit(data: _Data, learned: np.ndarray) -> _OutOfFold:
    """Answer as many folds of the learned rows as it takes, each by models fitted to the others."""
    answered = learned[data.evidence[learned]]
    folds = _folds_needed(data.folds[answered])
    tuned_on = folds if len(folds) == FOLDS else folds[:1]
    inside = {fold: answered[data.folds[answered] == fold] for fold in folds}
    outside = {fold: np.setdiff1d(learned, rows) for fold, rows in inside.items()}

    def linear_scores(fold: int, setting: float) -> np.ndarray:
        rows = outside[fold]
        model = LinearClassifier(setting).fit_counts(data.counts.of(rows), data.belongs[rows])
        data.fitted()
        return model.scores_of(data.counts.of(inside[fold]))

    setting, linear = _search(data, inside, tuned_on, LINEAR_GRID, linear_scores)
    linear |= {fold: linear_scores(fold, setting) for fold in folds if fold not in linear}
    rows = np.concatenate([inside[fold] for fold in folds])
    scores = np.concatenate([linear[fold] for fold in folds])
    components, latest = data.components, None
    if components is None:
        return _OutOfFold(rows, scores, setting, None, 0.0, None)

    def head_scores(fold: int, setting: float) -> np.ndarray:
        nonlocal latest
        rows = outside[fold]
        latest = HeadClassifier(setting).fit_components(components, rows, data.targets(rows), latest)
        data.fitted()
        return latest.component_scores(components, inside[fold])

    head_setting, above = _search(data, inside, tuned_on, HEAD_GRID, head_scores)
    above |= {fold: head_scores(fold, head_setting) for fold in folds if fold not in above}
    return _OutOfFold(rows, scores, setting, np.concatenate([above[fold] for fold in folds]), head_setting, latest)


def _folds_needed(folds: np.ndarray) -> list[int]:
    present = sorted(set(folds.tolist()))
    if len(present) < 2:
        raise StageFailed("the examples are too few or too alike to hold some of them back; give more different texts")
    needed = min(len(present), max(1, math.ceil(ENOUGH_ANSWERS * FOLDS / len(folds))))
    return present[:needed]


def _search(
    data: _Data,
    inside: Mapping[int, np.ndarray],
    folds: Sequence[int],
    grid: Sequence[float],
    scores_of: Callable[[int, float], np.ndarray],
) -> tuple[float, dict[int, np.ndarray]]:
    """Return the setting with the least cross-entropy, each at its own best temperature, and its scores by fold.

    The losses along the grid have one valley, so the search walks from the second setting in the direction that
    improves and ends where the next one is worse.
    """
    rows = np.concatenate([inside[fold] for fold in folds])
    scoped, targets = data.belongs[rows].any(axis=1), data.targets(rows)
    scores: dict[int, dict[int, np.ndarray]] = {}
    losses: dict[int, float] = {}

    def loss(index: int) -> float:
        if index not in losses:
            scores[index] = {fold: scores_of(fold, grid[index]) for fold in folds}
            part = np.concatenate([scores[index][fold] for fold in folds])[scoped]
            (temperature,) = calibration.fit_shares([part], targets[scoped], [1.0])
            losses[index] = float(calibration.cross_entropies(part * np.float32(temperature), targets[scoped]).mean())
        return losses[index]

    best = 1
    step = 1 if loss(2) < loss(1) else -1
    while 0 <= best + step < len(grid) and loss(best + step) < loss(best):
        best += step
    return grid[best], scores[best]


def _right(scores: np.ndarray, belongs: np.ndarray) -> np.ndarray:
    """Say for each row whether its best label is one of its own."""
    return np.asarray(belongs[np.arange(len(scores)), scores.argmax(axis=1)])
