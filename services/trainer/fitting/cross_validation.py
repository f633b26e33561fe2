"""Answers examples out of fold, by models that were not fitted to them, and finds the settings that do so best."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.trainer.errors import StageFailed
from services.trainer.fitting import calibration
from services.trainer.fitting.head import HeadClassifier
from services.trainer.fitting.linear import LinearClassifier
from services.trainer.fitting.training_set import FOLDS, TrainingData

# Inverse regularisations, most regularised first; the search begins at the second and stops where it gets worse.
LINEAR_GRID = (0.5, 1.0, 2.0)
HEAD_GRID = (3.0, 10.0, 30.0)
# With many examples fewer folds than FOLDS give as many out-of-fold answers as the choices need.
ENOUGH_ANSWERS = 5000


@dataclass(frozen=True)
class OutOfFold:
    """Scores [n, n_labels] of the rows that were answered out of fold, by the best setting of each stage."""

    rows: np.ndarray
    linear: np.ndarray
    linear_setting: float
    embedding: np.ndarray | None
    head_setting: float
    last_head: HeadClassifier | None


def cross_fit(data: TrainingData, learned: np.ndarray) -> OutOfFold:
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
        return OutOfFold(rows, scores, setting, None, 0.0, None)

    def head_scores(fold: int, setting: float) -> np.ndarray:
        nonlocal latest
        rows = outside[fold]
        latest = HeadClassifier(setting).fit_components(components, rows, data.targets(rows), latest)
        data.fitted()
        return latest.component_scores(components, inside[fold])

    head_setting, above = _search(data, inside, tuned_on, HEAD_GRID, head_scores)
    above |= {fold: head_scores(fold, head_setting) for fold in folds if fold not in above}
    return OutOfFold(rows, scores, setting, np.concatenate([above[fold] for fold in folds]), head_setting, latest)


def _folds_needed(folds: np.ndarray) -> list[int]:
    present = sorted(set(folds.tolist()))
    if len(present) < 2:
        raise StageFailed("the examples are too few or too alike to hold some of them back; give more different texts")
    needed = min(len(present), max(1, math.ceil(ENOUGH_ANSWERS * FOLDS / len(folds))))
    return present[:needed]


def _search(
    data: TrainingData,
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
