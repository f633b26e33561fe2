"""The transformer stage's head: multinomial logistic regression on embeddings, blended with the linear stage's scores.

It is fitted to the leading principal components of the embeddings, each scaled by the curvature of the loss along it:
L-BFGS then needs tens of iterations instead of hundreds. The fitted weights are converted back, so that they apply to
the embedding itself. Targets are distributions: an example with k labels has 1/k for each of them, and one without
labels the same for every label.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import numpy as np
from scipy import optimize
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from threadpoolctl import ThreadpoolController

from services.trainer.fitting.components import Components, find_components, float32_chunks

# A relative change of the loss below `ftol` ends the fit.
OPTIONS = {"maxiter": 60, "ftol": 1e-4, "maxcor": 5}
LOWEST_EXPONENT = np.float32(-60)


class HeadClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Logistic regression on embeddings, and the blend of its scores with those of the linear stage.

    Attributes:
        weights_: float32 [columns, n_labels].
        intercepts_: float32 [n_labels].
        solution_: float32 [n_components + 1, n_labels], weights and intercepts in the space of the components.
        embedding_factor_, linear_factor_, unknown_score_: see `blend`.

    """

    def __init__(self, inverse_regularisation: float = 10.0) -> None:
        self.inverse_regularisation = inverse_regularisation

    def fit(self, embeddings: np.ndarray, targets: np.ndarray) -> Self:
        """Fit to embeddings [n, columns] and target distributions float32 [n, n_labels]."""
        return self.fit_components(find_components(embeddings), np.arange(len(targets)), targets)

    def fit_components(
        self, components: Components, rows: np.ndarray, targets: np.ndarray, start: "HeadClassifier | None" = None
    ) -> Self:
        """Fit to some rows of projected embeddings.

        Args:
            components: of all examples.
            rows: indices of the examples to fit to, [n].
            targets: distributions of these rows, float32 [n, n_labels].
            start: a head fitted to the same components, from which the search begins; it saves iterations.

        """
        labels = targets.shape[1]
        curvature = (1 - 1 / labels) / labels
        ridge = 1 / self.inverse_regularisation
        scale = np.append(
            1 / np.sqrt(components.variances * curvature + ridge), 1 / np.sqrt(len(rows) * curvature)
        ).astype(np.float32)[:, None]
        projected = components.projected[rows]
        scores = np.empty(targets.shape, dtype=np.float32)

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weights = flat.reshape(-1, labels).astype(np.float32) * scale
            value, slope = _cross_entropy(projected, targets, weights, ridge, scores)
            return value, (slope * scale).ravel().astype(np.float64)

        begin = start.solution_ / scale if start else np.zeros((projected.shape[1] + 1, labels))
        with _scipy_on_one_thread():
            found = optimize.minimize(loss, begin.ravel(), jac=True, method="L-BFGS-B", options=OPTIONS)
        self.solution_: np.ndarray = found.x.reshape(-1, labels).astype(np.float32) * scale
        self.weights_ = components.directions @ self.solution_[:-1]
        self.intercepts_ = self.solution_[-1] - components.center @ self.weights_
        self.classes_ = np.arange(labels)
        return self.blend(1.0, 0.0, -np.inf)

    def blend(self, embedding_factor: float, linear_factor: float, unknown_score: float) -> Self:
        """Set the factors by which the scores of head and linear stage are added, and the score of "unknown"."""
        self.embedding_factor_, self.linear_factor_ = embedding_factor, linear_factor
        self.unknown_score_ = unknown_score
        return self

    def embedding_scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Return scores float32 [n, n_labels] of embeddings [n, columns], not blended."""
        return np.concatenate([chunk @ self.weights_ + self.intercepts_ for chunk in float32_chunks(embeddings)])

    def component_scores(self, components: Components, rows: np.ndarray) -> np.ndarray:
        """Return scores float32 [n, n_labels] of rows of projected embeddings, not blended."""
        return np.asarray(components.projected[rows] @ self.solution_[:-1] + self.solution_[-1])

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Return probabilities float32 [n, n_labels]; 1 minus the sum of a row is the probability of "unknown".

        Args:
            features: float32 [n, columns + n_labels], embeddings beside the linear stage's calibrated scores.

        """
        columns, labels = self.weights_.shape
        scores = self.embedding_scores(features[:, :columns]) * np.float32(self.embedding_factor_)
        scores += features[:, columns:] * np.float32(self.linear_factor_)
        unknown = np.full((len(scores), 1), self.unknown_score_, dtype=np.float32)
        return np.asarray(softmax(np.hstack([scores, unknown]), axis=1)[:, :labels])


@contextmanager
def _scipy_on_one_thread() -> Iterator[None]:
    """Keep SciPy's BLAS on one thread: it is not NumPy's, and its waiting threads double the time of a fit."""
    libraries = [library for library in ThreadpoolController().lib_controllers if "scipy.libs" in library.filepath]
    threads = [library.num_threads for library in libraries]
    try:
        for library in libraries:
            library.set_num_threads(1)
        yield
    finally:
        for library, number in zip(libraries, threads, strict=True):
            library.set_num_threads(number)


def _cross_entropy(
    features: np.ndarray, targets: np.ndarray, weights: np.ndarray, ridge: float, scores: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the regularised loss and its gradient for weights [n_features + 1, n_labels], intercepts in the last row.

    Args:
        features: float32 [n, n_features].
        targets: distributions float32 [n, n_labels].
        weights: float32.
        ridge: factor of half the squared weights.
        scores: float32 [n, n_labels], overwritten, so that no step of the search allocates it anew.

    """
    np.matmul(features, weights[:-1], out=scores)
    scores += weights[-1]
    scores -= scores.max(axis=1, keepdims=True)
    value = -float(np.vdot(targets, scores))
    # Below this exponent float32 numbers are subnormal, and multiplying those takes a hundred times longer.
    np.maximum(scores, LOWEST_EXPONENT, out=scores)
    np.exp(scores, out=scores)
    total = scores.sum(axis=1, keepdims=True)
    value += float(np.log(total, dtype=np.float64).sum()) + 0.5 * ridge * float(np.vdot(weights[:-1], weights[:-1]))
    scores /= total
    scores -= targets
    slope = np.empty_like(weights)
    np.matmul(features.T, scores, out=slope[:-1])
    slope[:-1] += np.float32(ridge) * weights[:-1]
    slope[-1] = scores.sum(axis=0)
    return value, slope
