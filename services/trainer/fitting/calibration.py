"""Turns out-of-fold scores into probabilities and thresholds. Pure functions; nothing here fits a model.

Confidence is the softmax of scores times a temperature that minimises cross-entropy. A query far from all that was
learned has low scores for every label, which a softmax over labels forgets. So the transformer stage has the score of
one more outcome, "no label at all", set where the least familiar queries lie by the logarithm of the sum of exponential
scores. The linear stage tells the unfamiliar less well (with the same it would lose calibration and gain little); it
hands the queries with the lowest best scores on instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize
from scipy.special import expit, logsumexp

UNFAMILIAR_SHARE = 0.015
# Share of queries that the linear stage hands on for their low scores alone.
LOW_SCORE_SHARE = 0.13
# How many right answers an escalated query must gain, and what abstaining may cost in coverage.
GAIN_FOR_TIME = 0.013
COVERAGE = 0.95
CURVE_POINTS = 200


@dataclass(frozen=True)
class EscalationPoint:
    """The cascade when queries below the margin are escalated: their share, and the accuracy, in [0, 1]."""

    margin: float
    escalated: float
    accuracy: float


@dataclass(frozen=True)
class AbstentionPoint:
    """The last stage when queries below the threshold are abstained from: share answered and accuracy, in [0, 1]."""

    threshold: float
    coverage: float
    accuracy: float


@dataclass(frozen=True)
class Thresholds:
    """Where a stage stops to answer.

    Attributes:
        alone: confidence of the linear stage, when no transformer stage is asked after it.
        margin: of the linear stage's two best scores, when there is one.
        score: the linear stage's best score, when there is one.
        transformer: confidence of the transformer stage.

    """

    alone: float
    margin: float = 0.0
    score: float = 0.0
    transformer: float = 0.0

    def escalated(self, scores: np.ndarray) -> np.ndarray:
        """Say for calibrated scores [n, n_labels] of the linear stage whether it hands the query on, bool [n]."""
        return np.asarray((margins(scores) < self.margin) | (scores.max(axis=1) < self.score))


def cross_entropies(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return [n], the cross-entropy of the softmax of each row of scores to its distribution, both [n, n_labels]."""
    return np.asarray(logsumexp(scores, axis=1) - (scores * targets).sum(axis=1))


def fit_shares(parts: Sequence[np.ndarray], targets: np.ndarray, start: Sequence[float]) -> tuple[float, ...]:
    """Return the factors, not negative, whose weighted sum of scores [n, n_labels] has the least cross-entropy."""

    def loss(shares: np.ndarray) -> tuple[float, np.ndarray]:
        scores = sum(share * part for share, part in zip(shares, parts, strict=True))
        surplus = np.exp(scores - logsumexp(scores, axis=1, keepdims=True)) - targets
        slope = np.array([np.vdot(surplus, part) for part in parts], dtype=np.float64)
        return float(cross_entropies(np.asarray(scores), targets).mean()), slope / len(targets)

    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(parts))
    return tuple(float(share) for share in found.x)


def score_of_unknown(scores: np.ndarray) -> float:
    """Return the score of "no label at all" for calibrated scores [n, n_labels] of queries that have a label."""
    return float(np.quantile(logsumexp(scores, axis=1), UNFAMILIAR_SHARE)) if len(scores) else -np.inf


def confidences(scores: np.ndarray, unknown: float = -np.inf) -> np.ndarray:
    """Return the probability of the best label of each row of calibrated scores [n, n_labels]."""
    every = np.logaddexp(logsumexp(scores, axis=1), unknown)
    return np.asarray(np.exp(scores.max(axis=1) - every))


def margins(scores: np.ndarray) -> np.ndarray:
    """Return [n], by how much the best of calibrated scores [n, n_labels] exceeds the next: the log of their odds."""
    best_two = np.partition(scores, -2, axis=1)[:, -2:]
    return np.asarray(best_two[:, 1] - best_two[:, 0])


