"""Examples as the arrays that models are fitted to.

The fold of an example depends on its words alone, so it does not change as the data grows. A taxonomy's descriptors are
definitions: every model is fitted to all of them, and nothing is measured or chosen on them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from services.language.text import normalise
from services.trainer.dataset.examples import TAXONOMY, Example
from services.trainer.dataset.words import digest_of_words
from services.trainer.errors import StageFailed
from services.trainer.fitting.components import Components, find_components
from services.trainer.fitting.ngrams import GramCounts, count_grams

FOLDS = 5


class Embedder(Protocol):
    """Gives the embeddings of texts."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return float16 or float32 [n, columns] for texts as they were said."""


@dataclass(frozen=True)
class TrainingData:
    """n examples as arrays.

    Attributes:
        labels: names of the columns, sorted.
        counts: of the grams of the normalised texts.
        label_matrix: bool [n, n_labels], true where an example carries a label.
        components: of the embeddings; None without an encoder.
        folds: the fold of each example, int [n].
        measured: bool [n], false for a taxonomy's descriptors.
        on_fit: called after each fit, to report progress.

    """

    labels: tuple[str, ...]
    counts: GramCounts
    label_matrix: np.ndarray
    components: Components | None
    folds: np.ndarray
    measured: np.ndarray
    on_fit: Callable[[], None]

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Return the target distributions of some rows, float32 [n_rows, n_labels]."""
        return target_distributions(self.label_matrix[rows])


def target_distributions(label_matrix: np.ndarray) -> np.ndarray:
    """Return float32 [n, n_labels]: 1/k for each of k labels of an example, 1/n_labels for each label without any."""
    targets = label_matrix.astype(np.float32)
    targets[~targets.any(axis=1)] = 1
    targets /= targets.sum(axis=1, keepdims=True)
    return np.asarray(targets)


def fold_of(text: str) -> int:
    """Return the fold of a normalised text, by the hash of its set of words."""
    return int.from_bytes(digest_of_words(text)[4:8], "big") % FOLDS


def build_label_matrix(examples: Sequence[Example]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the labels that examples carry, sorted, and bool [n, n_labels], true where an example carries one."""
    labels = tuple(sorted({label for example in examples for label in example.labels}))
    column = {label: index for index, label in enumerate(labels)}
    label_matrix = np.zeros((len(examples), len(labels)), dtype=bool)
    for row, example in enumerate(examples):
        label_matrix[row, [column[label] for label in example.labels]] = True
    return labels, label_matrix


def build_training_data(
    examples: Sequence[Example], embeddings: Embedder | None, on_fit: Callable[[], None]
) -> TrainingData:
    """Return examples as arrays. Raises StageFailed: fewer than two labels have examples."""
    labels, label_matrix = build_label_matrix(examples)
    if len(labels) < 2:
        raise StageFailed(f"the examples carry {len(labels)} different labels; at least 2 are needed")
    texts = [normalise(example.text) for example in examples]
    components = None
    if embeddings is not None:
        components = find_components(embeddings.embed([example.text for example in examples]))
    folds = np.array([fold_of(text) for text in texts])
    measured = np.array([example.source != TAXONOMY for example in examples])
    return TrainingData(labels, count_grams(texts), label_matrix, components, folds, measured, on_fit)
