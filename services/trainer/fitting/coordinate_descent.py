"""Fits one squared-hinge linear classifier per label, all labels at once, by dual coordinate descent.

The method is that of Hsieh, Chang, Lin, Keerthi and Sundararajan, "A Dual Coordinate Descent Method for Large-scale
Linear SVM" (ICML 2008), which liblinear uses for one label at a time. Here one pass over an example's features updates
all labels, whose problems are independent of each other. For 150 labels that takes a third of liblinear's time.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from scipy import sparse

# Epochs: about VISITS visits of examples in all, within these bounds. With few examples the fit converges before that;
# with many, accuracy no longer changes after it.
FEWEST_EPOCHS, MOST_EPOCHS = 10, 200
VISITS = 150_000
TOLERANCE = 0.02
LABELS_AT_ONCE = 40
ORDER_SEED = 20_080_705


def fit_one_vs_rest(
    features: sparse.csr_matrix, label_matrix: np.ndarray, inverse_regularisation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise |w|^2 / 2 + C * sum of max(0, 1 - y * (w.x + b))^2 for each label, with y = 1 or -1.

    Args:
        features: float32 [n, n_features].
        label_matrix: bool [n, n_labels]; y is 1 where it is true.
        inverse_regularisation: C.

    Returns:
        Weights float32 [n_features, n_labels] and intercepts float32 [n_labels]. They do not depend on the number of
        cores.

    """
    rows, labels = label_matrix.shape
    random = np.random.default_rng(ORDER_SEED)
    orders = np.stack([random.permutation(rows) for _ in range(min(MOST_EPOCHS, max(FEWEST_EPOCHS, VISITS // rows)))])
    weights = np.zeros((features.shape[1], labels), dtype=np.float32)
    intercepts = np.zeros(labels, dtype=np.float32)

    def fit_block(columns: Sequence[int]) -> None:
        targets = np.where(label_matrix[:, columns], 1, -1).astype(np.int8)
        fitted, intercept = np.zeros((features.shape[1], len(columns)), np.float32), np.zeros(len(columns), np.float32)
        _descend(
            features.indptr,
            features.indices,
            features.data,
            targets,
            np.float32(1 / (2 * inverse_regularisation)),
            orders,
            np.float32(TOLERANCE),
            fitted,
            intercept,
        )
        weights[:, columns], intercepts[columns] = fitted, intercept

    # The labels of a block converge together, so the size of a block changes the result; the number of cores must not.
    blocks = np.array_split(np.arange(labels), -(-labels // LABELS_AT_ONCE))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(fit_block, blocks))
    return weights, intercepts


@numba.njit(nogil=True, fastmath=True)
def _descend(indptr, indices, data, targets, ridge, orders, tolerance, weights, intercepts):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Run epochs until the largest projected gradient of one is below the tolerance."""
    count = targets.shape[1]
    dual = np.zeros(targets.shape, np.float32)
    scores = np.empty(count, np.float32)
    steps = np.empty(count, np.float32)
    moved = np.empty(count, np.int32)
    for epoch in range(orders.shape[0]):
        largest = np.float32(0)
        for row in orders[epoch]:
            curvature = np.float32(1) + ridge
            for label in range(count):
                scores[label] = intercepts[label]
            for position in range(indptr[row], indptr[row + 1]):
                value = data[position]
                curvature += value * value
                weight = weights[indices[position]]
                for label in range(count):
                    scores[label] += value * weight[label]
            shrink = np.float32(1) / curvature
            moves = 0
            for label in range(count):
                target = np.float32(targets[row, label])
                old = dual[row, label]
                new = max(old - (target * scores[label] - np.float32(1) + old * ridge) * shrink, np.float32(0))
                if new != old:
                    dual[row, label] = new
                    steps[moves] = (new - old) * target
                    moved[moves] = label
                    moves += 1
                    largest = max(largest, abs(new - old) * curvature)
            for move in range(moves):
                intercepts[moved[move]] += steps[move]
            for position in range(indptr[row], indptr[row + 1]):
                value = data[position]
                weight = weights[indices[position]]
                for move in range(moves):
                    weight[moved[move]] += value * steps[move]
        if largest < tolerance:
            break
