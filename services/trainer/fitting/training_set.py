"""Examples as the arrays that models are fitted to.

The fold of an example depends on its words alone, so it stays as data grows. A taxonomy's descriptors are definitions,
never evidence: every model is fitted to all of them, and no choice is made by them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from services.language.text import normalise
from services.trainer.dataset.examples import TAXONOMY, Example
from services.trainer.dataset.words import digest_of_words
from services.trainer.errors import StageFailed
from services.trainer.fitting.head import Components, principal_components
from services.trainer.fitting.ngrams import GramCounts, count_grams

FOLDS = 5


class Embedder(Protocol):
    """Gives the embeddings of texts."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return [n, columns] for texts as they were said."""


@dataclass(frozen=True)
class TrainingData:
    """Examples as arrays; `components` only with an encoder.

    `fitted` is called after each fit, for whoever shows progress.
    """

    labels: tuple[str, ...]
    counts: GramCounts
    belongs: np.ndarray
    components: Components | None
    folds: np.ndarray
    evidence: np.ndarray
    fitted: Callable[[], None]

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Return distributions float32 [n_rows, n_labels]; without a label, all labels alike."""
        carried = self.belongs[rows].astype(np.float32)
        carried[~carried.any(axis=1)] = 1
        carried /= carried.sum(axis=1, keepdims=True)
        return np.asarray(carried)


def fold_of(text: str) -> int:
    """Return the fold of a normalised text, by its set of words."""
    return int.from_bytes(digest_of_words(text)[4:8], "big") % FOLDS


def label_columns(examples: Sequence[Example]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the labels that examples carry, sorted, and bool [n, n_labels], true where an example carries one."""
    labels = tuple(sorted({label for example in examples for label in example.labels}))
    column = {label: index for index, label in enumerate(labels)}
    belongs = np.zeros((len(examples), len(labels)), dtype=bool)
    for row, example in enumerate(examples):
        belongs[row, [column[label] for label in example.labels]] = True
    return labels, belongs


def training_data(examples: Sequence[Example], embeddings: Embedder | None, fitted: Callable[[], None]) -> TrainingData:
    """Return examples as arrays. Raises StageFailed: fewer than two labels have examples."""
    labels, belongs = label_columns(examples)
    if len(labels) < 2:
        raise StageFailed(f"the examples carry {len(labels)} different labels; at least 2 are needed")
    texts = [normalise(example.text) for example in examples]
    components = None
    if embeddings is not None:
        components = principal_components(embeddings.embed([example.text for example in examples]))
    folds = np.array([fold_of(text) for text in texts])
    evidence = np.array([example.source != TAXONOMY for example in examples])
    return TrainingData(labels, count_grams(texts), belongs, components, folds, evidence, fitted)
