import numpy as np
import pytest

from services.trainer.fitting import thresholds
from services.trainer.fitting.thresholds import Answers, Thresholds

CHANCE = np.random.default_rng(7)


def test_margin_is_the_distance_of_the_best_two_scores() -> None:
    assert thresholds.margins(np.array([[1.0, 4.0, 2.5], [0.0, 0.0, -1.0]])).tolist() == [1.5, 0.0]


def test_queries_are_escalated_as_long_as_they_gain() -> None:
    margin = CHANCE.uniform(0, 10, 20_000)
    wrong = CHANCE.uniform(size=20_000) < 0.5 * np.exp(-margin)
    chosen = thresholds.choose_margin(margin, ~wrong, np.ones(20_000, dtype=bool))
    assert chosen == pytest.approx(-np.log(thresholds.LEAST_GAIN / 0.5), abs=0.5)


def test_stage_above_that_is_no_better_is_never_asked() -> None:
    margin, right = CHANCE.uniform(0, 10, 1000), CHANCE.uniform(size=1000) < 0.9
    assert thresholds.choose_margin(margin, right, right) == 0.0


def test_stage_above_that_is_always_better_is_always_asked() -> None:
    margin, wrong = CHANCE.uniform(0, 10, 1000), CHANCE.uniform(size=1000) < 0.5
    assert thresholds.choose_margin(margin, ~wrong, np.ones(1000, dtype=bool)) == np.inf


def test_curve_runs_from_what_low_scores_escalate_to_everything() -> None:
    scores = np.array([[5.0, 0.0], [4.0, 3.0], [0.5, 0.4], [3.0, 0.0]])
    right, above = np.array([True, False, False, True]), np.array([True, True, True, False])
    curve = thresholds.escalation_curve(scores, 1.0, right, above)
    assert (curve[0].escalated, curve[0].accuracy) == (0.25, 0.75)
    assert (curve[-1].escalated, curve[-1].accuracy) == (1.0, 0.75)
    assert max(point.accuracy for point in curve) == 1.0


def test_without_out_of_scope_examples_a_twentieth_is_given_up() -> None:
    confidence = np.linspace(0, 1, 1001)
    assert thresholds.choose_abstention(confidence, np.zeros(0)) == pytest.approx(0.05)


def test_with_out_of_scope_examples_less_is_given_up_when_that_is_enough() -> None:
    confidence, outside = np.linspace(0, 1, 1001), np.array([0.001, 0.002, 0.01, 0.015])
    threshold = thresholds.choose_abstention(confidence, outside)
    assert threshold == pytest.approx(0.015)
    assert thresholds.choose_abstention(confidence, np.array([0.9, 0.95])) == pytest.approx(0.05)


def test_thresholds_escalate_by_margin_or_by_score() -> None:
    found = Thresholds(0.5, margin=1.0, score=0.0, transformer=0.5)
    scores = np.array([[3.0, 1.0], [3.0, 2.5], [-1.0, -9.0]])
    assert found.escalates(scores).tolist() == [False, True, True]


def test_answers_are_selected_row_by_row() -> None:
    answers = Answers(np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([False, True]), np.array([True, False]))
    selected = answers.select(np.array([False, True]))
    assert selected.confidences.tolist() == [0.7]
    assert (selected.escalated.tolist(), selected.answered.tolist()) == ([True], [False])
