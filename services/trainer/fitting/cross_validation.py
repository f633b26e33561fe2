"""Cross-validation: scores examples by models that were not fitted to them, and chooses the best regularisation."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.trainer.errors import StageFailed
from services.trainer.fitting import calibration
from services.trainer.fitting.components import Components
from services.trainer.fitting.head import HeadClassifier
from services.trainer.fitting.linear import LinearClassifier
from services.trainer.fitting.training_set import FOLDS, TrainingData

# Inverse regularisations, most regularised first.
LINEAR_GRID = (0.5, 1.0, 2.0)
HEAD_GRID = (3.0, 10.0, 30.0)
# So many out-of-fold examples are enough for every choice; large datasets need fewer than FOLDS folds for them.
ENOUGH_EXAMPLES = 5000


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold scores, given by the best setting of each stage.

    Attributes:
        rows: indices of the scored examples, [n].
        linear: scores of the linear stage, float32 [n, n_labels], not calibrated.
        linear_setting: its inverse regularisation.
        head: scores of the head, float32 [n, n_labels], not blended; None without embeddings.
        head_setting: its inverse regularisation; 0 without embeddings.
        last_head: a head from which further fits may begin; None without embeddings.

    """

    rows: np.ndarray
    linear: np.ndarray
    linear_setting: float
    head: np.ndarray | None
    head_setting: float
    last_head: HeadClassifier | None


@dataclass(frozen=True)
class _Folds:
    """Indices of examples by fold: those to score, and those to fit to. `tuned` are the folds that compare settings."""

    scored: Mapping[int, np.ndarray]
    fitted: Mapping[int, np.ndarray]
    tuned: Sequence[int]

    def join(self, scores: Mapping[int, np.ndarray]) -> np.ndarray:
        """Return the scores of all folds, [n, n_labels]."""
        return np.concatenate([scores[fold] for fold in self.scored])


def cross_validate(data: TrainingData, rows: np.ndarray, enough: int = ENOUGH_EXAMPLES) -> OutOfFold:
    """Score some folds of some rows, each by models fitted to the other folds.

    Args:
        data: all examples.
        rows: indices of those to score and to fit to, [n].
        enough: about so many examples are scored, in as few folds as that takes.

    Raises:
        StageFailed: the rows do not fill two folds, or none that is scored has a label.

    """
    folds = _divide(data, rows, enough)
    linear_setting, linear = _cross_validate_linear(data, folds)
    scored = np.concatenate(list(folds.scored.values()))
    if data.components is None:
        return OutOfFold(scored, linear, linear_setting, None, 0.0, None)
    head_setting, head, last_head = _cross_validate_head(data, data.components, folds)
    return OutOfFold(scored, linear, linear_setting, head, head_setting, last_head)


def _divide(data: TrainingData, rows: np.ndarray, enough: int) -> _Folds:
    measured = rows[data.measured[rows]]
    present = sorted(set(data.folds[measured].tolist()))
    if len(present) < 2:
        raise StageFailed("the examples are too few or too alike to hold some of them back; give more different texts")
    folds = present[: min(len(present), max(1, math.ceil(enough * FOLDS / len(measured))))]
    scored = {fold: measured[data.folds[measured] == fold] for fold in folds}
    if not any(data.label_matrix[of_fold].any() for of_fold in scored.values()):
        raise StageFailed("no example with a label could be held back; give more examples that have one")
    fitted = {fold: np.setdiff1d(rows, of_fold) for fold, of_fold in scored.items()}
    return _Folds(scored, fitted, folds if len(folds) == FOLDS else folds[:1])


def _cross_validate_linear(data: TrainingData, folds: _Folds) -> tuple[float, np.ndarray]:
    def score(fold: int, setting: float) -> np.ndarray:
        rows = folds.fitted[fold]
        model = LinearClassifier(setting).fit_counts(data.counts.of(rows), data.label_matrix[rows])
        data.on_fit()
        return model.scores_of(data.counts.of(folds.scored[fold]))

    setting, scores = _search(data, folds, LINEAR_GRID, score)
    scores |= {fold: score(fold, setting) for fold in folds.scored if fold not in scores}
    return setting, folds.join(scores)


def _cross_validate_head(
    data: TrainingData, components: Components, folds: _Folds
) -> tuple[float, np.ndarray, HeadClassifier | None]:
    latest: HeadClassifier | None = None

    def score(fold: int, setting: float) -> np.ndarray:
        nonlocal latest
        rows = folds.fitted[fold]
        latest = HeadClassifier(setting).fit_components(components, rows, data.targets(rows), latest)
        data.on_fit()
        return latest.component_scores(components, folds.scored[fold])

    setting, scores = _search(data, folds, HEAD_GRID, score)
    scores |= {fold: score(fold, setting) for fold in folds.scored if fold not in scores}
    return setting, folds.join(scores), latest


def _search(
    data: TrainingData, folds: _Folds, grid: Sequence[float], score: Callable[[int, float], np.ndarray]
) -> tuple[float, dict[int, np.ndarray]]:
    """Return the setting with the least cross-entropy, each at its best inverse temperature, and its scores by fold.

    The loss along the grid has a single minimum, so the search starts at the second setting, goes in the direction in
    which the loss falls, and stops where it rises.
    """
    rows = np.concatenate([folds.scored[fold] for fold in folds.tuned])
    in_scope, targets = data.label_matrix[rows].any(axis=1), data.targets(rows)
    scores: dict[int, dict[int, np.ndarray]] = {}
    losses: dict[int, float] = {}

    def loss(index: int) -> float:
        if index not in losses:
            scores[index] = {fold: score(fold, grid[index]) for fold in folds.tuned}
            scored = np.concatenate([scores[index][fold] for fold in folds.tuned])[in_scope]
            (factor,) = calibration.fit_factors([scored], targets[in_scope], [1.0])
            losses[index] = float(calibration.cross_entropies(scored * np.float32(factor), targets[in_scope]).mean())
        return losses[index]

    best = 1
    step = 1 if loss(2) < loss(1) else -1
    while 0 <= best + step < len(grid) and loss(best + step) < loss(best):
        best += step
    return grid[best], scores[best]
