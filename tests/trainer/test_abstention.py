import numpy as np

from services.trainer.abstention import choose_min_confidence

HELD_OUT = np.array([[p, 1 - p] for p in np.linspace(0.5, 1.0, 101)])
PRIOR = np.array([[0.3, 0.2]])


def test_least_confident_two_percent_pass() -> None:
    threshold = choose_min_confidence(HELD_OUT, np.zeros((0, 2)), PRIOR)
    assert 0.505 < threshold < 0.515


def test_answer_from_label_frequencies_alone_always_passes() -> None:
    assert choose_min_confidence(HELD_OUT, np.zeros((0, 2)), np.array([[0.9, 0.1]])) > 0.9


def test_golden_query_never_passes() -> None:
    assert choose_min_confidence(HELD_OUT, np.array([[0.45, 0.4]]), PRIOR) == 0.45