def escalation_curve(
    scores: np.ndarray, lowest_score: float, right: np.ndarray, right_above: np.ndarray
) -> list[EscalationPoint]:
    """Return the cascade's accuracy by margin, least escalated first.

    Args:
        scores: calibrated, of the linear stage, [n, n_labels].
        lowest_score: queries whose best score is lower are escalated at any margin.
        right: whether the linear stage is right, bool [n].
        right_above: whether the transformer stage is, bool [n].

    """
    margin, low = margins(scores), scores.max(axis=1) < lowest_score
    points = []
    for threshold in (0.0, *np.quantile(margin, np.arange(1, CURVE_POINTS) / CURVE_POINTS), np.inf):
        escalated = low | (margin < threshold)
        accuracy = float(np.where(escalated, right_above, right).mean())
        points.append(EscalationPoint(float(threshold), float(escalated.mean()), accuracy))
    return points


def choose_escalation(margin: np.ndarray, right: np.ndarray, right_above: np.ndarray) -> float:
    """Return the margin below which escalating a query is expected to gain GAIN_FOR_TIME right answers.

    What it gains (the linear stage is wrong, the transformer stage right) and loses (the reverse) are logistic in the
    margin. Reading the threshold off the measured curve instead moves it by half of its range from one draw of the
    data to the next, because the curve is flat there: a single query among thousands decides.

    Args:
        margin: of the linear stage, [n].
        right: whether it is right, bool [n].
        right_above: whether the transformer stage is, bool [n].

    """
    tried = np.linspace(0, float(margin.max(initial=0.0)), 10 * CURVE_POINTS)
    gain = _logistic(margin, right_above & ~right)(tried) - _logistic(margin, right & ~right_above)(tried)
    worth = np.flatnonzero(gain >= GAIN_FOR_TIME)
    if not len(worth):
        return 0.0
    return float(tried[worth[-1]]) if worth[-1] + 1 < len(tried) else np.inf


def _logistic(margin: np.ndarray, event: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the probability of an event as a function of the margin, fitted by maximum likelihood."""

    def loss(line: np.ndarray) -> float:
        scores = line[0] + line[1] * margin
        return float((np.logaddexp(0, scores) - event * scores).mean())

    # Bounded, so that an event that never happened gets a small probability instead of none.
    line = optimize.minimize(loss, [-3.0, -0.3], method="L-BFGS-B", bounds=[(-20, 20), (-20, 20)]).x
    return lambda at: np.asarray(expit(line[0] + line[1] * at))


def abstention_curve(confidence: np.ndarray, right: np.ndarray) -> list[AbstentionPoint]:
    """Return share answered and accuracy by threshold, least abstained first; confidence [n] and bool [n]."""
    thresholds = np.quantile(confidence, np.arange(0, CURVE_POINTS // 2) / CURVE_POINTS)
    return [
        AbstentionPoint(
            float(threshold),
            float((confidence >= threshold).mean()),
            float(right[confidence >= threshold].mean()),
        )
        for threshold in thresholds
    ]


def choose_abstention(in_scope: np.ndarray, out_of_scope: np.ndarray) -> float:
    """Return the abstain threshold for confidences [n] of queries with a label and [m] of queries without one.

    Without any of the latter, the least confident twentieth of the former is given up. With some, what is given up of
    the former and what is answered of the latter are least together, but never more than that twentieth is given up.
    """
    highest = float(np.quantile(in_scope, 1 - COVERAGE))
    if not len(out_of_scope):
        return highest
    just_above = np.nextafter(out_of_scope[out_of_scope < highest].astype(np.float64), 1.0)
    candidates = np.unique(np.append(just_above, highest))
    costs = [(in_scope < each).mean() + (out_of_scope >= each).mean() for each in candidates]
    return float(candidates[int(np.argmin(costs))])
