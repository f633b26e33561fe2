"""Fits one squared-hinge linear classifier per label, all labels at once, by dual coordinate ascent.

The method is that of Hsieh, Chang, Lin, Keerthi and Sundararajan, "A Dual Coordinate Descent Method for Large-scale
Linear SVM" (ICML 2008), which liblinear uses for one label at a time. The labels' problems do not depend on one
another, so one pass over an example's features serves them all: a third of liblinear's time for 150 labels.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from scipy import sparse

# Few examples are visited until the fit has converged; many are visited this often, where accuracy has.
FEWEST_EPOCHS, MOST_EPOCHS = 10, 200
VISITS = 150_000
TOLERANCE = 0.02
LABELS_AT_ONCE = 40
ORDER_SEED = 20_080_705


def fit_one_vs_rest(
    features: sparse.csr_matrix, belongs: np.ndarray, inverse_regularisation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise, for each label, |w|^2 / 2 + C * sum of max(0, 1 - y * (w.x + b))^2; y is 1 where it belongs, else -1.

    Args:
        features: float32 [n, n_features].
        belongs: bool [n, n_labels].
        inverse_regularisation: C.

    Returns:
        Weights float32 [n_features, n_labels] and intercepts float32 [n_labels], the same on any number of cores.

    """
    rows, labels = belongs.shape
    random = np.random.default_rng(ORDER_SEED)
    orders = np.stack([random.permutation(rows) for _ in range(min(MOST_EPOCHS, max(FEWEST_EPOCHS, VISITS // rows)))])
    weights = np.zeros((features.shape[1], labels), dtype=np.float32)
    intercepts = np.zeros(labels, dtype=np.float32)

    def fit_some(columns: Sequence[int]) -> None:
        targets = np.where(belongs[:, columns], 1, -1).astype(np.int8)
        fitted, intercept = np.zeros((features.shape[1], len(columns)), np.float32), np.zeros(len(columns), np.float32)
        _ascend(
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

    # Parts of a fixed size, whatever the number of cores: each ends by itself, so another division would end elsewhere.
    parts = np.array_split(np.arange(labels), -(-labels // LABELS_AT_ONCE))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(fit_some, parts))
    return weights, intercepts


@numba.njit(nogil=True, fastmath=True)
def _ascend(indptr, indices, data, targets, ridge, orders, tolerance, weights, intercepts):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
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
