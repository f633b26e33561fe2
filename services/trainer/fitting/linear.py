"""The linear stage: a linear classifier over n-grams that needs only the rows of its weights for the grams of a text.

The score of a text for a label is

    sum over grams of weight * idf / sqrt(sum over grams of idf^2) + intercept

where a gram counts as often as it occurs and idf is its inverse document frequency.

After fitting, `weight * idf` is quantised to int8 times a whole number for the gram, and `idf^2` to a whole multiple of
SQUARE_UNIT. The estimator itself predicts with the quantised numbers, so its exported graph answers alike. Sums of
whole numbers do not depend on their order either, so a padded batch answers exactly as single texts do.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
from scipy import sparse
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin

from services.trainer.fitting.coordinate_descent import fit_one_vs_rest
from services.trainer.fitting.ngrams import GramCounter, GramCounts, count_grams

# A gram other than a single word must occur in this many texts to be kept.
MIN_TEXTS = 2
# Keeps the graph below 25 MB: one byte for each weight, and about 40 for a gram's string and row.
MAX_GRAPH_BYTES = 23_000_000
BYTES_PER_GRAM = 40
# float32 is exact for whole numbers up to 2 ** 24: 129 grams of the very largest weight, all for one label.
LEVELS = 127
SCALE_LEVELS = 1023
SQUARE_UNIT = 2.0**-12
UNIT = np.float32(SQUARE_UNIT**0.5)
SMALLEST_NORM = 1.0
SMALLEST_WEIGHT = np.float32(1e-9)


class LinearClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """One-vs-rest linear classifier over TF-IDF of word and character n-grams of normalised texts.

    Attributes:
        words_, characters_: the vocabulary, in the order of the weights' rows.
        squares_: int64 [n_grams], idf^2 in units of SQUARE_UNIT.
        weights_: int8 [n_grams, n_labels]; `weights_ * scales_ * unit_` is weight * idf, in units of UNIT.
        scales_: float32 [n_grams], whole numbers.
        unit_: float32.
        intercepts_: float32 [n_labels].
        inverse_temperature_: see `calibrate`.

    """

    def __init__(self, inverse_regularisation: float = 1.0) -> None:
        self.inverse_regularisation = inverse_regularisation

    def fit(self, texts: Sequence[str], label_matrix: np.ndarray) -> Self:
        """Fit to normalised texts and bool [n, n_labels], true where a text carries a label."""
        return self.fit_counts(count_grams(texts), label_matrix)

    def fit_counts(self, counts: GramCounts, label_matrix: np.ndarray) -> Self:
        """Fit to texts whose grams are counted already, and to bool [n, n_labels]."""
        texts = counts.matrix.shape[0]
        frequency = np.bincount(counts.matrix.indices, minlength=counts.matrix.shape[1])
        kept = _choose_columns(counts, frequency, label_matrix.shape[1])
        words = len(counts.words)
        self.words_ = tuple(counts.words[index] for index in kept[kept < words])
        self.characters_ = tuple(counts.characters[index - words] for index in kept[kept >= words])
        idf = (np.log((1 + texts) / (1 + frequency[kept])) + 1).astype(np.float32)
        self.squares_ = np.rint(idf**2 / SQUARE_UNIT).astype(np.int64)
        matrix = counts.matrix[:, kept]
        features = (sparse.diags(1 / self._norms(matrix)) @ matrix @ sparse.diags(idf / UNIT)).tocsr()
        weights, self.intercepts_ = fit_one_vs_rest(
            features.astype(np.float32), label_matrix, self.inverse_regularisation
        )
        weights *= (idf / UNIT)[:, None]
        largest = np.maximum(np.abs(weights).max(axis=1), SMALLEST_WEIGHT)
        self.unit_ = largest.max() / np.float32(LEVELS * SCALE_LEVELS)
        self.scales_ = np.ceil(largest / (self.unit_ * LEVELS)).astype(np.float32)
        self.weights_ = np.rint(weights / (self.unit_ * self.scales_)[:, None]).astype(np.int8)
        self.inverse_temperature_ = 1.0
        self.classes_ = np.arange(label_matrix.shape[1])
        self._counter = GramCounter(self.words_, self.characters_)
        return self

    def calibrate(self, inverse_temperature: float) -> Self:
        """Set the factor by which scores are multiplied before the softmax."""
        self.inverse_temperature_ = inverse_temperature
        return self

    def decision_function(self, texts: Sequence[str]) -> np.ndarray:
        """Return scores float32 [n, n_labels], not calibrated, of normalised texts."""
        return self.scores(self._counter.count(texts))

    def scores_of(self, counts: GramCounts) -> np.ndarray:
        """Return scores float32 [n, n_labels], not calibrated, given counts of a vocabulary that contains this one."""
        words = {gram: index for index, gram in enumerate(counts.words)}
        characters = {gram: index + len(words) for index, gram in enumerate(counts.characters)}
        columns = [words[gram] for gram in self.words_] + [characters[gram] for gram in self.characters_]
        return self.scores(counts.matrix[:, columns])

    def scores(self, matrix: sparse.csr_matrix) -> np.ndarray:
        """Return scores float32 [n, n_labels], not calibrated, given counts [n, n_grams] of this vocabulary."""
        used = np.unique(matrix.indices)
        sums = matrix[:, used] @ (self.weights_[used] * self.scales_[used, None])
        return np.asarray(sums / self._norms(matrix)[:, None] * self.unit_ + self.intercepts_)

    def calibrated_scores(self, texts: Sequence[str]) -> np.ndarray:
        """Return calibrated scores float32 [n, n_labels] of normalised texts; `predict_proba` is their softmax."""
        return np.asarray(self.decision_function(texts) * np.float32(self.inverse_temperature_))

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return probabilities float32 [n, n_labels] of normalised texts; rows sum to 1."""
        return np.asarray(softmax(self.calibrated_scores(texts), axis=1))

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Return the column of the best label of each normalised text, [n]."""
        return np.asarray(self.decision_function(texts).argmax(axis=1))

    def _norms(self, matrix: sparse.csr_matrix) -> np.ndarray:
        squares = matrix.astype(np.float64) @ self.squares_
        return np.asarray(np.maximum(np.sqrt(squares.astype(np.float32)), np.float32(SMALLEST_NORM)))


def _choose_columns(counts: GramCounts, frequency: np.ndarray, labels: int) -> np.ndarray:
    """Return the columns to keep; when the graph would be too large, those of the rarest grams go first."""
    is_word = np.array([" " not in gram for gram in counts.words] + [False] * len(counts.characters))
    kept = np.flatnonzero((frequency >= MIN_TEXTS) | is_word)
    affordable = MAX_GRAPH_BYTES // (labels + BYTES_PER_GRAM)
    if len(kept) > affordable:
        most_frequent = np.argsort(-frequency[kept], kind="stable")[:affordable]
        kept = np.sort(kept[most_frequent])
    return kept
