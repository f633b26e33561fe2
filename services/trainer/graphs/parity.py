"""Checks that exported graphs answer as the fitted estimators do."""

from collections.abc import Sequence

import numpy as np

from services.trainer.errors import StageFailed

TOLERANCE = 1e-4
TIE_MARGIN = 1e-5


def check_parity(fitted: np.ndarray, exported: np.ndarray, texts: Sequence[str]) -> None:
    """Compare probabilities [n, n_labels] of the same n texts.

    The exported best label must be the fitted one or within TIE_MARGIN of it, and no probability may differ by more
    than TOLERANCE.

    Raises:
        StageFailed: names the first text on which the two differ.

    """
    rows = np.arange(len(texts))
    margin = fitted.max(axis=1) - fitted[rows, exported.argmax(axis=1)] if len(texts) else np.zeros(0)
    gap = np.abs(fitted - exported).max(axis=1) if len(texts) else np.zeros(0)
    wrong = np.flatnonzero(~((margin <= TIE_MARGIN) & (gap <= TOLERANCE)))
    if wrong.size:
        first = int(wrong[0])
        raise StageFailed(
            f"ONNX and scikit-learn differ on {wrong.size} of {len(texts)} texts, first on {texts[first]!r} "
            f"by {gap[first]:.2g}"
        )
