"""Chooses below which values a stage gives no answer, and hands a query on.

The linear stage escalates a query to the next stage when its best two scores are close together (the margin is small)
or when its best score is low. The last stage abstains when its confidence is low. All functions here are pure.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize
from scipy.special import expit

# Share of in-scope queries that the linear stage escalates for a low best score alone.
LOW_SCORE_SHARE = 0.13
# Escalating a query takes time; it must raise the expected number of right answers by this much.
LEAST_GAIN = 0.013
# Share of in-scope queries that are answered at least.
COVERAGE = 0.95
CURVE_POINTS = 200


@dataclass(frozen=True)
class EscalationPoint:
    """The cascade when queries below a margin are escalated: their share, and the accuracy, in [0, 1]."""

    margin: float
    escalated: float
    accuracy: float


@dataclass(frozen=True)
class AbstentionPoint:
    """The last stage when it abstains below a confidence: the share answered and their accuracy, in [0, 1]."""

    threshold: float
    coverage: float
    accuracy: float


@dataclass(frozen=True)
class Thresholds:
    """Below which values a stage does not answer.

    Attributes:
        alone: confidence of the linear stage, when there is no transformer stage.
        margin: difference of the linear stage's best two scores, when there is a transformer stage.
        score: best score of the linear stage, when there is a transformer stage.
        transformer: confidence of the transformer stage.

    """

    alone: float
    margin: float = 0.0
    score: float = 0.0
    transformer: float = 0.0

    def escalates(self, scores: np.ndarray) -> np.ndarray:
        """Say for calibrated scores [n, n_labels] of the linear stage whether it escalates the query, bool [n]."""
        return np.asarray((margins(scores) < self.margin) | (scores.max(axis=1) < self.score))


@dataclass(frozen=True)
class Answers:
    """A cascade's answers to n queries.

    Attributes:
        probabilities: float32 [n, n_labels], of the stage that answers the query.
        escalated: bool [n], whether that is the transformer stage.
        answered: bool [n], false where that stage abstains.

    """

    probabilities: np.ndarray
    escalated: np.ndarray
    answered: np.ndarray

    @property
    def confidences(self) -> np.ndarray:
        """The probability of the best label, [n]."""
        return np.asarray(self.probabilities.max(axis=1, initial=0.0))

    def select(self, rows: np.ndarray) -> "Answers":
        """Return the answers to some of the queries; `rows` are indices or a mask."""
        return Answers(self.probabilities[rows], self.escalated[rows], self.answered[rows])


def margins(scores: np.ndarray) -> np.ndarray:
    """Return [n], the log-odds of the best label against the second, for calibrated scores [n, n_labels]."""
    best_two = np.partition(scores, -2, axis=1)[:, -2:]
    return np.asarray(best_two[:, 1] - best_two[:, 0])


def escalation_curve(
    scores: np.ndarray, lowest_score: float, linear_right: np.ndarray, transformer_right: np.ndarray
) -> list[EscalationPoint]:
    """Return the cascade's accuracy by margin, the smallest margin first.

    Args:
        scores: calibrated, of the linear stage, [n, n_labels].
        lowest_score: queries whose best score is lower are escalated at every margin.
        linear_right: whether the linear stage answers rightly, bool [n].
        transformer_right: whether the transformer stage does, bool [n].

    """
    margin, low = margins(scores), scores.max(axis=1) < lowest_score
    points = []
    for threshold in (0.0, *np.quantile(margin, np.arange(1, CURVE_POINTS) / CURVE_POINTS), np.inf):
        escalated = low | (margin < threshold)
        accuracy = float(np.where(escalated, transformer_right, linear_right).mean())
        points.append(EscalationPoint(float(threshold), float(escalated.mean()), accuracy))
    return points


def choose_margin(margin: np.ndarray, linear_right: np.ndarray, transformer_right: np.ndarray) -> float:
    """Return the margin below which escalating a query is expected to gain LEAST_GAIN right answers or more.

    The probabilities that the transformer stage corrects the linear one, and that it spoils a right answer, are
    modelled as logistic functions of the margin. The threshold is not read off the measured curve, because the curve
    is flat there: a few queries among thousands would move it by half of its range.

    Args:
        margin: of the linear stage, [n].
        linear_right: whether the linear stage answers rightly, bool [n].
        transformer_right: whether the transformer stage does, bool [n].

    """
    candidates = np.linspace(0, float(margin.max(initial=0.0)), 10 * CURVE_POINTS)
    corrected = _fit_logistic(margin, transformer_right & ~linear_right)
    spoilt = _fit_logistic(margin, linear_right & ~transformer_right)
    worth = np.flatnonzero(corrected(candidates) - spoilt(candidates) >= LEAST_GAIN)
    if not len(worth):
        return 0.0
    return float(candidates[worth[-1]]) if worth[-1] + 1 < len(candidates) else np.inf


def _fit_logistic(margin: np.ndarray, event: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the probability of an event as a function of the margin, fitted by maximum likelihood."""

    def loss(line: np.ndarray) -> float:
        scores = line[0] + line[1] * margin
        return float((np.logaddexp(0, scores) - event * scores).mean())

    # With bounds, an event that never happened gets a small probability instead of none.
    line = optimize.minimize(loss, [-3.0, -0.3], method="L-BFGS-B", bounds=[(-20, 20), (-20, 20)]).x
    return lambda at: np.asarray(expit(line[0] + line[1] * at))


def abstention_curve(confidence: np.ndarray, right: np.ndarray) -> list[AbstentionPoint]:
    """Return coverage and accuracy by threshold, the lowest first, for confidences [n] and right answers bool [n]."""
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
    """Return the confidence below which a stage abstains.

    Without out-of-scope examples it is the 5 % quantile of the in-scope confidences. With some, it minimises the share
    of in-scope queries that are abstained from plus the share of out-of-scope queries that are answered, and is never
    above that quantile.

    Args:
        in_scope: confidences of examples with a label, [n].
        out_of_scope: confidences of examples without one, [m].

    """
    highest = float(np.quantile(in_scope, 1 - COVERAGE))
    if not len(out_of_scope):
        return highest
    just_above = np.nextafter(out_of_scope[out_of_scope < highest].astype(np.float64), 1.0)
    candidates = np.unique(np.append(just_above, highest))
    costs = [(in_scope < candidate).mean() + (out_of_scope >= candidate).mean() for candidate in candidates]
    return float(candidates[int(np.argmin(costs))])
