"""Chooses the confidence below which the linear stage lets the keyword stage answer."""

import numpy as np

PASSED_SHARE = 0.02
ABOVE_PRIOR = 1.02


def choose_min_confidence(held_out: np.ndarray, golden: np.ndarray, prior: np.ndarray) -> float:
    """Return the threshold.

    It lets the least confident 2 % of held-out queries pass, always what is answered from label frequencies alone,
    and never a golden query.

    Args:
        held_out: probabilities [n, n_labels] of the held-out queries.
        golden: probabilities [m, n_labels] of the golden queries.
        prior: probabilities [1, n_labels] of a text with no known word.

    """
    least = float(np.quantile(held_out.max(axis=1), PASSED_SHARE)) if len(held_out) else 0.0
    threshold = max(least, float(prior.max()) * ABOVE_PRIOR)
    return min(threshold, float(golden.max(axis=1).min())) if len(golden) else threshold
