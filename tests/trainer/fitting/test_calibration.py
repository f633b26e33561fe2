import numpy as np
import pytest

from services.trainer.fitting import calibration

CHANCE = np.random.default_rng(7)
TRUTH = CHANCE.integers(0, 4, 4000)
TARGETS = np.eye(4, dtype=np.float32)[TRUTH]
# Scores whose softmax is the true probability of being right, made three times too small.
SCORES = (TARGETS * 1.5 + CHANCE.gumbel(size=(4000, 4))).astype(np.float32)


def test_inverse_temperature_that_was_taken_away_is_found_again() -> None:
    (right,) = calibration.fit_factors([SCORES], TARGETS, [1.0])
    (found,) = calibration.fit_factors([SCORES / 3], TARGETS, [1.0])
    assert found == pytest.approx(3 * right, rel=1e-2)


def test_noise_gets_next_to_no_factor_in_a_blend() -> None:
    noise = CHANCE.normal(size=SCORES.shape).astype(np.float32)
    signal_factor, noise_factor = calibration.fit_factors([SCORES, noise], TARGETS, [1.0, 1.0])
    assert noise_factor < 0.1 * signal_factor


def test_factor_is_never_negative() -> None:
    assert calibration.fit_factors([-SCORES], TARGETS, [1.0]) == (0.0,)


def test_query_with_low_scores_for_every_label_loses_confidence() -> None:
    unknown = calibration.choose_unknown_score(SCORES)
    familiar, unfamiliar = np.array([[9.0, 0.0, 0.0, 0.0]]), np.array([[1.0, -8.0, -8.0, -8.0]])
    confidence, low = calibration.confidences(familiar, unknown), calibration.confidences(unfamiliar, unknown)
    assert calibration.confidences(familiar) == pytest.approx(calibration.confidences(unfamiliar), abs=1e-3)
    assert confidence[0] > 0.95 > low[0] + 0.2
