import numpy as np
import pytest

from services.trainer.fitting import calibration
from services.trainer.fitting.calibration import Thresholds

CHANCE = np.random.default_rng(7)
TRUTH = CHANCE.integers(0, 4, 4000)
TARGETS = np.eye(4, dtype=np.float32)[TRUTH]
# Scores whose softmax is the true probability of being right, made three times too small.
SCORES = (TARGETS * 1.5 + CHANCE.gumbel(size=(4000, 4))).astype(np.float32)


def test_temperature_that_was_taken_away_is_found_again() -> None:
    (right,) = calibration.fit_shares([SCORES], TARGETS, [1.0])
    (found,) = calibration.fit_shares([SCORES / 3], TARGETS, [1.0])
    assert found == pytest.approx(3 * right, rel=1e-2)


def test_share_of_noise_in_a_blend_is_nothing() -> None:
    noise = CHANCE.normal(size=SCORES.shape).astype(np.float32)
    signal_share, noise_share = calibration.fit_shares([SCORES, noise], TARGETS, [1.0, 1.0])
    assert noise_share < 0.1 * signal_share


def test_share_is_never_negative() -> None:
    assert calibration.fit_shares([-SCORES], TARGETS, [1.0]) == (0.0,)


def test_query_with_low_scores_for_every_label_loses_confidence() -> None:
    unknown = calibration.score_of_unknown(SCORES)
    familiar, unfamiliar = np.array([[9.0, 0.0, 0.0, 0.0]]), np.array([[1.0, -8.0, -8.0, -8.0]])
    confidence, low = calibration.confidences(familiar, unknown), calibration.confidences(unfamiliar, unknown)
    assert calibration.confidences(familiar) == pytest.approx(calibration.confidences(unfamiliar), abs=1e-3)
    assert confidence[0] > 0.95 > low[0] + 0.2


def test_margin_is_the_distance_of_the_best_two_scores() -> None:
    assert calibration.margins(np.array([[1.0, 4.0, 2.5], [0.0, 0.0, -1.0]])).tolist() == [1.5, 0.0]


def test_queries_are_escalated_as_long_as_they_gain() -> None:
    margin = CHANCE.uniform(0, 10, 20_000)
    wrong = CHANCE.uniform(size=20_000) < 0.5 * np.exp(-margin)
    chosen = calibration.choose_escalation(margin, ~wrong, np.ones(20_000, dtype=bool))
    assert chosen == pytest.approx(-np.log(calibration.GAIN_FOR_TIME / 0.5), abs=0.5)


def test_stage_above_that_is_no_better_is_never_asked() -> None:
    margin, right = CHANCE.uniform(0, 10, 1000), CHANCE.uniform(size=1000) < 0.9
    assert calibration.choose_escalation(margin, right, right) == 0.0


def test_stage_above_that_is_always_better_is_always_asked() -> None:
    margin, wrong = CHANCE.uniform(0, 10, 1000), CHANCE.uniform(size=1000) < 0.5
    assert calibration.choose_escalation(margin, ~wrong, np.ones(1000, dtype=bool)) == np.inf


def test_curve_runs_from_what_low_scores_escalate_to_everything() -> None:
    scores = np.array([[5.0, 0.0], [4.0, 3.0], [0.5, 0.4], [3.0, 0.0]])
    right, above = np.array([True, False, False, True]), np.array([True, True, True, False])
    curve = calibration.escalation_curve(scores, 1.0, right, above)
    assert (curve[0].escalated, curve[0].accuracy) == (0.25, 0.75)
    assert (curve[-1].escalated, curve[-1].accuracy) == (1.0, 0.75)
    assert max(point.accuracy for point in curve) == 1.0


def test_without_out_of_scope_examples_a_twentieth_is_given_up() -> None:
    confidence = np.linspace(0, 1, 1001)
    assert calibration.choose_abstention(confidence, np.zeros(0)) == pytest.approx(0.05)


def test_with_out_of_scope_examples_less_is_given_up_when_that_is_enough() -> None:
    confidence, outside = np.linspace(0, 1, 1001), np.array([0.001, 0.002, 0.01, 0.015])
    threshold = calibration.choose_abstention(confidence, outside)
    assert threshold == pytest.approx(0.015)
    assert calibration.choose_abstention(confidence, np.array([0.9, 0.95])) == pytest.approx(0.05)


def test_thresholds_escalate_by_margin_or_by_score() -> None:
    thresholds = Thresholds(0.5, margin=1.0, score=0.0, transformer=0.5)
    scores = np.array([[3.0, 1.0], [3.0, 2.5], [-1.0, -9.0]])
    assert thresholds.escalated(scores).tolist() == [False, True, True]
