"""Turns scores into probabilities that can be trusted. Pure functions of out-of-fold scores.

A stage's probabilities are the softmax of its scores times a factor, the inverse temperature, that minimises
cross-entropy (Guo, Pleiss, Sun and Weinberger, ICML 2017).

A query unlike all examples has low scores for every label, but softmax discards the overall level of the scores. The
transformer stage therefore has one more outcome, "unknown", with a fixed score: the 1.5 % quantile of the log-sum-exp
of the scores of in-scope examples. Queries below it get less than half of the probability for all labels together. The
linear stage has no such outcome: it separates unfamiliar queries less well, and calibration would suffer for little
gain. Instead it escalates queries whose best score is low; see `thresholds`.
"""

from collections.abc import Sequence

import numpy as np
from scipy import optimize
from scipy.special import logsumexp

UNFAMILIAR_SHARE = 0.015


def cross_entropies(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return [n], the cross-entropy between the softmax of scores and target distributions, both [n, n_labels]."""
    return np.asarray(logsumexp(scores, axis=1) - (scores * targets).sum(axis=1))


def fit_factors(scores: Sequence[np.ndarray], targets: np.ndarray, start: Sequence[float]) -> tuple[float, ...]:
    """Return one non-negative factor for each array of scores, so that their weighted sum has the least cross-entropy.

    Args:
        scores: arrays [n, n_labels]; the factor of a single array is its inverse temperature.
        targets: distributions over the labels, [n, n_labels].
        start: the factors at which the search begins.

    """

    def loss(factors: np.ndarray) -> tuple[float, np.ndarray]:
        blended = sum(factor * array for factor, array in zip(factors, scores, strict=True))
        surplus = np.exp(blended - logsumexp(blended, axis=1, keepdims=True)) - targets
        slope = np.array([np.vdot(surplus, array) for array in scores], dtype=np.float64)
        return float(cross_entropies(np.asarray(blended), targets).mean()), slope / len(targets)

    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(scores))
    return tuple(float(factor) for factor in found.x)


def choose_unknown_score(scores: np.ndarray) -> float:
    """Return the score of the outcome "unknown", given calibrated scores [n, n_labels] of in-scope examples."""
    return float(np.quantile(logsumexp(scores, axis=1), UNFAMILIAR_SHARE)) if len(scores) else -np.inf


def confidences(scores: np.ndarray, unknown_score: float = -np.inf) -> np.ndarray:
    """Return [n], the probability of the best label of each row of calibrated scores [n, n_labels]."""
    total = np.logaddexp(logsumexp(scores, axis=1), unknown_score)
    return np.asarray(np.exp(scores.max(axis=1) - total))
