"""The transformer stage's head: multinomial logistic regression on embeddings, blended with the linear stage's scores.

It is fitted in the space of the embeddings' leading principal components, each scaled by the curvature of the loss
along it, where L-BFGS needs tens of iterations instead of hundreds; the weights it ends with are those of the embedding
itself. Targets are distributions over labels, so an example with several labels is learned as what it is, and one
without a label as no preference for any.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import optimize
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from threadpoolctl import ThreadpoolController

MAX_COMPONENTS = 400
# A relative change of the loss below `ftol` ends the fit.
OPTIONS = {"maxiter": 60, "ftol": 1e-4, "maxcor": 5}
LOWEST_EXPONENT = np.float32(-60)
CHUNK_ROWS = 8192


@dataclass(frozen=True)
class Components:
    """Leading principal components of some embeddings.

    Attributes:
        center: float32 [columns].
        directions: float32 [columns, n_components].
        variances: float32 [n_components], sums of squares along each over all examples.
        projected: float32 [n_examples, n_components].

    """

    center: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    projected: np.ndarray


def principal_components(embeddings: np.ndarray, most: int = MAX_COMPONENTS) -> Components:
    """Return the leading components of [n, columns], scaled so that a centred embedding's mean squared length is 1."""
    center = embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
    gram = np.zeros((embeddings.shape[1], embeddings.shape[1]))
    for chunk in _chunks(embeddings, center):
        gram += chunk.T @ chunk
    count = min(most, len(embeddings), embeddings.shape[1])
    variances, directions = np.linalg.eigh(gram)
    variances, directions = variances[-count:], directions[:, -count:]
    scale = float(np.sqrt(len(embeddings) / max(np.trace(gram), np.finfo(np.float32).tiny)))
    directions = (directions[:, ::-1] * scale).astype(np.float32)
    projected = np.concatenate([chunk @ directions for chunk in _chunks(embeddings, center)])
    return Components(center, directions, np.maximum(variances[::-1] * scale**2, 0).astype(np.float32), projected)


class HeadClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Logistic regression on embeddings, and what mixes its scores with those of the linear stage.

    Attributes:
        weights_: float32 [columns, n_labels]; intercepts_: float32 [n_labels].
        embedding_share_, linear_share_, unknown_: see `blended`.

    """

    def __init__(self, inverse_regularisation: float = 10.0) -> None:
        self.inverse_regularisation = inverse_regularisation

    def fit(self, embeddings: np.ndarray, targets: np.ndarray) -> Self:
        """Fit to [n, columns] and distributions float32 [n, n_labels]."""
        return self.fit_components(principal_components(embeddings), np.arange(len(targets)), targets)

    def fit_components(
        self, components: Components, rows: np.ndarray, targets: np.ndarray, start: "HeadClassifier | None" = None
    ) -> Self:
        """Fit to some rows of projected embeddings; `targets` are those of these rows.

        Args:
            start: a head fitted in the same components to begin from, which saves iterations and changes nothing else.

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
        return self.blended(1.0, 0.0, -np.inf)

    def blended(self, embedding_share: float, linear_share: float, unknown: float) -> Self:
        """Set what a label's score is: the two shares of the two stages' scores; and the score of no label."""
        self.embedding_share_, self.linear_share_, self.unknown_ = embedding_share, linear_share, unknown
        return self

    def embedding_scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Return float32 [n, n_labels] from embeddings alone."""
        return np.concatenate([chunk @ self.weights_ + self.intercepts_ for chunk in _chunks(embeddings)])

    def component_scores(self, components: Components, rows: np.ndarray) -> np.ndarray:
        """Return what `embedding_scores` does, for rows that are projected already."""
        return np.asarray(components.projected[rows] @ self.solution_[:-1] + self.solution_[-1])

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Return float32 [n, n_labels]; what a row lacks to 1 is the probability of no label at all.

        Args:
            features: float32 [n, columns + n_labels], embeddings beside the linear stage's calibrated scores.

        """
        columns, labels = self.weights_.shape
        scores = self.embedding_scores(features[:, :columns]) * np.float32(self.embedding_share_)
        scores += features[:, columns:] * np.float32(self.linear_share_)
        unknown = np.full((len(scores), 1), self.unknown_, dtype=np.float32)
        return np.asarray(softmax(np.hstack([scores, unknown]), axis=1)[:, :labels])


def _chunks(embeddings: np.ndarray, center: np.ndarray | None = None) -> list[np.ndarray]:
    chunks = (embeddings[start : start + CHUNK_ROWS] for start in range(0, max(1, len(embeddings)), CHUNK_ROWS))
    return [chunk.astype(np.float32) - (0 if center is None else center) for chunk in chunks]


@contextmanager
def _scipy_on_one_thread() -> Iterator[None]:
    """Keep SciPy's BLAS from spinning beside NumPy's, which is a library of its own: it doubles the time of a fit."""
    libraries = [each for each in ThreadpoolController().lib_controllers if "scipy.libs" in each.filepath]
    threads = [each.num_threads for each in libraries]
    try:
        for each in libraries:
            each.set_num_threads(1)
        yield
    finally:
        for each, number in zip(libraries, threads, strict=True):
            each.set_num_threads(number)


def _cross_entropy(
    features: np.ndarray, targets: np.ndarray, weights: np.ndarray, ridge: float, scores: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the penalised loss and its gradient for weights [n_features + 1, n_labels]; the intercepts come last.

    Args:
        scores: float32 [n, n_labels] to work in.

    """
    np.matmul(features, weights[:-1], out=scores)
    scores += weights[-1]
    scores -= scores.max(axis=1, keepdims=True)
    value = -float(np.vdot(targets, scores))
    # Below, exponentials are no normal float32 any more, and multiplying such numbers takes a hundred times longer.
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
